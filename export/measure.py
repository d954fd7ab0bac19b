"""Measuring exported files: what they answer, how long they take, and which of several forms is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.core.statistics import Interval, median_interval, ratio_interval
from compress.export.cuda_events import without_copies
from compress.profile.gpu import at_work, gpus
from compress.profile.timing import measure

if TYPE_CHECKING:
    from compress.data.batches import Encoded
    from compress.export.session import Session

# Below this a bootstrap interval of a median says little.
LEAST_ROUNDS = 15
MOST_ROUNDS = 2000
_WARMUP = 3
# Untimed calls before every timed one: the other session has just emptied the caches.
_PRIME = 1

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LatencyComparison:
    """Two sessions timed against each other.

    Attributes:
        dense: median milliseconds of one call of the dense model, with its 95 % interval.
        compressed: the same of the compressed model.
        speedup: ratio of the two medians, dense over compressed; its interval resamples rounds, both sides together.
        rounds: calls of each that were timed.
    """

    dense: Interval
    compressed: Interval
    speedup: Interval
    rounds: int


@dataclass(frozen=True)
class GpuComparison:
    """Two sessions timed on a GPU by CUDA events, without the copies to it and back.

    Attributes:
        dense, compressed, speedup, rounds: as for ``LatencyComparison``.
        clock_mhz, most_clock_mhz: of the multiprocessors: right after the timings, and the highest there is; 0 where
            the driver does not tell.
    """

    dense: Interval
    compressed: Interval
    speedup: Interval
    rounds: int
    clock_mhz: int
    most_clock_mhz: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, rounded to 0.1 us."""

        def rounded(interval: Interval) -> dict[str, Any]:
            return {"value": round(interval.value, 4), "ci95": [round(v, 4) for v in interval.as_list()]}

        return {
            "dense": rounded(self.dense),
            "compressed": rounded(self.compressed),
            "speedup": rounded(self.speedup),
            "rounds": self.rounds,
            "clock_mhz": self.clock_mhz,
            "most_clock_mhz": self.most_clock_mhz,
        }


def predict(
    session: Session,
    encoded: Encoded,
    batch_size: int = 32,
    read: Callable[[NDArray[Any], Feed], NDArray[Any]] | None = None,
    fill: float = 0.0,
) -> NDArray[Any]:
    """Outputs of an exported model on a data set.

    Args:
        session: the model.
        encoded: n tokenised examples; they are padded to the longest of their batch.
        batch_size: examples per call.
        read: the task's, from the session's answer and its inputs to outputs; None takes the answer.
        fill: value of outputs at positions that a shorter batch does not have.

    Returns:
        [n, ...], in the order of the examples.

    Raises:
        DataError: there are no examples.
    """
    if len(encoded) == 0:
        raise DataError("there are no examples to run the model on; give data with at least one")
    outputs: NDArray[Any] | None = None
    for batch in encoded.batches(batch_size):
        feed = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
        answer = session.run(feed)
        if read is not None:
            answer = read(answer, feed)
        if outputs is None:
            # The longest batch comes first.
            outputs = np.full((len(encoded), *answer.shape[1:]), fill, dtype=answer.dtype)
        place: Any = (batch.indices, *(slice(size) for size in answer.shape[1:]))
        outputs[place] = answer
    assert outputs is not None
    return outputs


def compare_latency(
    dense: Session, compressed: Session, feed: Feed, seconds: float = 6.0, seed: int = 0
) -> LatencyComparison:
    """Time two sessions against each other on one batch, interleaved call by call.

    Args:
        dense: the baseline, exported as the other one is.
        compressed: the model in question.
        feed: one batch of the deployment's size and length.
        seconds: time to spend, about; never fewer than 15 rounds.
        seed: of the order of the calls and of the bootstrap.
    """
    times = _timed((dense, compressed), feed, seconds, seed)
    return LatencyComparison(
        dense=median_interval(times[:, 0], seed),
        compressed=median_interval(times[:, 1], seed),
        speedup=ratio_interval(times[:, 0], times[:, 1], seed),
        rounds=len(times),
    )


def compare_without_copies(
    dense: Session, compressed: Session, feed: Feed, rounds: int = 300, seed: int = 0
) -> GpuComparison | None:
    """What two sessions take on a GPU whose memory has the inputs already; None where they do not run on one.

    Args:
        dense, compressed, feed: see ``compare_latency``.
        rounds: calls of each to time.
        seed: of the order of the calls and of the bootstrap.
    """
    times = without_copies((dense, compressed), feed, rounds, seed)
    if times is None:
        return None
    # The sessions take the first GPU that fits; clocks of several alike are alike under the same work.
    now = [at_work(gpu) for gpu in gpus()]
    return GpuComparison(
        dense=median_interval(times[:, 0], seed),
        compressed=median_interval(times[:, 1], seed),
        speedup=ratio_interval(times[:, 0], times[:, 1], seed),
        rounds=len(times),
        clock_mhz=max((gpu.now_mhz for gpu in now), default=0),
        most_clock_mhz=max((gpu.most_mhz for gpu in now), default=0),
    )


def choose(variants: Mapping[str, Session], feed: Feed, seconds: float = 3.0, seed: int = 0) -> str:
    """The name of the fastest of several forms of one model.

    The first is the default: another form wins only if it is faster beyond doubt (the 95 % interval of its time over
    the default's is below 1), and of those the one with the least median.

    Args:
        variants: sessions by name, the default first.
        feed: one batch of the deployment's size and length.
        seconds: time to spend, about.
        seed: of the order of the calls and of the bootstrap.
    """
    names = list(variants)
    times = _timed(tuple(variants.values()), feed, seconds, seed)
    ratios = {name: ratio_interval(times[:, i], times[:, 0], seed) for i, name in enumerate(names) if i > 0}
    faster = {name: ratio.value for name, ratio in ratios.items() if ratio.high < 1.0}
    return min(faster, key=lambda name: faster[name], default=names[0])


def _timed(sessions: tuple[Session, ...], feed: Feed, seconds: float, seed: int) -> NDArray[np.float64]:
    """Milliseconds of interleaved calls, [rounds, sessions], for about as long as asked."""
    calls = [partial(session.run, feed) for session in sessions]
    one_round = np.inf
    # The first call of a session allocates, and any may meet a pause: the least of a few tells how many rounds fit.
    for _ in range(3):
        start = perf_counter()
        for call in calls:
            call()
        one_round = min(one_round, perf_counter() - start)
    rounds = int(np.clip(seconds / (one_round * (1 + _PRIME)) - _WARMUP, LEAST_ROUNDS, MOST_ROUNDS))
    return measure(calls, rounds=rounds, warmup=_WARMUP, seed=seed, prime=_PRIME)
