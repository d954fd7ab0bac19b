"""Is the dense model any good on the data? At chance, whatever is measured after it means nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.core.errors import DataError
from compress.tasks.answers import outputs_of

if TYPE_CHECKING:
    from compress.core.progress import Progress
    from compress.data.batches import Encoded
    from compress.data.columns import Columns
    from compress.inputs.checkpoint import Checkpoint

# Rows that are judged at most: enough to tell a fine-tuned model from chance, few enough to take seconds.
MOST_ROWS = 256


def check_standing(
    checkpoint: Checkpoint, examples: Encoded, columns: Columns, split: str, progress: Progress, *, allow_chance: bool
) -> None:
    """Refuses a dense model whose metric is at chance, and warns of a weak one.

    Args:
        checkpoint: the dense model.
        examples: labelled examples, with ``targets``.
        columns: where they come from, for the message.
        split: name of the data for the message.
        progress: told what is weak.
        allow_chance: whether a metric at chance is only said (``--allow-chance``).

    Raises:
        DataError: the metric is at chance.
    """
    task = checkpoint.task
    outputs = outputs_of(checkpoint.model, task, examples)
    if not np.isfinite(outputs).all():
        # Calibration names the layer whose activations overflow.
        return
    standing = task.standing(outputs, examples)
    if standing is None or not standing.weak:
        return
    said = f"the dense model on the {split}: {standing.said(task.evaluate(outputs, examples).name)}"
    used = " and ".join(f"'{name}'" for name in columns.text) + f" with labels '{columns.label}'"
    reasons = (
        f"labels are read wrongly (id2label in config.json; names or numbers), a column is the wrong one ({used}; "
        "--text-column, --label-column), the tokenizer is another model's, --seq-len cuts the texts, or the checkpoint "
        "was not fine-tuned on this task"
    )
    if standing.at_chance and not allow_chance:
        raise DataError(
            f"{said}. It is not above chance, so the metric would mean nothing. Usual reasons: {reasons}. Correct "
            "that, or give --allow-chance to go on all the same"
        )
    how = "not above chance" if standing.at_chance else "far below a fine-tuned model"
    progress.info(f"warning: {said}, {how}. Usual reasons: {reasons}")
