"""Task token-classification: predicts a tag for every word of a sentence; spans of tags are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ConfigError, DataError, ModelError
from compress.data.batches import Encoded
from compress.data.columns import Columns, choose_columns, read_column
from compress.data.labels import label_text, tag_column
from compress.data.literals import parse_list
from compress.data.names import TAG_NAMES, WORD_NAMES
from compress.data.origin import place
from compress.data.text_files import split_words
from compress.tasks.base import Chosen, Task, require_labels
from compress.tasks.losses import categorical_direction, categorical_divergence, draw_categories
from compress.tasks.measured import Measured, Slice
from compress.tasks.standing import Standing, standing_of_classes, standing_of_spans
from compress.tasks.text_classification import settled
from compress.tasks.tokenization import encode_words

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

# So many rows of one word each are no sentences.
_SURELY_SENTENCES = 20
# Label that loss and metric skip, by the convention of PyTorch.
IGNORED = -100


@dataclass(frozen=True)
class Words:
    """Words and right tags for the metric, which scores words, not tokens.

    Attributes:
        positions: for each example the position of each word's first token, int64 [words]; -1 for words that were cut
            off or have no token.
        tags: for each example the numbers of its words' tags, int64 [words]; None without labels.
        names: names of the tags, by number.
    """

    positions: list[NDArray[np.int64]]
    tags: list[NDArray[np.int64]] | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class TokenClassification(Task):
    """A tag for every word, read at the first token of the word, as is usual."""

    name = "token-classification"
    metric_name = "span F1"
    sliced_by = "type of span"
    auto_class_name = "AutoModelForTokenClassification"
    head_suffixes = ("ForTokenClassification",)
    reads_words = True
    has_classes = True

    def check_config(self, config: Any) -> None:
        if config.num_labels < 2:
            raise ModelError(f"this checkpoint's head knows {config.num_labels} tag(s); {self.name} needs at least two")

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        return choose_columns(dataset, text_column, label_column, TAG_NAMES, WORD_NAMES)

    def new_head(self, dataset: Dataset, columns: Columns) -> list[str]:
        tags = {label_text(tag) for row in read_lists(dataset, require_labels(columns)) for tag in row} - {""}
        # The tag "O", outside all spans, comes first, as is usual.
        return sorted(tags, key=lambda name: (name != "O", name))

    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        found = {}
        for name, own in columns.items():
            if len(own.text) > 1:
                raise DataError(
                    f"{self.name} takes one column of words, not the pair {' and '.join(own.text)}; name it with "
                    "--text-column"
                )
            if own.label is not None:
                tags = read_lists(splits[name], own.label)
                if len(tags) >= _SURELY_SENTENCES and all(len(row) == 1 for row in tags):
                    raise DataError(
                        f"every row of the data has one word and one tag ('{own.label}'), so sentences have no ends; "
                        "give a list of words and a list of tags per row, or a CoNLL file with an empty line after "
                        "each sentence"
                    )
                found[name] = tag_column(splits[name], own.label, tags, config, name)
        return settled(columns, found, "tags", config)

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        sentences = read_lists(dataset, columns.text[0])
        tags: list[NDArray[np.int64]] | None = None
        if columns.label is not None:
            tags = _tag_ids(dataset, sentences, columns, columns.label)
        encoded, positions = encode_words(sentences, tokenizer, seq_len, config)
        names = tuple(str(name) for _, name in sorted((config.id2label or {}).items()))
        labels = None if tags is None else _token_labels(tags, positions, seq_len)
        return replace(encoded, labels=labels, targets=Words(positions, tags, names))

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Returns logits [batch, sequence, tags], 0 at padding."""
        logits = cast("Tensor", model(**inputs).logits)
        return logits * inputs["attention_mask"].unsqueeze(-1).to(logits.dtype)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross entropy, summed over the tokens that have a label, [batch]."""
        from torch.nn.functional import cross_entropy

        known = labels[:, : logits.shape[1]]
        return cross_entropy(logits.transpose(1, 2), known, reduction="none", ignore_index=IGNORED).sum(-1)

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Returns the KL divergence, summed over tokens without padding, [batch]."""
        return categorical_divergence(logits, reference).sum(-1)

    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_categories(reference, generator)

    def fisher_direction(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return categorical_direction(outputs, generator)

    def predictions(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the tags of all positions, int64 [n, sequence]."""
        return np.asarray(logits).argmax(-1).astype(np.int64)

    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the fraction of each example's labelled tokens that are right, [n]."""
        known = np.asarray(labels)[:, : logits.shape[1]]
        right = (self.predictions(logits) == known) & (known != IGNORED)
        return right.sum(1) / np.maximum(1, (known != IGNORED).sum(1))

    def evaluate(self, logits: NDArray[Any], data: Encoded, reference: NDArray[Any] | None = None) -> Measured:
        """Computes F1 of spans (exact bounds and type), or accuracy over words where the tags do not mark spans.

        Words that were cut off count as outside any span, so a sequence length that is too short costs recall.
        """
        words: Words = data.targets
        ours, truth = self._read_both(logits, words, reference)
        name = "fidelity" if words.tags is None else None
        if not _marks_spans(words.names):
            rows = [[(a == b).sum(), len(a)] for a, b in zip(ours, truth, strict=True)]
            return Measured(name or "accuracy", np.array(rows, dtype=np.float64), share_of_counts)
        spans = _span_reader(words.names)
        return Measured(name or self.metric_name, _span_counts(map(spans, ours), map(spans, truth)), f1_of_counts)

    def standing(self, logits: NDArray[Any], data: Encoded) -> Standing | None:
        words: Words = data.targets
        if words.tags is None:
            return None
        ours = np.concatenate([*_word_tags(self.predictions(logits), words), np.empty(0, dtype=np.int64)])
        truth = np.concatenate([*words.tags, np.empty(0, dtype=np.int64)])
        of_words = standing_of_classes(ours, truth, logits.shape[-1], share_of="tag")
        if not _marks_spans(words.names):
            return of_words
        return standing_of_spans(self.evaluate(logits, data).scores, of_words)

    def slices(
        self,
        logits: NDArray[Any],
        data: Encoded,
        names: Mapping[int, str],
        reference: NDArray[Any] | None = None,
    ) -> list[Slice]:
        """Computes F1 of each type of span; empty where the tags do not mark spans."""
        words: Words = data.targets
        if not _marks_spans(words.names):
            return []
        ours, truth = self._read_both(logits, words, reference)
        spans = _span_reader(words.names)
        found, real = [spans(tags) for tags in ours], [spans(tags) for tags in truth]
        slices = []
        for kind in sorted({span[0] for sentence in real for span in sentence}):
            of_kind = [[{span for span in sentence if span[0] == kind} for sentence in side] for side in (found, real)]
            rows = _span_counts(*of_kind)
            slices.append(Slice(kind, int(rows[:, 2].sum()), Measured(self.metric_name, rows, f1_of_counts)))
        return slices

    def _read_both(
        self, logits: NDArray[Any], words: Words, reference: NDArray[Any] | None
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Returns predicted and right tags of all words; without labels the dense model's tags count as right."""
        ours = _word_tags(self.predictions(logits), words)
        if words.tags is not None:
            return ours, words.tags
        if reference is None:
            raise ValueError("without labels the dense model's outputs are needed")
        return ours, _word_tags(self.predictions(reference), words)


def read_lists(dataset: Dataset, column: str) -> list[list[Any]]:
    """Reads a column of lists, stored as lists, as a program writes them into text, or as words between spaces.

    Args:
        dataset: rows.
        column: the column.

    Raises:
        DataError: the column is missing, or holds other values.
    """
    values = read_column(dataset, column)
    lists: list[list[Any]] = []
    for number, value in enumerate(values):
        if isinstance(value, str):
            lists.append(_from_text(value))
        elif value is None or isinstance(value, list):
            lists.append(value or [])
        else:
            raise DataError(
                f"column '{column}' has {str(value)[:40]!r} in {place(dataset, number)}, expected a list of words "
                "or tags; name another column with --text-column or --label-column"
            )
    return lists


def _from_text(text: str) -> list[Any]:
    found = parse_list(text)
    return split_words(text) if found is None else found


def _tag_ids(dataset: Dataset, sentences: Sequence[list[Any]], columns: Columns, label: str) -> list[NDArray[np.int64]]:
    numbered = []
    for number, (words, own) in enumerate(zip(sentences, read_lists(dataset, label), strict=True)):
        if len(words) != len(own):
            raise DataError(
                f"{place(dataset, number)} has {len(words)} words in column '{columns.text[0]}' and {len(own)} tags in "
                f"column '{label}'; every word needs one tag"
            )
        try:
            numbered.append(np.array([columns.label_ids[label_text(tag)] for tag in own], dtype=np.int64))
        except KeyError as error:
            raise DataError(
                f"tag {error} in {place(dataset, number)} is none of those found when the columns were chosen: "
                f"{', '.join(list(columns.label_ids)[:8])}; choose the columns on the same data"
            ) from None
    return numbered


def _token_labels(
    tags: Sequence[NDArray[np.int64]], positions: Sequence[NDArray[np.int64]], seq_len: int
) -> NDArray[np.int64]:
    """Returns labels of tokens, int64 [n, sequence]: a word's tag at its first token, ``IGNORED`` elsewhere."""
    labels = np.full((len(tags), seq_len), IGNORED, dtype=np.int64)
    for row, own, places in zip(labels, tags, positions, strict=True):
        row[places[places >= 0]] = own[places >= 0]
    return labels


def _word_tags(predicted: NDArray[np.int64], words: Words) -> list[NDArray[np.int64]]:
    """Returns the predicted tags of all words; words without a token are outside any span."""
    outside = words.names.index("O") if "O" in words.names else 0
    read = []
    for row, places in zip(predicted, words.positions, strict=True):
        tags = np.full(len(places), outside, dtype=np.int64)
        tags[places >= 0] = row[places[places >= 0]]
        read.append(tags)
    return read


def _marks_spans(names: Sequence[str]) -> bool:
    return any(tag[:2] in ("B-", "I-") for tag in names)


def _span_reader(names: Sequence[str]) -> Callable[[NDArray[np.int64]], set[tuple[str, int, int]]]:
    """Returns a function from the numbers of a sentence's tags to its spans (type, first word, last word)."""
    try:
        from seqeval.metrics.sequence_labeling import get_entities
    except ImportError:
        raise ConfigError(
            "scoring spans of tags needs seqeval, which is not installed; install it: pip install 'compress[tagging]'"
        ) from None

    def read(tags: NDArray[np.int64]) -> set[tuple[str, int, int]]:
        return set(get_entities([names[tag] for tag in tags]))

    return read


def _span_counts(
    found: Iterable[set[tuple[str, int, int]]], real: Iterable[set[tuple[str, int, int]]]
) -> NDArray[np.float64]:
    """Returns the numbers of right, predicted and true spans of each sentence, [n, 3]."""
    rows = [[len(ours & truth), len(ours), len(truth)] for ours, truth in zip(found, real, strict=True)]
    return np.array(rows, dtype=np.float64)


def f1_of_counts(rows: NDArray[np.float64]) -> float:
    """Returns F1 over all units from counts (right, predicted, true), [n, 3]; 1 without true and predicted spans."""
    right, found, real = rows.sum(0)
    return float(2 * right / (found + real)) if found + real else 1.0


def share_of_counts(rows: NDArray[np.float64]) -> float:
    """Returns the fraction that is right over all units from counts (right, all), [n, 2]; 1 without units."""
    right, total = rows.sum(0)
    return float(right / total) if total else 1.0
