"""Outputs of exported files: which of them a session fetches."""

from __future__ import annotations

from collections.abc import Sequence

# A sentence encoder's file has it beside the embedding, for readers that pool themselves: sentence-transformers,
# optimum, transformers.js, text-embeddings-inference.
HIDDEN_STATE = "last_hidden_state"


def answer_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the outputs that are the task's answer: all but the last hidden state, if it is not the only one.

    Args:
        names: the file's outputs, in its order.
    """
    return tuple(name for name in names if name != HIDDEN_STATE) or tuple(names)
