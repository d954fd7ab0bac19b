"""Texts into rows of token ids, for all tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data import Encoded
from compress.errors import DataError

# Texts tokenised at once: bounds the tokenizer's working memory.
CHUNK = 1000


def encode_texts(
    texts: list[list[str]], tokenizer: Any, seq_len: int, config: Any, labels: NDArray[Any] | None = None
) -> Encoded:
    """Tokenise one column of texts, or two as pairs.

    Args:
        texts: columns of equal length.
        tokenizer: of the checkpoint; it is left as it was.
        seq_len: longer rows are cut.
        config: the checkpoint's configuration: a model without segments is given no segment ids.
        labels: [n]; None without labels.

    Raises:
        DataError: no rows, or ``seq_len`` leaves no room for a text.
    """
    if not texts[0]:
        raise DataError("the data has no rows; give at least one")
    check_room(tokenizer, seq_len, pair=len(texts) == 2)
    features: dict[str, list[NDArray[np.int32]]] = {}
    with keep_truncation(tokenizer):
        for start in range(0, len(texts[0]), CHUNK):
            chunk = [column[start : start + CHUNK] for column in texts]
            for name, rows in tokenizer(*chunk, truncation=True, max_length=seq_len, padding=False).items():
                features.setdefault(name, []).extend(np.asarray(row, dtype=np.int32) for row in rows)
    return as_encoded(features, tokenizer, config, labels)


def as_encoded(
    features: dict[str, list[NDArray[np.int32]]],
    tokenizer: Any,
    config: Any,
    labels: NDArray[Any] | None,
    targets: Any = None,
) -> Encoded:
    """What a tokenizer gave as examples: inputs the model has, padding, no row without a token."""
    features = {name: rows for name, rows in features.items() if name in _INPUTS}
    # A tokenizer may offer segment ids to a model without segments (DistilBERT), whose forward refuses them.
    if getattr(config, "type_vocab_size", 0) < 2:
        features.pop("token_type_ids", None)
    padding = dict.fromkeys(features, 0) | {"input_ids": int(tokenizer.pad_token_id)}
    if "token_type_ids" in features:
        padding["token_type_ids"] = int(tokenizer.pad_token_type_id)
    # A tokenizer without special tokens turns an empty text into nothing, which no model can read.
    for i, row in enumerate(features["input_ids"]):
        if len(row) == 0:
            for name in features:
                features[name][i] = np.array([1 if name == "attention_mask" else padding[name]], dtype=np.int32)
    return Encoded(features=features, labels=labels, padding=padding, targets=targets)


_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def check_room(tokenizer: Any, seq_len: int, *, pair: bool) -> None:
    """Raise DataError where a sequence of this length has no room for any text."""
    least = tokenizer.num_special_tokens_to_add(pair=pair) + 1 + pair
    if seq_len < least:
        kind = "a pair of texts" if pair else "a text"
        raise DataError(f"sequence length {seq_len} is too short for {kind}: --seq-len must be at least {least}")


@contextmanager
def keep_truncation(tokenizer: Any) -> Iterator[None]:
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
