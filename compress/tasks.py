"""What a model is for: one class per task, from columns of data to loss and metric.

A new task is one subclass of ``Task``, listed in ``TASKS``. The stages know tasks only through the methods here, so
that labels, their absence, losses and metrics are in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from compress.columns import Columns, choose_columns, label_ids, label_text, read_column, read_texts
from compress.data import Encoded
from compress.errors import ConfigError, DataError, ModelError, did_you_mean

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

# Texts tokenised at once: bounds the tokenizer's working memory.
_CHUNK = 1000


class Task(ABC):
    """One kind of head: its data, loss and metric.

    Attributes:
        name: as on the command line.
        metric_name: of ``metric``.
        auto_class_name: the class of transformers that loads a checkpoint with this head.
        head_suffixes: endings of the class names in a checkpoint's ``architectures`` that have this head.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    auto_class_name: ClassVar[str]
    head_suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def check_config(self, config: Any) -> None:
        """Raise ModelError when a checkpoint's configuration contradicts this task."""

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

    @abstractmethod
    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """The outputs that loss, divergence and metric take."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss of each example, [batch]."""

    @abstractmethod
    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """How far outputs are from the dense model's, for each example, [batch]; 0 where equal."""

    @abstractmethod
    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Labels drawn from the model's own predictive distribution: those of the true Fisher information."""

    @abstractmethod
    def predictions(self, logits: NDArray[Any]) -> NDArray[Any]:
        """The labels that outputs stand for; a dense model's serve as labels where there are none."""

    @abstractmethod
    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """A score for each example, [n], higher is better; the metric is their mean."""

    def metric(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        """The task's metric over all examples."""
        return float(self.scores(logits, labels).mean())


class TextClassification(Task):
    """One of several classes for a text or a pair of texts."""

    name = "text-classification"
    metric_name = "accuracy"
    auto_class_name = "AutoModelForSequenceClassification"
    head_suffixes = ("ForSequenceClassification",)

    def check_config(self, config: Any) -> None:
        kind = getattr(config, "problem_type", None)
        if kind == "multi_label_classification":
            raise ModelError(
                "this checkpoint gives several labels to one text (problem_type multi_label_classification); "
                f"{self.name} is for one label of several"
            )
        if kind == "regression" or config.num_labels < 2:
            raise ModelError(
                f"this checkpoint's head gives {config.num_labels} number(s) per text (regression), no classes; "
                f"{self.name} needs at least two"
            )

    def columns(
        self, dataset: Dataset, config: Any, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        columns = choose_columns(dataset, text_column, label_column)
        if columns.label is None:
            return columns
        numbers, notes = label_ids(dataset, columns.label, config)
        return replace(
            columns,
            label=columns.label if numbers else None,
            guesses=(*columns.guesses, *notes),
            label_ids=numbers,
        )

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        if len(dataset) == 0:
            raise DataError("the data has no rows; give at least one")
        labels = _labels(dataset, columns.label, columns.label_ids) if columns.label is not None else None
        features, padding = _tokenize([read_texts(dataset, name) for name in columns.text], tokenizer, seq_len)
        # A tokenizer may offer segment ids to a model without segments (DistilBERT), whose forward refuses them.
        if getattr(config, "type_vocab_size", 0) < 2:
            features.pop("token_type_ids", None)
        return Encoded(features=features, labels=labels, padding={name: padding[name] for name in features})

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        return cast("Tensor", model(**inputs).logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, reduction="none")

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        from torch.nn.functional import kl_div, log_softmax

        pointwise = kl_div(log_softmax(logits, -1), log_softmax(reference, -1), reduction="none", log_target=True)
        return pointwise.sum(-1)

    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        import torch

        if not bool(torch.isfinite(reference).all()):
            raise DataError(
                "the model's outputs on the calibration data are not finite: its activations overflow; check the "
                "checkpoint in float32, and the data for texts unlike those it was trained on"
            )
        return torch.multinomial(reference.softmax(-1), 1, generator=generator).squeeze(-1)

    def predictions(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        return np.asarray(logits).argmax(-1).astype(np.int64)

    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        return (self.predictions(logits) == np.asarray(labels)).astype(np.float64)


def _tokenize(
    texts: list[list[str]], tokenizer: Any, seq_len: int
) -> tuple[dict[str, list[NDArray[np.int32]]], dict[str, int]]:
    """Token rows of one or two columns of texts, and the padding of each feature."""
    least = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2) + len(texts)
    if seq_len < least:
        kind = "a pair of texts" if len(texts) == 2 else "a text"
        raise DataError(f"sequence length {seq_len} is too short for {kind}: --seq-len must be at least {least}")
    features: dict[str, list[NDArray[np.int32]]] = {}
    with _keep_truncation(tokenizer):
        for start in range(0, len(texts[0]), _CHUNK):
            chunk = [column[start : start + _CHUNK] for column in texts]
            for name, rows in tokenizer(*chunk, truncation=True, max_length=seq_len, padding=False).items():
                features.setdefault(name, []).extend(np.asarray(row, dtype=np.int32) for row in rows)
    padding = dict.fromkeys(features, 0) | {"input_ids": int(tokenizer.pad_token_id)}
    if "token_type_ids" in features:
        padding["token_type_ids"] = int(tokenizer.pad_token_type_id)
    # A tokenizer without special tokens turns an empty text into nothing, which no model can read.
    for i, row in enumerate(features["input_ids"]):
        if len(row) == 0:
            for name in features:
                features[name][i] = np.array([1 if name == "attention_mask" else padding[name]], dtype=np.int32)
    return features, padding


@contextmanager
def _keep_truncation(tokenizer: Any) -> Iterator[None]:
    """Undo what tokenising changes: a fast tokenizer would keep our length, and save it with the artifact."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        if truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**truncation)
        if padding is None:
            backend.no_padding()
        else:
            backend.enable_padding(**padding)


def _labels(dataset: Dataset, column: str, numbers: Mapping[str, int]) -> NDArray[np.int64]:
    values = [label_text(value) for value in read_column(dataset, column)]
    unknown = next((value for value in values if value not in numbers), None)
    if unknown is not None:
        raise DataError(
            f"label {unknown!r} in column '{column}' is none of those found when the columns were chosen: "
            f"{', '.join(list(numbers)[:8])}; choose the columns on the same data"
        )
    return np.array([numbers[value] for value in values], dtype=np.int64)


TASKS: dict[str, Task] = {task.name: task for task in (TextClassification(),)}


def task_of(config: Any, name: str | None = None) -> Task:
    """The task of a checkpoint, named or told by its head.

    Args:
        config: the checkpoint's configuration.
        name: None takes the task that fits the class in ``architectures``.

    Raises:
        ConfigError: there is no task of that name.
        ModelError: the checkpoint has no head, or another one than the task needs.
    """
    if name is not None and name not in TASKS:
        raise ConfigError(f"unknown task '{name}'.{did_you_mean(name, list(TASKS))} Tasks: {', '.join(TASKS)}")
    heads = tuple(config.architectures or ())
    fitting = [task for task in TASKS.values() if any(head.endswith(task.head_suffixes) for head in heads)]
    if name is not None:
        task = TASKS[name]
        # Without "architectures" the weights decide: a head that is not among them is found when they are loaded.
        if heads and task not in fitting:
            raise ModelError(f"task {name} does not fit this checkpoint: its head is {_head(heads)}; {_needed(task)}")
        task.check_config(config)
        return task
    refusals = []
    for task in fitting:
        try:
            task.check_config(config)
        except ModelError as error:
            # Classifiers and regressors have heads of one class: the next task may be the one.
            refusals.append(str(error))
        else:
            return task
    if refusals:
        raise ModelError("; ".join(refusals))
    raise ModelError(
        f"cannot tell the task of this checkpoint: its head is {_head(heads)}. Supported tasks: "
        f"{', '.join(TASKS)}; {' or '.join(_needed(task) for task in TASKS.values())}"
    )


def _head(heads: tuple[str, ...]) -> str:
    return ", ".join(heads) or "not named in its config.json (architectures)"


def _needed(task: Task) -> str:
    return f"{task.name} needs a checkpoint fine-tuned as ...{' or ...'.join(task.head_suffixes)}"
