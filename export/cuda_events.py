"""CUDA events: how long a GPU takes from the start of a call to its end, without the copies around it.

Through NVIDIA's own bindings (``cuda-bindings``), which the extra ``gpu`` installs. Without them nothing is timed this
way, and calls are timed on the host's clock alone, copies included, which is what budgets are about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError

# Calls until clocks and memory are as they stay.
_WARMUP = 20
Start = Callable[[], None]


class WithoutCopies(Protocol):
    """A session on a GPU that can start a call with its inputs already there."""

    def without_copies(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Start, int]: ...


def runtime() -> Any | None:
    """``cuda.bindings.runtime``; None where it is not installed, or finds no driver."""
    try:
        from cuda.bindings import runtime as cuda
    except (ImportError, RuntimeError):
        return None
    return cuda


def new_stream(number: int) -> int | None:
    """A CUDA stream on a GPU, for a session to compute on; None where there are no bindings."""
    cuda = runtime()
    if cuda is None:
        return None
    _done(cuda.cudaSetDevice(number))
    (stream,) = _done(cuda.cudaStreamCreate())
    return int(stream)


def free_stream(stream: int) -> None:
    """Give a stream back."""
    cuda = runtime()
    if cuda is not None:
        _done(cuda.cudaStreamDestroy(stream))


def without_copies(
    sessions: Sequence[Any], feed: Mapping[str, NDArray[Any]], rounds: int, seed: int = 0
) -> NDArray[np.float64] | None:
    """Milliseconds between two events around each call, inputs and outputs on the GPU, [rounds, sessions].

    Calls are interleaved in another order every round, as ``profile.measure`` does on the host's clock. An event waits
    for what was started before it on its stream, so the time is the GPU's, gaps between kernels included where the
    host is slower than the GPU.

    Args:
        sessions: to compare; None is returned unless all can start a call without copies.
        feed: one batch.
        rounds: how often to time each.
        seed: of the order.
    """
    cuda = runtime()
    if cuda is None or not all(hasattr(session, "without_copies") for session in sessions):
        return None
    starts = [session.without_copies(feed) for session in sessions]
    for _ in range(_WARMUP):
        for start, _stream in starts:
            start()
    _done(cuda.cudaDeviceSynchronize())
    order = np.random.default_rng(seed)
    taken = np.empty((rounds, len(starts)))
    (before,), (after,) = _done(cuda.cudaEventCreate()), _done(cuda.cudaEventCreate())
    try:
        for row in taken:
            for i in order.permutation(len(starts)):
                start, stream = starts[i]
                # The call before has ended: its tail would count for this one.
                _done(cuda.cudaDeviceSynchronize())
                _done(cuda.cudaEventRecord(before, stream))
                start()
                _done(cuda.cudaEventRecord(after, stream))
                _done(cuda.cudaEventSynchronize(after))
                (row[i],) = _done(cuda.cudaEventElapsedTime(before, after))
    finally:
        _done(cuda.cudaEventDestroy(before))
        _done(cuda.cudaEventDestroy(after))
    return taken


def _done(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call to CUDA gives, without its error code.

    Raises:
        ExportError: the code is one.
    """
    error, *values = answer
    if int(error) != 0:
        raise ExportError(
            f"CUDA reports {getattr(error, 'name', error)}; `compress doctor` shows the GPU and its driver"
        )
    return tuple(values)
