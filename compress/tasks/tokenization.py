"""Tokenises texts, words and long contexts, for all tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.data.batches import Encoded

# Texts tokenised at once: bounds the tokenizer's working memory.
CHUNK = 1000


def encode_texts(
    texts: list[list[str]], tokenizer: Any, seq_len: int, config: Any, labels: NDArray[Any] | None = None
) -> Encoded:
    """Tokenises one column of texts, or two as pairs.

    Args:
        texts: one or two columns of n texts.
        tokenizer: the checkpoint's tokenizer; its truncation settings are restored.
        seq_len: tokens per row at most, special tokens included; longer rows are cut.
        config: the checkpoint's configuration; a model without segments gets no segment ids.
        labels: [n]; None without labels.

    Raises:
        DataError: there are no rows, or ``seq_len`` leaves no room for a text.
    """
    if not texts[0]:
        raise DataError("the data has no rows; give at least one")
    check_seq_len(tokenizer, seq_len, pair=len(texts) == 2)
    features: dict[str, list[NDArray[np.int32]]] = {}
    with keep_truncation(tokenizer):
        for start in range(0, len(texts[0]), CHUNK):
            chunk = [column[start : start + CHUNK] for column in texts]
            for name, rows in tokenizer(*chunk, truncation=True, max_length=seq_len, padding=False).items():
                features.setdefault(name, []).extend(np.asarray(row, dtype=np.int32) for row in rows)
    return to_encoded(features, tokenizer, config, labels)


def to_encoded(
    features: dict[str, list[NDArray[np.int32]]],
    tokenizer: Any,
    config: Any,
    labels: NDArray[Any] | None,
    targets: Any = None,
) -> Encoded:
    """Builds examples from a tokenizer's output: keeps the model's inputs and gives empty rows one token.

    Args:
        features: rows of integers by the tokenizer's name for them.
        tokenizer: gives the padding values.
        config: the checkpoint's configuration; a model without segments gets no segment ids.
        labels: [n] or [n, ...]; None without labels.
        targets: as in ``Encoded``.
    """
    features = {name: rows for name, rows in features.items() if name in _INPUTS}
    # A tokenizer may return segment ids for a model without segments (DistilBERT), which does not accept them.
    if getattr(config, "type_vocab_size", 0) < 2:
        features.pop("token_type_ids", None)
    padding = dict.fromkeys(features, 0) | {"input_ids": int(tokenizer.pad_token_id)}
    if "token_type_ids" in features:
        padding["token_type_ids"] = int(tokenizer.pad_token_type_id)
    # A tokenizer without special tokens turns an empty text into an empty row, which no model can read.
    for i, row in enumerate(features["input_ids"]):
        if len(row) == 0:
            for name in features:
                features[name][i] = np.array([1 if name == "attention_mask" else padding[name]], dtype=np.int32)
    return Encoded(features=features, labels=labels, padding=padding, targets=targets)


_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def check_seq_len(tokenizer: Any, seq_len: int, *, pair: bool) -> None:
    """Checks that a sequence has room for at least one token of text.

    Args:
        tokenizer: tells the number of special tokens.
        seq_len: tokens per row, special tokens included.
        pair: whether a row holds two texts.

    Raises:
        DataError: the sequence is too short.
    """
    least = tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
    if seq_len < least:
        kind = "a pair of texts" if pair else "a text"
        raise DataError(f"sequence length {seq_len} is too short for {kind}: --seq-len must be at least {least}")


@contextmanager
def keep_truncation(tokenizer: Any) -> Iterator[None]:
    """Restores truncation and padding at the end: a fast tokenizer would save them with the artifact."""
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


def encode_words(
    sentences: Sequence[Sequence[Any]], tokenizer: Any, seq_len: int, config: Any
) -> tuple[Encoded, list[NDArray[np.int64]]]:
    """Tokenises sentences that are already split into words.

    The words are joined by spaces, so that any tokenizer reads them like text. Their tokens are found by offsets.

    Args:
        sentences: the words of each sentence.
        tokenizer: the checkpoint's tokenizer; its truncation settings are restored.
        seq_len: tokens per row at most, special tokens included; longer rows are cut.
        config: the checkpoint's configuration.

    Returns:
        The examples, and for each example the position of each word's first token, int64 [words]; -1 for a word
        without a token.

    Raises:
        DataError: there are no rows, ``seq_len`` is too short, or the tokenizer does not report offsets.
    """
    if not sentences:
        raise DataError("the data has no rows; give at least one")
    check_seq_len(tokenizer, seq_len, pair=False)
    check_offsets(tokenizer)
    features: dict[str, list[NDArray[np.int32]]] = {}
    positions: list[NDArray[np.int64]] = []
    with keep_truncation(tokenizer):
        for start in range(0, len(sentences), CHUNK):
            chunk = [[str(word) for word in words] for words in sentences[start : start + CHUNK]]
            texts = [" ".join(words) for words in chunk]
            found = tokenizer(texts, truncation=True, max_length=seq_len, padding=False, return_offsets_mapping=True)
            for name, rows in found.items():
                if name != "offset_mapping":
                    features.setdefault(name, []).extend(np.asarray(row, dtype=np.int32) for row in rows)
            for words, offsets in zip(chunk, found["offset_mapping"], strict=True):
                positions.append(_first_token_of_words(words, offsets))
    return to_encoded(features, tokenizer, config, labels=None), positions


def _first_token_of_words(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    places = np.full(len(words), -1, dtype=np.int64)
    # The word of each character in the joined text; the space between two words belongs to the second one.
    owner = [number for number, word in enumerate(words) for _ in range(len(word) + (number > 0))]
    for token, (start, end) in enumerate(offsets):
        # Special tokens are empty; a token may begin with the space before its word.
        if end > start and places[owner[end - 1]] < 0:
            places[owner[end - 1]] = token
    return places


def check_offsets(tokenizer: Any) -> None:
    """Checks that a tokenizer reports the characters of each token.

    Raises:
        DataError: it does not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} does not report the characters of its tokens, which "
            "words and answers need; save a fast tokenizer (tokenizer.json) beside the weights"
        )


