"""Task text-classification: predicts one of several classes for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError, ModelError
from compress.data.batches import Encoded
from compress.data.columns import Columns, read_column, read_texts
from compress.data.labels import (
    LabelColumn,
    label_column,
    label_text,
    read_labels,
    reading_note,
)
from compress.data.labels_in_texts import refuse_classes_inside
from compress.tasks.base import Chosen, Task, require_labels
from compress.tasks.losses import categorical_direction, categorical_divergence, draw_categories
from compress.tasks.measured import Measured, Slice
from compress.tasks.standing import Standing, standing_of_classes
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor


@dataclass(frozen=True)
class TextClassification(Task):
    """One of several classes for a text or a pair of texts."""

    name = "text-classification"
    metric_name = "accuracy"
    auto_class_name = "AutoModelForSequenceClassification"
    head_suffixes: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    has_classes = True

    def check_config(self, config: Any) -> None:
        kind = getattr(config, "problem_type", None)
        if kind == "multi_label_classification":
            raise ModelError(
                "this checkpoint gives several labels to one example (problem_type multi_label_classification), and "
                f"{self.name} is for exactly one; fine-tune it with one label per example"
            )
        if kind == "regression" and config.num_labels > 1:
            raise ModelError(
                f"this checkpoint's {config.num_labels} outputs are numbers (problem_type regression), and {self.name} "
                "is for classes; if they are classes, remove problem_type from config.json"
            )
        if config.num_labels < 2:
            outputs = f"{config.num_labels} number{'s' * (config.num_labels != 1)}"
            raise ModelError(
                f"this checkpoint's head gives {outputs} per example (regression), and {self.name} needs at least two "
                "classes; fine-tune it on classes"
            )

    def new_head(self, dataset: Dataset, columns: Columns) -> list[str]:
        values = read_column(dataset, require_labels(columns))
        return sorted({label_text(value) for value in values} - {""})

    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        found = {}
        for name, own in columns.items():
            if own.label is not None:
                found[name] = label_column(splits[name], own.label, config, name)
            elif len(own.text) == 1:
                refuse_classes_inside(read_texts(splits[name], own.text[0]), own.text[0], config, name)
        return settled(columns, found, "labels", config)

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        labels = read_label_ids(dataset, columns.label, columns.label_ids) if columns.label is not None else None
        texts = [read_texts(dataset, name) for name in columns.text]
        return encode_texts(texts, tokenizer, seq_len, config, labels)

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return cast("Tensor", model(**inputs).logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, reduction="none")

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        return categorical_divergence(logits, reference)

    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_categories(reference, generator)

    def fisher_direction(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return categorical_direction(outputs, generator)

    def predictions(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        return np.asarray(logits).argmax(-1).astype(np.int64)

    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        return (self.predictions(logits) == np.asarray(labels)).astype(np.float64)

    def standing(self, logits: NDArray[Any], data: Encoded) -> Standing | None:
        if data.labels is None:
            return None
        return standing_of_classes(self.predictions(logits), np.asarray(data.labels), logits.shape[-1])

    def slices(
        self,
        logits: NDArray[Any],
        data: Encoded,
        names: Mapping[int, str],
        reference: NDArray[Any] | None = None,
    ) -> list[Slice]:
        """Computes the recall of each class; without labels, the fidelity to the dense model's predictions."""
        if data.labels is not None:
            truth, name = np.asarray(data.labels), "recall"
        elif reference is not None:
            truth, name = self.predictions(reference), "fidelity"
        else:
            raise ValueError("without labels the dense model's outputs are needed")
        right = self.scores(logits, truth)
        return [
            Slice(names.get(number, str(number)), int((truth == number).sum()), Measured(name, right[truth == number]))
            for number in np.unique(truth).tolist()
        ]


def settled(columns: Mapping[str, Columns], found: Mapping[str, LabelColumn | None], what: str, config: Any) -> Chosen:
    """Returns columns with the model's number for each label; the decision is one for all splits.

    Args:
        columns: by name of the split.
        found: the labels of each split that has a column of labels; None where that is empty.
        what: what the column holds, labels or tags.
        config: the checkpoint's configuration.

    Raises:
        DataError: as for ``read_labels``.
    """
    labelled = {name: labels for name, labels in found.items() if labels is not None}
    reading = read_labels(list(labelled.values()), config)
    numbers = dict(zip(labelled, reading.numbers, strict=True))
    chosen = {}
    for name, own in columns.items():
        if name in numbers:
            chosen[name] = replace(own, label_ids=numbers[name], guesses=(*own.guesses, *reading.notes))
        elif name in found:
            note = f"column '{own.label}'{f' of the {name}' if name else ''} has no {what}: label-free"
            chosen[name] = replace(own, label=None, guesses=(*own.guesses, note))
        else:
            chosen[name] = own
    return Chosen(chosen, reading_note(reading, config) if numbers else None)


def read_label_ids(dataset: Dataset, column: str, numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """Returns the labels of a column as the model's numbers, int64 [rows].

    Args:
        dataset: rows.
        column: the column of labels.
        numbers: the model's number for each label, from ``Columns.label_ids``.

    Raises:
        DataError: a label has no number.
    """
    values = [label_text(value) for value in read_column(dataset, column)]
    unknown = next((value for value in values if value not in numbers), None)
    if unknown is not None:
        raise DataError(
            f"label {unknown!r} in column '{column}' is none of those found when the columns were chosen: "
            f"{', '.join(list(numbers)[:8])}; choose the columns on the same data"
        )
    return np.array([numbers[value] for value in values], dtype=np.int64)
