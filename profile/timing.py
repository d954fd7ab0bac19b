"""Timing calls against each other on a machine that drifts and that others use too.

Why it is done as it is:

- The machine gets slower and faster by factors within minutes. So calls are interleaved, in another order every round,
  and what is compared is calls of the same round.
- A call that had to wait for a core says nothing about the model, and waiting does not hit all alike: a long call is
  interrupted, a short one slips through. In trials with as many busy processes as cores, ratios of median times were
  off by 25 %. Linux counts how long each thread was ready to run but did not, so that waiting can be subtracted and
  disturbed calls count for less (error left: 5 % after 10 rounds there, 1 % after 40 rounds with little disturbance).
- With several busy processes a core next to no call is left alone, and what is subtracted exceeds what remains. The
  processor time of the calls is then the better measure (6 % instead of 8 to 15 %): it counts threads that spin, but
  for all models alike.
- A call right after another model's finds that one's weights in the caches. Latency is meant warm: an untimed call of
  the same model goes first.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Calls = Sequence[Callable[[], object]]

# How much longer a call takes per second that its threads wait, summed over threads: less than 1, for they can wait at
# the same time. Regressed from timings of 95 structures with 2 threads at four loads: 0.69 to 0.74.
_DELAY_PER_WAIT = 0.72
# Waiting, as a share of the call, at which a sample counts half.
_DISTURBED = 0.15
# Where calls wait longer than this share of their time in the median, processor time is used instead.
_HOPELESS = 0.75

_MILLION = 1e6


class Clock:
    """What the system tells about time, in nanoseconds. Tests put a simulated machine in its place."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._waits: dict[int, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the threads that this process has now; ``waited`` is of these.

        Source: Documentation/scheduler/sched-stats.rst of the Linux kernel, ``/proc/<pid>/task/<tid>/schedstat``.
        """
        for path in Path("/proc/self/task").glob("*/schedstat"):
            with suppress(OSError):  # a thread that ended just now
                self._files.append(os.open(path, os.O_RDONLY))
        self._waits = dict.fromkeys(self._files, 0)
        try:
            yield
        finally:
            for file in self._files:
                os.close(file)
            self._files = []

    def seconds(self) -> float:
        """``wall`` in seconds."""
        return self.wall() / 1e9

    def wall(self) -> int:
        """A monotonic clock."""
        return time.perf_counter_ns()

    def worked(self) -> int:
        """Processor time of this process so far, all threads together."""
        return time.process_time_ns()

    def waited(self) -> int:
        """How long the threads watched were ready to run without running, summed; always 0 off Linux."""
        for file in self._files:
            # Fails where the thread has ended, or the kernel keeps no such statistics.
            with suppress(OSError, IndexError, ValueError):
                self._waits[file] = int(os.pread(file, 64, 0).split()[1])
        return sum(self._waits.values())


@dataclass(frozen=True)
class Samples:
    """Timings of several calls, round by round, each [rounds, calls].

    Attributes:
        ms: wall-clock milliseconds.
        waited_ms: milliseconds that threads of this process waited for a core meanwhile, summed over the threads; all
            0 where the system does not tell.
        worked_ms: processor milliseconds, summed over the threads.
    """

    ms: Floats
    waited_ms: Floats
    worked_ms: Floats

    @property
    def undisturbed_ms(self) -> Floats:
        """Milliseconds without what waiting for a core cost, [rounds, calls]; at least a quarter of ``ms``."""
        return np.maximum(self.ms - _DELAY_PER_WAIT * self.waited_ms, self.ms / 4)

    @property
    def trust(self) -> Floats:
        """How much each sample counts, 0 to 1, [rounds, calls]: 1 where nothing had to wait."""
        trust: Floats = 1.0 / (1.0 + (self.waited_ms / self.ms / _DISTURBED) ** 2)
        return trust

    @property
    def hopeless(self) -> bool:
        """Whether calls waited for cores about as long as they ran: see the module's third point."""
        return bool(np.median(self.waited_ms / self.ms) > _HOPELESS)


@dataclass(frozen=True)
class Ratios:
    """How long calls take, relative to one of them.

    Attributes:
        value: ratio to the reference call, [calls]; 1 at the reference.
        spread: standard error of the ratio as a fraction of it, [calls].
        kept: samples the ratio rests on, each counted by its trust, [calls].
    """

    value: Floats
    spread: Floats
    kept: Floats