@dataclass(frozen=True)
class Windows:
    """Windows of long contexts: their pair, and the characters of their tokens.

    Attributes:
        question: number of each window's pair of question and context, [windows].
        offsets: for each window the characters of the context that each token covers, [tokens, 2]; -1 for tokens
            outside the context.
    """

    question: NDArray[np.int64]
    offsets: list[NDArray[np.int32]]


def encode_windows(
    pairs: Sequence[tuple[str, str]], tokenizer: Any, seq_len: int, config: Any
) -> tuple[Encoded, Windows]:
    """Tokenises questions with their contexts; long contexts become overlapping windows.

    Windows overlap by a quarter of ``seq_len``. A question is cut to half of it.

    Args:
        pairs: question and context.
        tokenizer: the checkpoint's tokenizer; its truncation settings are restored.
        seq_len: tokens per window, special tokens included.
        config: the checkpoint's configuration.

    Returns:
        One example per window, and where the windows come from.

    Raises:
        DataError: there are no rows, ``seq_len`` is too short, or the tokenizer does not report offsets.
    """
    if not pairs:
        raise DataError("the data has no rows; give at least one")
    check_offsets(tokenizer)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    stride = seq_len // 4
    longest = seq_len // 2 - special
    if longest < 1:
        raise DataError(
            f"sequence length {seq_len} is too short for a question and its context: --seq-len must be at "
            f"least {2 * special + 2}"
        )
    features: dict[str, list[NDArray[np.int32]]] = {}
    numbers: list[int] = []
    places: list[NDArray[np.int32]] = []
    with keep_truncation(tokenizer):
        for start in range(0, len(pairs), CHUNK):
            questions = _cut([question for question, _ in pairs[start : start + CHUNK]], tokenizer, longest)
            found = tokenizer(
                questions,
                [context for _, context in pairs[start : start + CHUNK]],
                truncation="only_second",
                max_length=seq_len,
                stride=stride,
                padding=False,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            for name, rows in found.items():
                if name not in ("offset_mapping", "overflow_to_sample_mapping"):
                    features.setdefault(name, []).extend(np.asarray(row, dtype=np.int32) for row in rows)
            for i, (offsets, number) in enumerate(
                zip(found["offset_mapping"], found["overflow_to_sample_mapping"], strict=True)
            ):
                in_context = np.array([part == 1 for part in found.sequence_ids(i)])[:, None]
                places.append(np.where(in_context, np.asarray(offsets, dtype=np.int32), np.int32(-1)))
                numbers.append(start + number)
    encoded = to_encoded(features, tokenizer, config, labels=None)
    return encoded, Windows(np.array(numbers, dtype=np.int64), places)


def _cut(texts: list[str], tokenizer: Any, longest: int) -> list[str]:
    """Cuts texts to at most ``longest`` tokens, on the side that the tokenizer cuts."""
    found = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=longest, return_offsets_mapping=True)
    return [
        text[offsets[0][0] : offsets[-1][1]] if len(offsets) == longest else text
        for text, offsets in zip(texts, found["offset_mapping"], strict=True)
    ]
