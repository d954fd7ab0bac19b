"""Times calls against each other on a machine whose speed drifts and which other processes use too.

The method, and the reasons for it:

- The machine gets slower and faster by factors within minutes. So calls are interleaved, in another order every round,
  and calls of the same round are compared.
- A call that had to wait for a core says nothing about the model. Waiting hits long calls more than short ones: with as
  many busy processes as cores, ratios of median times were off by 25 %. Linux counts how long each thread was ready but
  did not run. That waiting is subtracted, and disturbed calls get less weight. The remaining error was 5 % after 10
  rounds with as many busy processes as cores, and 1 % after 40 rounds with little disturbance.
- With several busy processes per core almost every call is disturbed, and more is subtracted than remains. Then the
  processor time of the calls is the better measure (6 % error instead of 8 to 15 %). It counts spinning threads too,
  but for all models alike.
- A call right after another model's call finds the other model's weights in the caches. Latency here means that of a
  model that is called again and again, so untimed calls of the same model come first. One is not enough for small
  models: see ``PRIME``.
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

# Untimed calls of a model at each of its turns, and timed ones after them. In a long row of calls a MiniLM-L6 pruned
# for 2x is 2.21 times as fast as the dense one, and an int8 one for 6x 6.8 times. After a single untimed call those
# were 2.12 and 6.4, after two 2.18 and 6.6, after three 2.20 and 6.75 (2 cores of a Xeon; an experiment).
PRIME, BURST = 2, 3
# Longer calls need no untimed ones before them: their weights do not fit into the caches anyway.
PRIMED_SECONDS = 0.03

# Seconds that a call gets longer per second that its threads wait, summed over threads. It is less than 1 because
# threads can wait at the same time. Regression over 95 structures with 2 threads at four loads gave 0.69 to 0.74.
_DELAY_PER_WAIT = 0.72
# Waiting, as a share of the call, at which a sample has half its weight.
_DISTURBED = 0.15
# If the median call waits longer than this share of its time, processor time is used instead.
_HOPELESS = 0.75

_MILLION = 1e6


class Clock:
    """The system's clocks, in nanoseconds. Tests replace it by a simulated machine."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._waits: dict[int, int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the threads that this process has now; ``waited`` counts these.

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
        """Processor time of this process so far, summed over its threads."""
        return time.process_time_ns()

    def waited(self) -> int:
        """How long the watched threads were ready to run without running, summed; 0 on other systems than Linux."""
        for file in self._files:
            # Fails if the thread has ended, or if the kernel keeps no such statistics.
            with suppress(OSError, IndexError, ValueError):
                self._waits[file] = int(os.pread(file, 64, 0).split()[1])
        return sum(self._waits.values())


@dataclass(frozen=True)
class Samples:
    """Timings of several calls, round by round, each [rounds, calls].

    Attributes:
        ms: wall-clock milliseconds.
        waited_ms: milliseconds that threads of this process waited for a core meanwhile, summed over the threads; all
            0 if the system does not tell.
        worked_ms: processor milliseconds, summed over the threads.
    """

    ms: Floats
    waited_ms: Floats
    worked_ms: Floats

    @property
    def undisturbed_ms(self) -> Floats:
        """Milliseconds without the time lost by waiting for a core, [rounds, calls]; at least a quarter of ``ms``."""
        return np.maximum(self.ms - _DELAY_PER_WAIT * self.waited_ms, self.ms / 4)

    @property
    def trust(self) -> Floats:
        """Weight of each sample, 0 to 1, [rounds, calls]: 1 if nothing had to wait."""
        trust: Floats = 1.0 / (1.0 + (self.waited_ms / self.ms / _DISTURBED) ** 2)
        return trust

    @property
    def hopeless(self) -> bool:
        """Whether calls waited for cores about as long as they ran; see the third point of the module's docstring."""
        return bool(np.median(self.waited_ms / self.ms) > _HOPELESS)


