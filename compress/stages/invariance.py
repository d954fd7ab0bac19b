"""Invariance: whether a file answers an example alike alone, in a batch, at another place in it, and padded further.

Dynamic int8 does not: it rounds by the range of the whole call. Float kernels may add in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.validation import Invariance
from compress.data.batches import Encoded
from compress.models.encoder import longest_input

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.inputs.load import Loaded

# More tell little more; and all their tokens are run four times.
MOST_EXAMPLES, MOST_TOKENS = 128, 8192
LEAST_EXAMPLES = 32
BATCH, PADDING = 32, 64

Answers = list[NDArray[Any]]


def measure_invariance(session: Session, loaded: Loaded) -> Invariance | None:
    """Compare a file's answers to the same examples in different calls.

    Args:
        session: the file.
        loaded: evaluation examples, task and target.

    Returns:
        The largest differences; None without examples.
    """
    data = _some(loaded.evaluation)
    if not len(data):
        return None
    size, padding = _room(loaded, data)
    order = np.random.default_rng(0).permutation(len(data))
    # Examples of similar length share a call, as a server that saves padding has it; or any do.
    similar = np.argsort(data.lengths, kind="stable")
    alone = _answers(session, loaded, data, [[i] for i in range(len(data))])
    batched = _answers(session, loaded, data, _parts(similar, size)) if size > 1 else None
    shuffled = _answers(session, loaded, data, _parts(order, size)) if size > 1 else None
    padded = _answers(session, loaded, data, _parts(similar, size), padding) if padding else None
    others = [other for other in (batched, shuffled, padded) if other is not None]
    differences = [None if other is None else _largest(alone, other) for other in (batched, shuffled, padded)]
    return Invariance(
        batch=differences[0],
        order=differences[1],
        padding=differences[2],
        largest=max((found for found in differences if found is not None), default=0.0),
        changed=_changed(loaded, alone, others),
        examples=len(data),
        batch_size=size,
        padded_by=padding,
    )


def _some(data: Encoded) -> Encoded:
    """Examples from all over the data, fewer where they are long."""
    if not len(data):
        return data
    most = max(LEAST_EXAMPLES, min(MOST_EXAMPLES, int(MOST_TOKENS / max(data.mean_length, 1.0))))
    count = min(len(data), most)
    return data.select(np.linspace(0, len(data) - 1, count).astype(int).tolist())


def _room(loaded: Loaded, data: Encoded) -> tuple[int, int]:
    """Examples of a batch, and tokens of padding, that the model and the target's engines take."""
    size = min(BATCH, len(data))
    longest = longest_input(loaded.checkpoint.model.config)
    calls = loaded.target.calls
    if calls is not None:
        size = min(size, calls.batch_size[2])
        longest = min(longest or calls.seq_len[2], calls.seq_len[2])
    if data.positions is not None:
        return size, 0  # images
    left = PADDING if longest is None else longest - int(data.lengths.max())
    return size, max(0, min(PADDING, left))


def _parts(order: NDArray[np.int64], size: int) -> list[list[int]]:
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]


def _answers(
    session: Session, loaded: Loaded, data: Encoded, calls: Iterable[Sequence[int]], padding: int = 0
) -> Answers:
    """Answers by example, as the task reads them.

    Args:
        session: the file.
        loaded: has the task.
        data: the examples.
        calls: which examples share each call, in which order.
        padding: tokens to add to each call.
    """
    found: Answers = [np.empty(0)] * len(data)
    for rows in calls:
        (batch,) = data.select(list(rows)).batches(len(rows), sort_by_length=False)
        feed = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
        if padding:
            feed = {
                name: np.pad(values, ((0, 0), (0, padding)), constant_values=data.padding[name])
                for name, values in feed.items()
            }
        answer = loaded.checkpoint.task.read_file(session.run(feed), feed)
        for row, values in zip(rows, answer, strict=True):
            found[row] = values
    return found


def _aligned(alone: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """An answer cut to what the example answers alone: outputs may be as long as the call."""
    return other if other.shape == alone.shape else other[tuple(slice(size) for size in alone.shape)]


def _largest(alone: Answers, other: Answers) -> float:
    """Largest absolute difference; equal infinities, which fill padding, do not differ."""
    largest = 0.0
    for one, another in zip(alone, other, strict=True):
        another = _aligned(one, another)
        with np.errstate(invalid="ignore"):
            difference = np.where(one == another, 0.0, np.abs(one.astype(np.float64) - another))
        largest = float(np.max([largest, difference.max(initial=0.0)]))
    return largest


def _changed(loaded: Loaded, alone: Answers, others: Sequence[Answers]) -> float | None:
    """Share of examples with another decision in any of several runs; None where outputs are no decisions."""
    predict = loaded.checkpoint.task.predictions
    changed = []
    for number, one in enumerate(alone):
        said = predict(one[None])
        if not np.issubdtype(said.dtype, np.integer):
            return None
        changed.append(any(bool((predict(_aligned(one, run[number])[None]) != said).any()) for run in others))
    return round(float(np.mean(changed)), 6)
