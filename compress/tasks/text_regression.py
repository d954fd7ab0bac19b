"""Task text-regression: predicts a number for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.data.batches import Encoded
from compress.data.columns import Columns, choose_columns, read_texts
from compress.data.labels import read_numbers
from compress.data.names import SCORE_NAMES
from compress.tasks.base import Chosen, Task, require_labels, spearman
from compress.tasks.losses import check_finite, noise_like
from compress.tasks.standing import Standing, standing_of_ranks
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor


@dataclass(frozen=True)
class TextRegression(Task):
    """A number for a text or a pair of texts.

    A prediction is taken as the mean of a normal distribution with the standard deviation ``scale``. Loss and
    divergence are half the squared error in that unit. Up to a constant these are the negative log-likelihood and the
    KL divergence.

    Attributes:
        scale: standard deviation of the labels; 1 without labels.
    """

    scale: float = 1.0

    name = "text-regression"
    metric_name = "spearman"
    auto_class_name = "AutoModelForSequenceClassification"
    head_suffixes = ("ForSequenceClassification",)

    def check_config(self, config: Any) -> None:
        kind, outputs = getattr(config, "problem_type", None), config.num_labels
        if kind == "regression" and outputs != 1:
            raise ModelError(
                f"this checkpoint's head gives {outputs} numbers per text (problem_type regression), and {self.name} "
                "needs exactly one; if the outputs are classes, remove problem_type from config.json: then it is "
                "text-classification"
            )
        if kind not in (None, "regression") or outputs != 1:
            raise ModelError(
                f"this checkpoint's head gives {outputs} classes{f' (problem_type {kind})' if kind else ''}, and "
                f"{self.name} needs exactly one number"
            )

    def is_meant(self, config: Any) -> bool:
        return getattr(config, "problem_type", None) == "regression"

    def of_calibration(self, data: Encoded) -> TextRegression:
        spread = 0.0 if data.labels is None or not len(data) else float(np.std(data.labels))
        return replace(self, scale=spread or 1.0)

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        return choose_columns(dataset, text_column, label_column, SCORE_NAMES)

    def new_head(self, dataset: Dataset, columns: Columns) -> list[str]:
        return [require_labels(columns)]

    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        chosen = dict(columns)
        for name, own in columns.items():
            if own.label is not None and read_numbers(splits[name], own.label) is None:
                note = f"column '{own.label}'{f' of the {name}' if name else ''} has no numbers: label-free"
                chosen[name] = replace(own, label=None, guesses=(*own.guesses, note))
        return Chosen(chosen)

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        labels = None if columns.label is None else read_numbers(dataset, columns.label)
        texts = [read_texts(dataset, name) for name in columns.text]
        return encode_texts(texts, tokenizer, seq_len, config, labels)

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return cast("Tensor", model(**inputs).logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * ((logits.squeeze(-1) - labels.to(logits.dtype)) / self.scale).square()

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        return self.loss(logits, reference.squeeze(-1))

    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        check_finite(reference)
        means = reference.squeeze(-1)
        return means + self.scale * noise_like(means, generator)

    @property
    def combine(self) -> Callable[[NDArray[np.float64]], float]:
        return spearman

    def predictions(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(logits, dtype=np.float64)[..., 0]

    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        return np.stack([self.predictions(logits), np.asarray(labels, dtype=np.float64)], axis=1)

    def standing(self, logits: NDArray[Any], data: Encoded) -> Standing | None:
        if data.labels is None:
            return None
        return standing_of_ranks(self.scores(logits, data.labels))
