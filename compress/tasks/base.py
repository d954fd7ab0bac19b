"""The base class of all tasks, the values of a metric, and functions that several tasks share."""

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
from compress.data.splits import agree_on_columns
from compress.tasks.measured import Measured, Slice
from compress.tasks.standing import Standing
from compress.tasks.standing import spearman as spearman
from compress.tasks.tokenization import encode_texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor


@dataclass(frozen=True)
class Chosen:
    """The columns of all splits of a run, and what their labels mean.

    Attributes:
        columns: by name of the split.
        reading: how labels are read, as a sentence to print; None where there is nothing to say.
    """

    columns: Mapping[str, Columns]
    reading: str | None = None


class Task(ABC):
    """One kind of head: its data, loss and metric.

    Attributes:
        name: the task's name on the command line.
        metric_name: the name of ``metric``.
        auto_class_name: the class of transformers that loads a checkpoint with this head.
        head_suffixes: a checkpoint has this head if a class name in its ``architectures`` ends in one of these.
        output_names: outputs of the exported file; ``forward`` stacks several outputs along a last axis.
        unread_weights: prefixes of the names of weights that this task does not use; such weights may be missing.
        reads_words: whether rows are words with a tag each, so that files with a word per line are read as such.
        processor: ``tokenizer`` or ``image``: which processor of the checkpoint turns rows into inputs.
        fill: value of outputs at padding, where outputs are as long as the batch.
        sliced_by: what a part in ``slices`` is, such as a class.
        one_choice: whether all splits of a run must use the same columns.
        has_classes: whether the outputs are classes, named by the configuration's ``id2label``.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    auto_class_name: ClassVar[str]
    head_suffixes: ClassVar[tuple[str, ...]]
    output_names: ClassVar[tuple[str, ...]] = ("logits",)
    unread_weights: ClassVar[tuple[str, ...]] = ()
    fill: ClassVar[float] = 0.0
    sliced_by: ClassVar[str] = "class"
    reads_words: ClassVar[bool] = False
    processor: ClassVar[Literal["tokenizer", "image"]] = "tokenizer"
    one_choice: ClassVar[bool] = True
    has_classes: ClassVar[bool] = False

    @abstractmethod
    def check_config(self, config: Any) -> None:
        """Checks that a checkpoint's configuration fits this task.

        Raises:
            ModelError: it does not.
        """

    def is_meant(self, config: Any) -> bool:
        """Returns whether a configuration that no task fits was meant for this one: its refusal is the one to give."""
        return False

    def of_calibration(self, data: Encoded) -> Task:
        """Returns this task with settings from calibration data: the scale of a regression comes from its labels."""
        return self

    def giving(self, embedding: str) -> Task:
        """Returns this task with another form of embeddings in the exported file.

        Args:
            embedding: ``normalized``, ``pooled`` or ``tokens``.

        Raises:
            ConfigError: the task has no embeddings.
        """
        raise ConfigError(f"--embedding {embedding} is for sentence-similarity; this task is {self.name}")

    def settings(self) -> dict[str, Any]:
        """Returns the settings that the manifest records beside the task's name."""
        return {"outputs": list(self.file_names)}

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        """Chooses columns by their names; values are not read.

        Args:
            dataset: rows.
            text_column: a name, or two separated by a comma for pairs; None guesses.
            label_column: a name; None guesses. Without a usual name the result has no label.

        Raises:
            DataError: a column is missing, or cannot be guessed.
        """
        return choose_columns(dataset, text_column, label_column)

    def new_head(self, dataset: Dataset, columns: Columns) -> list[str]:
        """Returns the names of the outputs of a new head, in order, so that it can be trained on data.

        Args:
            dataset: rows to train on.
            columns: from ``find_columns``.

        Raises:
            ConfigError: the task has no head to train.
            DataError: the data has no labels.
        """
        raise ConfigError(f"{self.name} has no head to train: take an encoder as it is")

    def columns(
        self, dataset: Dataset, config: Any, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        """Chooses columns and checks all labels of a lone split, as ``columns_of`` does.

        Args:
            dataset: all rows, before sampling, so that a wrong label in any row is found.
            config: the checkpoint's configuration.
            text_column: a name, or two separated by a comma for pairs; None guesses.
            label_column: a name; None guesses. Without a usual name the result has no label.

        Raises:
            DataError: as for ``columns_of``.
        """
        return self.columns_of({"": dataset}, config, text_column, label_column).columns[""]

    def columns_of(
        self,
        splits: Mapping[str, Dataset],
        config: Any,
        text_column: str | None = None,
        label_column: str | None = None,
    ) -> Chosen:
        """Chooses columns and decides what labels mean, once for all splits of a run.

        Reads the whole label columns and tokenises nothing.

        Args:
            splits: all rows by name of the split, before sampling, so that a wrong label in any row is found.
            config: the checkpoint's configuration.
            text_column: a name, or two separated by a comma for pairs; None guesses.
            label_column: a name; None guesses. Without a usual name the result has no label.

        Raises:
            DataError: a column is missing or cannot be guessed, the splits call for different columns, the model does
                not know a label, only some rows have labels, or labels can be read in two ways.
        """
        chosen: dict[str, Columns] = {}
        for name, rows in splits.items():
            try:
                chosen[name] = self.find_columns(rows, text_column, label_column)
            except DataError as error:
                raise DataError(f"{name}: {error}" if name else str(error)) from None
        if len(splits) > 1 and self.one_choice:
            chosen = agree_on_columns(splits, chosen)
        return self.settle_labels(splits, chosen, config)

    @abstractmethod
    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        """Checks all labels of all splits against the model and decides what they mean.

        Args:
            splits: all rows by name of the split.
            columns: the columns of each split; empty columns of labels are left out in the result.
            config: the checkpoint's configuration.

        Raises:
            DataError: the model does not know a label, only some rows have labels, or labels can be read in two ways.
        """

    @abstractmethod
    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        """Tokenises rows, cut to ``seq_len`` tokens, and maps labels to the model's numbers.

        Args:
            dataset: rows.
            tokenizer: the checkpoint's tokenizer, or its image processor.
            columns: of this split, from ``columns_of``.
            seq_len: tokens per example at most, special tokens included; images ignore it.
            config: the checkpoint's configuration.

        Returns:
            The examples; one row may give several (pairs, long contexts).

        Raises:
            DataError: there are no rows, a column is missing or does not hold text, or a label is unknown.
        """

    def no_examples(self, tokenizer: Any, config: Any) -> Encoded:
        """Returns zero examples that have the model's inputs.

        Args:
            tokenizer: the checkpoint's tokenizer, or its image processor.
            config: the checkpoint's configuration.
        """
        return encode_texts([["a"]], tokenizer, 8, config).select([])

    def made_up(self, config: Any, names: tuple[str, ...], length: int, count: int) -> Encoded:
        """Returns random examples, for timing without data.

        Args:
            config: the checkpoint's configuration.
            names: inputs of the model.
            length: tokens per example; images ignore it.
            count: number of examples.
        """
        ids = np.random.default_rng(0).integers(0, config.vocab_size, size=(count, length))
        rows = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return Encoded(
            features={name: list(rows.get(name, np.zeros_like(ids))) for name in names},
            labels=None,
            padding=dict.fromkeys(names, 0),
        )

    @abstractmethod
    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Runs the model; the outputs do not depend on how far a batch is padded.

        Args:
            model: with this task's head.
            inputs: int64 [batch, sequence], or float32 [batch, channels, height, width], by name.

        Returns:
            The outputs that ``loss``, ``divergence`` and ``predictions`` take, [batch, ...].
        """

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the exported file's outputs."""
        return self.output_names

    def file_outputs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Runs the model as the exported file does.

        Args:
            model: with this task's head.
            inputs: as for ``forward``.

        Returns:
            One tensor per name in ``file_names``, in that order.
        """
        outputs = self.forward(model, inputs)
        return (outputs,) if len(self.output_names) == 1 else outputs.unbind(-1)

    def read_file(self, answer: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Converts the exported file's outputs to those of ``forward``.

        Args:
            answer: outputs of the file, several of them stacked along a last axis.
            inputs: the file's inputs by name.
        """
        return answer

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the task's loss of each example, [batch].

        Args:
            logits: outputs of ``forward``, [batch, ...].
            labels: [batch] or [batch, ...], as in ``Encoded.labels``.
        """

    @abstractmethod
    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Returns the divergence of each example's outputs from the dense model's, [batch]; 0 where they are equal.

        Args:
            logits: outputs of ``forward``, [batch, ...].
            reference: the dense model's outputs, of the same shape.
        """

    @abstractmethod
    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws labels from the model's own predictive distribution, as the true Fisher information needs them.

        Args:
            reference: outputs of ``forward``, [batch, ...].
            generator: source of randomness; None takes torch's global one.
        """

    def fisher_direction(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws a random direction per example whose covariance is the Fisher information of the outputs.

        The gradient of the loss for a drawn label is such a direction. Where predictions are confident, nearly all
        such gradients vanish and a few unlikely labels make up the rest. Tasks with categories therefore override
        this with ``categorical_direction``.

        Args:
            outputs: outputs of ``forward``, [batch, ...].
            generator: source of randomness; None takes torch's global one.

        Returns:
            The directions, in the shape of ``outputs``.
        """
        import torch

        with torch.enable_grad():
            free = outputs.detach().requires_grad_()
            loss = self.loss(free, self.draw_labels(outputs, generator)).sum()
            return torch.autograd.grad(loss, free)[0]

    @abstractmethod
    def predictions(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Returns the predicted labels of outputs. Those of the dense model replace missing labels."""

    def standing(self, logits: NDArray[Any], data: Encoded) -> Standing | None:
        """Compares a model's metric with what answers reach that ignore the input.

        Args:
            logits: outputs of ``forward`` for all examples, [n, ...], in the order of ``data``.
            data: the examples, with ``targets``.

        Returns:
            The comparison; None without labels, or where nothing can be told from them.
        """
        return None

    @abstractmethod
    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the scores that the metric is computed from: [n], higher is better, or [n, parts].

        Args:
            logits: outputs of ``forward`` for all examples, [n, ...].
            labels: [n] or [n, ...].
        """

    @property
    def combine(self) -> Callable[[NDArray[np.float64]], float] | None:
        """Computes the metric from ``scores`` of any examples; None takes their mean."""
        return None

    def metric(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """Returns the task's metric over all examples.

        Args:
            logits: outputs of ``forward`` for all examples, [n, ...].
            labels: [n] or [n, ...].
        """
        return Measured(self.metric_name, self.scores(logits, labels), self.combine).value

    def evaluate(self, logits: NDArray[Any], data: Encoded, reference: NDArray[Any] | None = None) -> Measured:
        """Computes the metric on evaluation data.

        Without labels it is fidelity: the same metric, with the dense model's predictions as labels.

        Args:
            logits: outputs of ``forward`` for all examples, [n, ...], in the order of ``data``.
            data: the examples.
            reference: the dense model's outputs, of the same shape; needed only without labels.

        Raises:
            ValueError: there are neither labels nor a reference.
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
        """Computes the metric on parts of the evaluation data: a mean can hide that the model lost one class.

        Args:
            logits: as for ``evaluate``.
            data: as for ``evaluate``.
            names: names of the model's outputs, by number.
            reference: as for ``evaluate``.

        Returns:
            The same parts in the same order for all outputs; empty where the task has no natural parts.
        """
        return []


def require_labels(columns: Columns) -> str:
    """Returns the column of the labels.

    Raises:
        DataError: the data has no labels.
    """
    if columns.label is None:
        raise DataError("the data has no labels to train on; name their column with --label-column")
    return columns.label