def measure(calls: Calls, *, rounds: int, warmup: int = 3, seed: int = 0, prime: int = 1) -> Floats:
    """Time calls against each other, interleaved, in a random order every round, without garbage collection.

    Args:
        calls: what to time; arguments bound.
        rounds: how often to time each.
        warmup: untimed rounds before.
        seed: of the order.
        prime: untimed calls right before each timed one, so that it finds its own data in the caches.

    Returns:
        Wall-clock milliseconds, [rounds, calls]; ``sample`` also tells what disturbed them.
    """
    return sample(calls, rounds=rounds, warmup=warmup, seed=seed, prime=prime).ms


def sample(
    calls: Calls,
    *,
    rounds: int,
    seconds: float | None = None,
    warmup: int = 3,
    seed: int = 0,
    prime: int = 1,
    burst: int = 1,
    clock: Clock | None = None,
) -> Samples:
    """``measure``, for a time instead of a number of rounds if wanted, and with what disturbed each call.

    Args:
        calls: what to time; arguments bound.
        rounds: how often to time each; at least so often where ``seconds`` is given.
        seconds: time to spend, None for as long as the rounds take. The round that is running then is finished.
        warmup: untimed rounds before; not counted in ``seconds``.
        seed: of the order.
        prime: untimed calls before timed ones.
        burst: timed calls in a row at each turn, each of another round; makes better use of the untimed ones.
        clock: None is the system's.
    """
    clock = clock or Clock()
    for _ in range(warmup):
        for call in calls:
            call()
    order = np.random.default_rng(seed)
    taken: list[Floats] = []
    with _no_garbage_collection(), clock.watching():
        start = clock.wall()
        while len(taken) < rounds or (seconds is not None and clock.wall() - start < seconds * 1e9):
            rows = np.empty((burst, 3, len(calls)))
            for i in order.permutation(len(calls)):
                call = calls[i]
                for _ in range(prime):
                    call()
                for row in rows:
                    waited, worked = clock.waited(), clock.worked()
                    before = clock.wall()
                    call()
                    after = clock.wall()
                    row[:, i] = after - before, clock.waited() - waited, clock.worked() - worked
            taken.extend(rows)
    # A clock may be coarser than a call: nothing takes less than a nanosecond.
    wall, waits, work = np.maximum(np.stack(taken, axis=1), [[[1.0]], [[0.0]], [[1.0]]]) / _MILLION
    return Samples(wall, waits, work)


def relative(samples: Samples, reference: int = 0) -> Ratios:
    """Ratios of the calls' undisturbed times, with the machine's drift taken out.

    Each sample is read as (call's own time) x (how slow the machine was in that round) x noise, and the two factors
    are found by median polish (Tukey, 1977) of the logarithms, each sample weighted by its trust. A round is thus
    compared with all calls in it, not with one reference only, which halves the noise of plain ratios.

    Args:
        samples: of at least one round.
        reference: the call that the others are divided by.
    """
    logs, trust = np.log(samples.undisturbed_ms), samples.trust
    if samples.hopeless:
        logs, trust = np.log(samples.worked_ms), np.ones_like(trust)
    calls = weighted_medians(logs, trust)
    for _ in range(12):
        rounds = weighted_medians((logs - calls).T, trust.T)
        calls = weighted_medians(logs - rounds[:, None], trust)
    # 1.4826 MAD estimates a standard deviation; the median's own error is a quarter more than the mean's.
    deviation = 1.4826 * 1.25 * weighted_medians(np.abs(logs - rounds[:, None] - calls), trust)
    kept = trust.sum(axis=0)
    return Ratios(np.exp(calls - calls[reference]), deviation / np.sqrt(kept), kept)


def weighted_medians(values: Floats, weights: Floats) -> Floats:
    """Weighted median of each column: the least value with half of the weight at or below it; with equal weights, and
    an even number of values, the mean of the middle two."""
    order = np.argsort(values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    passed = np.cumsum(np.take_along_axis(weights, order, axis=0), axis=0)
    half = passed[-1] / 2
    columns = np.arange(values.shape[1])
    tolerance = 1e-12 * passed[-1]
    lower = np.argmax(passed >= half - tolerance, axis=0)
    upper = np.argmax(passed > half + tolerance, axis=0)
    medians: Floats = (ordered[lower, columns] + ordered[upper, columns]) / 2
    return medians


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
