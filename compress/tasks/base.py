"""What every task has: the class that the stages see, and what a metric is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ConfigError, DataError
from compress.data.batches import Encoded
from compress.data.columns import Columns, choose_columns
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from datasets import Dataset
    from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """A metric with what it is made of, so that it can be resampled.

    Attributes:
        name: of the metric.
        scores: one row per unit (a text, a pair, a question): [units], or [units, parts].
        combine: from such rows to the metric; None is their mean.
        also: further metrics of the same units.
    """

    name: str
    scores: NDArray[np.float64]
    combine: Callable[[NDArray[np.float64]], float] | None = None
    also: tuple[Measured, ...] = ()

    @property
    def value(self) -> float:
        """The metric over all units; NaN without any."""
        if not len(self.scores):
            return float("nan")
        return float(self.scores.mean()) if self.combine is None else self.combine(self.scores)


@dataclass(frozen=True)
class Slice:
    """The metric on a part of the evaluation data: one class, one type of span.

    Attributes:
        name: of the part.
        count: how many there are of it (texts, spans, questions).
        measured: rows as in the whole, in the same order for every model.
    """

    name: str
    count: int
    measured: Measured


class Task(ABC):
    """One kind of head: its data, loss and metric.

    Attributes:
        name: as on the command line.
        metric_name: of ``metric``.
        auto_class_name: the class of transformers that loads a checkpoint with this head.
        head_suffixes: endings of the class names in a checkpoint's ``architectures`` that have this head.
        output_names: of the exported file; what several of them hold is stacked along a last axis in ``forward``.
        unread_weights: beginnings of the names of weights that this task does not read: they may be missing.
        processor: what turns rows into inputs: the checkpoint's ``tokenizer``, or its processor of images (``image``).
        fill: value of outputs at positions that an example does not have, where outputs are as long as the batch.
        sliced_by: what ``slices`` are.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    auto_class_name: ClassVar[str]
    head_suffixes: ClassVar[tuple[str, ...]]
    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    unread_weights: ClassVar[tuple[str, ...]] = ()
    fill: ClassVar[float] = 0.0
    sliced_by: ClassVar[str] = "class"
    processor: ClassVar[Literal["tokenizer", "image"]] = "tokenizer"

    @abstractmethod
    def check_config(self, config: Any) -> None:
        """Raise ModelError when a checkpoint's configuration contradicts this task."""

    def of_checkpoint(self, directory: Path) -> Task:
        """This task as a checkpoint's other files refine it."""
        return self

    def of_calibration(self, data: Encoded) -> Task:
        """This task as calibration data refine it: where outputs have a scale, its unit comes from the labels."""
        return self

    def giving(self, embedding: str) -> Task:
        """This task with another form of embeddings in the exported file.

        Raises:
            ConfigError: the task has no embeddings.
        """
        raise ConfigError(f"--embedding {embedding} is for sentence-similarity; this task is {self.name}")

    def settings(self) -> dict[str, Any]:
        """What the manifest says about the exported file beside the task's name."""
        return {"outputs": list(self.file_names)}

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        """Choose columns by their names; labels are not looked at. Arguments and errors as for ``columns``."""
        return choose_columns(dataset, text_column, label_column)

    def new_head(self, dataset: Dataset, columns: Columns) -> list[str]:
        """Names of the outputs of a head that is to be trained on data, in their order.

        Raises:
            ConfigError: the task has no head to train.
            DataError: the data has no labels.
        """
        raise ConfigError(f"{self.name} has no head to train: take an encoder as it is")

    @abstractmethod
    def columns(
        self, dataset: Dataset, config: Any, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        """Choose columns and check all labels against the model. Reads the whole label column, tokenises nothing.

        Args:
            dataset: all rows: give it before sampling, so that a wrong label in any row is found.
            config: the checkpoint's configuration.
            text_column: a name, or two separated by a comma for pairs; None guesses.
            label_column: None guesses; without any usual name the result is label-free.

        Raises:
            DataError: columns missing or not to be guessed, labels the model does not know or only partly there.
        """

    @abstractmethod
    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        """Tokenise rows, cut to ``seq_len`` tokens, and turn labels into numbers.

        Raises:
            DataError: no rows, a column is missing or holds no text, an unknown label.
        """

    def no_examples(self, tokenizer: Any, config: Any) -> Encoded:
        """No examples, but the inputs that examples would have."""
        return encode_texts([["a"]], tokenizer, 8, config).select([])

    def made_up(self, config: Any, names: tuple[str, ...], length: int, count: int) -> Encoded:
        """So many examples of a length that mean nothing, with inputs of these names: for timing without data."""
        ids = np.random.default_rng(0).integers(0, config.vocab_size, size=(count, length))
        rows = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return Encoded(
            features={name: list(rows.get(name, np.zeros_like(ids))) for name in names},
            labels=None,
            padding=dict.fromkeys(names, 0),
        )

    @abstractmethod
    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """The outputs that loss, divergence and metric take; independent of how far a batch is padded."""

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the exported file's outputs."""
        return self.output_names

    def file_outputs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What the exported file gives, in the order of ``file_names``."""
        outputs = self.forward(model, inputs)
        return (outputs,) if len(self.output_names) == 1 else outputs.unbind(-1)

    def read_file(self, answer: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """``forward``'s outputs from what the file answers (several outputs stacked along a last axis)."""
        return answer

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss of each example, [batch]."""

    @abstractmethod
    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """How far outputs are from the dense model's, for each example, [batch]; 0 where equal."""

    @abstractmethod
    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Labels drawn from the model's own predictive distribution: those of the true Fisher information."""

    def fisher_direction(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A random direction for each example, with the Fisher information of its outputs as covariance [like outputs].

        The gradient of the loss for a drawn label is one. Where predictions are confident nearly all such gradients
        vanish, and a few surprising labels make up the rest: tasks with categories have a better one.
        """
        import torch

        with torch.enable_grad():
            free = outputs.detach().requires_grad_()
            loss = self.loss(free, self.draw_labels(outputs, generator)).sum()
            return torch.autograd.grad(loss, free)[0]

    @abstractmethod
    def predictions(self, logits: NDArray[Any]) -> NDArray[Any]:
        """The labels that outputs stand for; a dense model's serve as labels where there are none."""

    @abstractmethod
    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """What the metric is made of, a row per example: [n], higher is better, or [n, parts]."""

    @property
    def combine(self) -> Callable[[NDArray[np.float64]], float] | None:
        """From ``scores`` of any examples to the metric; None is their mean."""
        return None

    def metric(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """The task's metric over all examples."""
        return Measured(self.metric_name, self.scores(logits, labels), self.combine).value

    def evaluate(self, logits: NDArray[Any], data: Encoded, reference: NDArray[Any] | None = None) -> Measured:
        """The metric on evaluation data.

        Without labels it is fidelity: the same, with the dense model's predictions for labels.

        Args:
            logits: outputs for all examples, in their order.
            data: what they are outputs for.
            reference: the dense model's outputs; needed where there are no labels.
        """
        if data.labels is not None:
            return Measured(self.metric_name, self.scores(logits, data.labels), self.combine)
        if reference is None:
            raise ValueError("without labels the dense model's outputs are needed")
        return Measured("fidelity", self.scores(logits, self.predictions(reference)), self.combine)

    def slices(
        self,
        logits: NDArray[Any],
        data: Encoded,
        names: Mapping[int, str],
        reference: NDArray[Any] | None = None,
    ) -> list[Slice]:
        """The metric on parts of the evaluation data: a mean may hide that one class has been forgotten.

        Args:
            logits, data, reference: as for ``evaluate``.
            names: of the model's outputs, by number.

        Returns:
            The same parts in the same order whatever the outputs; empty where the task has no natural ones.
        """
        return []


def outputs_of(model: torch.nn.Module, task: Task, data: Encoded, batch_size: int = 32) -> NDArray[Any]:
    """A PyTorch model's outputs for all examples, [n, ...] in their order; empty without examples."""
    import torch

    outputs: NDArray[Any] = np.empty((0, 0))
    with torch.no_grad():
        for batch in data.batches(batch_size):
            answer = task.forward(model, batch.inputs).numpy()
            if not len(outputs):
                # The longest batch comes first; outputs may be as long as their batch.
                outputs = np.full((len(data), *answer.shape[1:]), task.fill, dtype=answer.dtype)
            place: Any = (batch.indices, *(slice(size) for size in answer.shape[1:]))
            outputs[place] = answer
    return outputs


def labels_to_learn(columns: Columns) -> str:
    """The column of the labels.

    Raises:
        DataError: there is none.
    """
    if columns.label is None:
        raise DataError("the data has no labels to train on; name their column with --label-column")
    return columns.label


def check_finite(reference: Tensor) -> None:
    """Raise DataError where a model's outputs are not numbers."""
    import torch

    if not bool(torch.isfinite(reference).all()):
        raise DataError(
            "the model's outputs on the calibration data are not finite: its activations overflow; check the "
            "checkpoint in float32, and the data for texts unlike those it was trained on"
        )


def spearman(pairs: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of the two columns of [n, 2]; 0 where one of them is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(column) for column in pairs.T)
    spread = float(first.std() * second.std())
    covariance = float(((first - first.mean()) * (second - second.mean())).mean())
    return covariance / spread if spread > 0 else 0.0


def noise_like(reference: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise in the shape of a tensor."""
    import torch

    return torch.randn(reference.shape, generator=generator, dtype=reference.dtype)


def categorical_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL divergence from the reference's distribution, over the last axis; the axes before it stay."""
    from torch.nn.functional import kl_div, log_softmax

    pointwise = kl_div(log_softmax(logits, -1), log_softmax(reference, -1), reduction="none", log_target=True)
    return pointwise.sum(-1)


def draw_categories(reference: Tensor, generator: torch.Generator | None) -> Tensor:
    """One category for each distribution over the last axis; the axes before it stay.

    Raises:
        DataError: the logits are not finite.
    """
    import torch

    check_finite(reference)
    flat = reference.reshape(-1, reference.shape[-1]).softmax(-1)
    return torch.multinomial(flat, 1, generator=generator).reshape(reference.shape[:-1])


def categorical_direction(reference: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random direction with covariance diag(p) - p pᵀ for each distribution over the last axis, [like reference].

    Every category counts with its own probability, a random sign each: Σ_c ±√p_c (e_c - p). The gradient for one drawn
    label has the same covariance, but where one category is nearly certain it is nearly always 0.

    Raises:
        DataError: the logits are not finite.
    """
    import torch

    check_finite(reference)
    probabilities = reference.softmax(-1)
    signs = torch.randint(0, 2, reference.shape, generator=generator, dtype=reference.dtype) * 2 - 1
    parts = signs * probabilities.sqrt()
    return parts - probabilities * parts.sum(-1, keepdim=True)
