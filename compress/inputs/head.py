"""Checks that what config.json says of the classes is what the head has: id2label decides what labels mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.core.errors import ModelError
from compress.tasks import Task

# The last layer of a head, in the names of all supported families.
_LAST_LAYER = re.compile(r"(^|\.)(((cls|distillation)_)?classifier(\.out_proj)?|qa_outputs)\.weight")


def check_head(config: Any, task: Task, directory: Path, files: Iterable[Path], model: str) -> None:
    """Checks that the configuration numbers the outputs of the head from 0, without a gap.

    Args:
        config: the checkpoint's configuration.
        task: its task; only tasks with a head are checked.
        directory: the checkpoint's.
        files: the weights.
        model: name of the checkpoint for messages.

    Raises:
        ModelError: the numbers of id2label are not those of the head's outputs, or label2id contradicts it.
    """
    if not any(suffix.startswith("For") for suffix in task.head_suffixes):
        return
    width = _width(files)
    if width is None:
        # The head is missing, which is said when the weights are loaded.
        width = config.num_labels
    numbers = sorted(int(number) for number in config.id2label or {})
    fits = numbers == list(range(width)) if task.has_classes else len(numbers) == width
    if not fits:
        outputs = f"{width} outputs, 0 to {width - 1}" if width != 1 else "1 output, 0"
        raise ModelError(
            f"model '{model}': {_said(numbers, directory)}, but its head has {outputs}: write id2label in config.json "
            "with exactly these numbers as keys, in the order of the outputs that it was trained with"
        )
    if task.has_classes:
        _check_label2id(config, model)


def _said(numbers: list[int], directory: Path) -> str:
    if not json.loads((directory / "config.json").read_text(encoding="utf-8")).get("id2label"):
        return f"config.json has no id2label, which means {len(numbers)} class{'es' * (len(numbers) != 1)}"
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"id2label in config.json numbers its classes {shown}"


def _check_label2id(config: Any, model: str) -> None:
    """Raises ModelError if a class has one number in id2label and another one in label2id."""
    given = {str(name): number for name, number in (getattr(config, "label2id", None) or {}).items()}
    for number, name in (config.id2label or {}).items():
        other = given.get(str(name), number)
        others = [n for n, same in config.id2label.items() if str(same) == str(name)]
        if str(other) not in map(str, others):
            raise ModelError(
                f"model '{model}': class '{name}' is {number} in id2label and {other} in label2id of config.json; "
                "correct the one that is wrong"
            )


def _width(files: Iterable[Path]) -> int | None:
    """Returns the number of outputs of the head; None where the weights have no head."""
    from safetensors import safe_open

    for file in files:
        with safe_open(str(file), framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is not a dictionary
                if _LAST_LAYER.search(name) and len(shape := weights.get_slice(name).get_shape()) == 2:
                    return int(shape[0])
    return None
