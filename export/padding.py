"""Padding that a file takes: refuses, by name, inputs whose answers such a file marks as NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.models.encoder import MASK

# In a file's metadata, if it takes padding on the right alone.
RIGHT_PADDED = "compress.right_padded"


class PaddingRefused(ExportError):
    """Inputs are padded in a way that the file does not take."""


def takes_right_padding_alone(inference: Any) -> bool:
    """Whether the file of an ``onnxruntime.InferenceSession`` marks other padding."""
    return RIGHT_PADDED in inference.get_modelmeta().custom_metadata_map


def refuse_marked(answers: NDArray[Any], feed: Mapping[str, NDArray[Any]]) -> None:
    """Refuse inputs for which a file that takes padding on the right alone has no answers.

    Answers are looked at rather than inputs: it costs less, and nothing in a batch that is right.

    Args:
        answers: [batch, ...], of such a file.
        feed: its inputs.

    Raises:
        PaddingRefused: an example has padding before a token; the message names the first.
    """
    # One value of each example: all of them are marked.
    if answers.size == 0 or not np.isnan(answers.reshape(len(answers), -1)[:, 0]).any() or MASK not in feed:
        return
    present = np.asarray(feed[MASK]) != 0
    elsewhere = (present[:, 1:] & ~present[:, :-1]).any(axis=1)
    if elsewhere.any():
        row = int(np.argmax(elsewhere))
        raise PaddingRefused(
            f"{MASK}: example {row} of the call has padding before a token ({_shown(present[row])}); this file has "
            "the lengths of the examples for a mask and takes padding on the right alone. Use the artifact's own "
            "tokenizer (padding_side='right'), or export for a target file with padding = \"any\""
        )


def _shown(row: NDArray[np.bool_]) -> str:
    text = "".join("1" if there else "0" for there in row[:24])
    return text + ("..." if len(row) > 24 else "")