@dataclass(frozen=True)
class Ratios:
    """Times of calls relative to one of them.

    Attributes:
        value: ratio to the reference call, [calls]; 1 at the reference.
        spread: standard error of the ratio as a fraction of it, [calls].
        kept: number of samples behind the ratio, each counted by its trust, [calls].
    """

    value: Floats
    spread: Floats
    kept: Floats


@dataclass(frozen=True)
class Schedule:
    """How often calls are timed, and how they are warmed.

    Attributes:
        rounds: timings of each call; with ``seconds`` the least number.
        seconds: time to spend; None for as long as the rounds take. A round that has started is finished.
        warmup: untimed rounds before the first; not counted in ``seconds``.
        prime: untimed calls right before timed ones, so that a model finds its own data in the caches.
        burst: timed calls in a row at each turn, each of another round; makes better use of the untimed ones.
    """

    rounds: int
    seconds: float | None = None
    warmup: int = 3
    prime: int = 1
    burst: int = 1


def measure(calls: Calls, *, rounds: int, warmup: int = 3, seed: int = 0, prime: int = 1, burst: int = 1) -> Floats:
    """Time calls against each other: interleaved, in a random order every round, without garbage collection.

    Args:
        calls: functions to time, without arguments.
        rounds: turns of each call.
        warmup: untimed rounds before the first.
        seed: of the order.
        prime: untimed calls right before timed ones, so that a model finds its own data in the caches.
        burst: timed calls in a row at each turn. Their median counts: they are alike, and would make an interval too
            narrow if each counted.

    Returns:
        Wall-clock milliseconds, [rounds, calls]; ``sample_calls`` also tells how much calls were disturbed.
    """
    schedule = Schedule(rounds * burst, warmup=warmup, prime=prime, burst=burst)
    ms = sample_calls(calls, schedule, seed=seed).ms
    medians: Floats = np.median(ms.reshape(rounds, burst, -1), axis=1)
    return medians


def sample_calls(calls: Calls, schedule: Schedule, *, seed: int = 0, clock: Clock | None = None) -> Samples:
    """Time calls against each other like ``measure``, and record how much each call was disturbed.

    Args:
        calls: functions to time, without arguments.
        schedule: rounds or seconds to spend, and untimed calls.
        seed: of the order.
        clock: None for the system's.

    Returns:
        Wall-clock, waiting and processor time of each call.
    """
    clock = clock or Clock()
    rounds, seconds, burst = schedule.rounds, schedule.seconds, schedule.burst
    for _ in range(schedule.warmup):
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
                for _ in range(schedule.prime):
                    call()
                for row in rows:
                    waited, worked = clock.waited(), clock.worked()
                    before = clock.wall()
                    call()
                    after = clock.wall()
                    row[:, i] = after - before, clock.waited() - waited, clock.worked() - worked
            taken.extend(rows)
    # A clock may be coarser than a call: count at least a nanosecond.
    wall, waits, work = np.maximum(np.stack(taken, axis=1), [[[1.0]], [[0.0]], [[1.0]]]) / _MILLION
    return Samples(wall, waits, work)


def relative_times(samples: Samples, reference: int = 0) -> Ratios:
    """Ratios of the calls' undisturbed times, without the machine's drift.

    Each sample is modelled as (call's own time) x (slowness of the machine in that round) x noise. Median polish
    (Tukey, 1977) of the logarithms finds the two factors, each sample weighted by its trust. So the slowness of a round
    is estimated from all its calls, not from the reference alone, which halves the noise of plain ratios.

    Args:
        samples: of at least one round.
        reference: number of the call that the others are divided by.

    Returns:
        Ratios with their standard errors.
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
    """Weighted median of each column: the least value with half of the weight at or below it.

    With equal weights and an even number of values it is the mean of the middle two.

    Args:
        values: [rows, columns].
        weights: of each value, not negative, [rows, columns].

    Returns:
        Medians [columns].
    """
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
