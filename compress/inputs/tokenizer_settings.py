"""Settings of a tokenizer that decide what the model reads: padding side, mask, lower case, longest text.

They are set on the tokenizer that calibration and evaluation use, and the same tokenizer is written into the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MASK = "attention_mask"


def settle_tokenizer(tokenizer: Any, *, lower_case: bool = False, longest: int | None = None) -> list[str]:
    """Sets a tokenizer right for an encoder, in place.

    Args:
        tokenizer: a checkpoint's tokenizer.
        lower_case: whether it must put texts into lower case.
        longest: tokens it cuts texts to; None leaves its own limit.

    Returns:
        Sentences for the user about what was changed and is written into the artifact.
    """
    said = []
    if tokenizer.padding_side != "right":
        _pad_right(tokenizer)
        said.append(
            "the tokenizer pads on the left, where an encoder reads other positions in a batch than alone: padding is "
            "on the right here, and in the artifact's tokenizer"
        )
    if _MASK not in tokenizer.model_input_names:
        tokenizer.model_input_names = [*tokenizer.model_input_names, _MASK]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
        said.append(
            "the tokenizer gives no attention_mask, so padding would be read as text: it gives one here, and so does "
            "the artifact's tokenizer"
        )
    if lower_case and _put_into_lower_case(tokenizer):
        said.append("texts are put into lower case (do_lower_case), by the artifact's tokenizer too")
    if longest is not None:
        _cut_to(tokenizer, longest)
    return said


def longest_text(tokenizer: Any) -> float:
    """Returns the number of tokens that a tokenizer cuts texts to; infinite without a limit."""
    limit = getattr(tokenizer, "model_max_length", None)
    # transformers writes 10^30 where there is no limit.
    return math.inf if limit is None or limit > 10**9 else int(limit)


@contextmanager
def cutting_to(tokenizer: Any, seq_len: int) -> Iterator[None]:
    """Lets a tokenizer cut texts to the length that was evaluated, while it is written.

    Args:
        tokenizer: a tokenizer; an image processor stays as it is.
        seq_len: tokens per text; a lower limit of the tokenizer stays.
    """
    if not hasattr(tokenizer, "model_max_length") or tokenizer.model_max_length <= seq_len:
        yield
        return
    limit, truncation = tokenizer.model_max_length, _truncation(tokenizer)
    _cut_to(tokenizer, seq_len)
    try:
        yield
    finally:
        tokenizer.model_max_length = limit
        if truncation is not None:
            tokenizer.backend_tokenizer.enable_truncation(**truncation)


def _cut_to(tokenizer: Any, longest: int) -> None:
    tokenizer.model_max_length = longest
    truncation = _truncation(tokenizer)
    # tokenizer.json may hold a length of its own, which programs without transformers use.
    if truncation is not None:
        tokenizer.backend_tokenizer.enable_truncation(**{**truncation, "max_length": longest})


def _truncation(tokenizer: Any) -> dict[str, Any] | None:
    found: dict[str, Any] | None = getattr(getattr(tokenizer, "backend_tokenizer", None), "truncation", None)
    return found


def _pad_right(tokenizer: Any) -> None:
    tokenizer.padding_side = "right"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.padding is not None:
        backend.enable_padding(**{**backend.padding, "direction": "right"})


def _put_into_lower_case(tokenizer: Any) -> bool:
    """Puts texts into lower case as sentence-transformers does; returns whether anything had to be changed."""
    if not getattr(tokenizer, "is_fast", False):
        changed = not getattr(tokenizer, "do_lower_case", False)
        tokenizer.do_lower_case = True
        return changed
    from tokenizers.normalizers import Lowercase, Sequence

    backend = tokenizer.backend_tokenizer
    normalizer = backend.normalizer
    steps: list[Any] = [] if normalizer is None else [normalizer]
    if isinstance(normalizer, Sequence):
        steps = [normalizer[i] for i in range(len(normalizer))]
    if any(isinstance(step, Lowercase) or getattr(step, "lowercase", False) for step in steps):
        return False
    backend.normalizer = Sequence([Lowercase(), *steps])
    return True
