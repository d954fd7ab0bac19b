"""Measures exported models: their outputs, their latency against the dense model, and the fastest of several forms."""

from __future__ import annotations

import math
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
from compress.profile.gpu import gpus, with_current_clock
from compress.profile.timing import BURST, PRIME, PRIMED_SECONDS, measure

if TYPE_CHECKING:
    from compress.data.batches import Encoded
    from compress.export.session import Session

# Below this a bootstrap interval of a median says little.
LEAST_ROUNDS = 15
MOST_ROUNDS = 2000
_WARMUP = 3

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class LatencyComparison:
    """Two sessions timed against each other.

    Attributes:
        dense: median milliseconds of one call of the dense model, with its 95 % interval.
        compressed: the same of the compressed model.
        speedup: ratio of the two medians, dense over compressed; its interval resamples rounds, both sides together.
        rounds: timed calls of each session.
    """

    dense: Interval
    compressed: Interval
    speedup: Interval
    rounds: int


@dataclass(frozen=True)
class GpuComparison:
    """Two sessions timed on a GPU by CUDA events, without the copies to it and back.

    Attributes:
        dense, compressed, speedup, rounds: see ``LatencyComparison``.
        clock_mhz: clock of the multiprocessors right after the timings; 0 if unknown.
        most_clock_mhz: highest clock of the multiprocessors; 0 if unknown.
    """

    dense: Interval
    compressed: Interval
    speedup: Interval
    rounds: int
    clock_mhz: int
    most_clock_mhz: int

    def to_json(self) -> dict[str, Any]:
        """The comparison in plain JSON types, rounded to 0.1 µs."""

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
        encoded: n tokenised examples; each batch is padded to its longest example.
        batch_size: examples per call.
        read: the task's function from the session's answer and inputs to outputs; None takes the answer itself.
        fill: value of outputs at positions beyond the length of a batch.

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
    dense: Session,
    compressed: Session,
    feed: Feed,
    seconds: float = 6.0,
    seed: int = 0,
    *,
    widest: float = math.inf,
    most: int = 3,
) -> LatencyComparison:
    """Time two sessions against each other on one batch, in turns.

    Args:
        dense: the baseline, exported in the same way.
        compressed: the compressed model.
        feed: one batch of the deployment's size and length, arrays by input name.
        seconds: approximate time to spend; there are at least 15 rounds.
        seed: of the order of the calls and of the bootstrap.
        widest: width of the speed-up's interval, relative to it, above which the same time is spent again.
        most: how often at most.

    Returns:
        Both medians and the speed-up, with 95 % intervals, of all calls.
    """
    found: list[NDArray[np.float64]] = []
    calls = 0
    while True:
        turns, in_a_row = _timed((dense, compressed), feed, seconds, seed + len(found))
        found.append(turns)
        calls += in_a_row * len(turns)
        times = np.concatenate(found)
        speedup = ratio_interval(times[:, 0], times[:, 1], seed)
        if speedup.high - speedup.low <= widest * speedup.value or len(found) >= most:
            break
    return LatencyComparison(
        dense=median_interval(times[:, 0], seed),
        compressed=median_interval(times[:, 1], seed),
        speedup=speedup,
        rounds=calls,
    )


def compare_without_copies(
    dense: Session, compressed: Session, feed: Feed, rounds: int = 300, seed: int = 0
) -> GpuComparison | None:
    """Time two sessions against each other with the inputs already on the GPU.

    Args:
        dense: the baseline, exported in the same way.
        compressed: the compressed model.
        feed: one batch of the deployment's size and length, arrays by input name.
        rounds: timed calls of each session.
        seed: of the order of the calls and of the bootstrap.

    Returns:
        Both medians and the speed-up, with 95 % intervals; None if the sessions do not run on a GPU, or CUDA's bindings
        are not installed.
    """
    times = without_copies((dense, compressed), feed, rounds, seed)
    if times is None:
        return None
    # The sessions use the first GPU that fits. The highest clock of all is the clock of the one that worked.
    now = [with_current_clock(gpu) for gpu in gpus()]
    return GpuComparison(
        dense=median_interval(times[:, 0], seed),
        compressed=median_interval(times[:, 1], seed),
        speedup=ratio_interval(times[:, 0], times[:, 1], seed),
        rounds=len(times),
        clock_mhz=max((gpu.now_mhz for gpu in now), default=0),
        most_clock_mhz=max((gpu.most_mhz for gpu in now), default=0),
    )


def choose_fastest(variants: Mapping[str, Session], feed: Feed, seconds: float = 3.0, seed: int = 0) -> str:
    """Choose the fastest of several forms of one model.

    The first form is the default. Another form wins only if it is significantly faster: the 95 % interval of its time
    over the default's is below 1. Of those, the one with the least median wins.

    Args:
        variants: sessions by name, the default first.
        feed: one batch of the deployment's size and length, arrays by input name.
        seconds: approximate time to spend.
        seed: of the order of the calls and of the bootstrap.

    Returns:
        The name of the chosen form.
    """
    names = list(variants)
    times, _ = _timed(tuple(variants.values()), feed, seconds, seed)
    ratios = {name: ratio_interval(times[:, i], times[:, 0], seed) for i, name in enumerate(names) if i > 0}
    faster = {name: ratio.value for name, ratio in ratios.items() if ratio.high < 1.0}
    return min(faster, key=lambda name: faster[name], default=names[0])


def _timed(sessions: tuple[Session, ...], feed: Feed, seconds: float, seed: int) -> tuple[NDArray[np.float64], int]:
    """Milliseconds of a call in each turn, [turns, sessions], in about the given time; and timed calls in a turn."""
    calls = [partial(session.run, feed) for session in sessions]
    one_round = np.inf
    # The first call of a session allocates, and any call can be interrupted, so the least of three rounds counts.
    for _ in range(3):
        start = perf_counter()
        for call in calls:
            call()
        one_round = min(one_round, perf_counter() - start)
    prime, burst = (PRIME, BURST) if one_round < PRIMED_SECONDS * len(calls) else (0, 1)
    if seconds < LEAST_ROUNDS * (prime + burst) * one_round:
        burst = 1
    rounds = int(np.clip(seconds / (one_round * (prime + burst)) - _WARMUP, LEAST_ROUNDS, MOST_ROUNDS))
    return measure(calls, rounds=rounds, warmup=_WARMUP, seed=seed, prime=prime, burst=burst), burst
