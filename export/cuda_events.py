"""CUDA events: time a GPU from the start of a call to its end, without the copies before and after.

This uses NVIDIA's own bindings (``cuda-bindings``), which the extra ``gpu`` installs. Without them there are only
timings on the host's clock, with copies. Budgets always use the host's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError

# Untimed calls, until clocks and memory have settled.
_WARMUP = 20
Start = Callable[[], None]


class WithoutCopies(Protocol):
    """A session that can start calls whose inputs are already on the GPU."""

    def without_copies(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Start, int]:
        """A function that starts a call on this batch, and the CUDA stream that it starts on."""


def runtime() -> Any | None:
    """``cuda.bindings.runtime``; None if it is not installed, or finds no driver."""
    try:
        from cuda.bindings import runtime as cuda
    except (ImportError, RuntimeError):
        return None
    return cuda


def new_stream(number: int) -> int | None:
    """Create a CUDA stream on a GPU, for a session to compute on; None without CUDA's bindings."""
    cuda = runtime()
    if cuda is None:
        return None
    _done(cuda.cudaSetDevice(number))
    (stream,) = _done(cuda.cudaStreamCreate())
    return int(stream)


def free_stream(stream: int) -> None:
    """Destroy a CUDA stream."""
    cuda = runtime()
    if cuda is not None:
        _done(cuda.cudaStreamDestroy(stream))


def without_copies(
    sessions: Sequence[Any], feed: Mapping[str, NDArray[Any]], rounds: int, seed: int = 0
) -> NDArray[np.float64] | None:
    """Time calls between two CUDA events, with inputs and outputs on the GPU.

    Calls are interleaved in another order every round, as ``profile/timing.py`` does on the host's clock. An event
    waits for the work that was started before it on its stream. So the time is the GPU's; if the host is slower, it
    includes the gaps between kernels.

    Args:
        sessions: sessions to compare.
        feed: one batch, arrays by input name.
        rounds: timings of each session.
        seed: of the order.

    Returns:
        Milliseconds [rounds, sessions]; None without CUDA's bindings, or if a session cannot start calls without
        copies.

    Raises:
        ExportError: CUDA reports an error.
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
                # Wait for the end of the previous call: otherwise its rest would count for this one.
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
    """The values of an answer from CUDA, without its error code.

    Raises:
        ExportError: the code is an error.
    """
    error, *values = answer
    if int(error) != 0:
        raise ExportError(
            f"CUDA reports {getattr(error, 'name', error)}; `compress doctor` shows the GPU and its driver"
        )
    return tuple(values)
