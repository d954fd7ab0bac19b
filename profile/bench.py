"""Times many structures of one encoder beside a reference, in bounded memory and time.

A few sessions at a time are open beside the same reference: a *visit*. Only ratios within a visit are used, so neither
memory nor the machine's drift grows with the number of structures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.core.plan import Widths
from compress.core.trace import span
from compress.profile.timing import BURST, Clock, Samples, Schedule, relative_times, sample_calls, weighted_medians

LEAST_ROUNDS = 6
# Spread of a single undisturbed sample on an ordinary machine, as a fraction.
_SAMPLE_SPREAD = 0.03

Feed = Mapping[str, NDArray[Any]]


class TimedSession(Protocol):
    """A loaded model that can be called; sessions of ``export/session.py`` are such models."""

    def run(self, feed: Feed) -> object:
        """Run the model on one batch."""

    def close(self) -> None:
        """Free the model's memory."""


@dataclass(frozen=True)
class ModelSource:
    """How structures of an encoder are built, loaded and called.

    Attributes:
        build: gives the exported model of a structure with these widths.
        open: loads such a model as the target runs it.
        feed: one batch [batch_size, seq_len] by input name.
        slow: whether ``build`` compiles, which takes tens of seconds: few structures are then built, and the table has
            interpolated values between them.
    """

    build: Callable[[Widths], bytes]
    open: Callable[[bytes], TimedSession]
    feed: Feed
    slow: bool = False


@dataclass(frozen=True)
class Timing:
    """The time of a structure in one visit.

    Attributes:
        visit: number of the visit, from 0.
        ratio: time relative to the reference.
        spread: standard error of the ratio, as a fraction of it.
    """

    visit: int
    ratio: float
    spread: float


@dataclass
class TimedStructure:
    """A structure to time, with its timings.

    Attributes:
        widths: its heads and filters.
        role: purpose: ``reference``, ``dense``, ``bare``, ``attention``, ``ffn``, ``mixed`` or ``check``.
        width: heads or filters per layer of a uniform structure, of the kind that is its role; 0 otherwise.
        timings: one per visit.
        samples: number of timed calls, each counted by its trust.
    """

    widths: Widths
    role: str
    width: int = 0
    timings: list[Timing] = field(default_factory=list)
    samples: float = 0.0

    def add(self, visit: int, ratio: float, spread: float, kept: float) -> None:
        """Add the timing of one visit.

        Args:
            visit: number of the visit, from 0.
            ratio: time relative to the reference.
            spread: standard error of the ratio, as a fraction of it.
            kept: number of samples behind the ratio, each counted by its trust.
        """
        # Few samples can lie close together by chance: their spread has a lower bound.
        self.timings.append(Timing(visit, ratio, max(spread, _SAMPLE_SPREAD / math.sqrt(max(kept, 0.1)))))
        self.samples += kept

    def estimate(self, factors: NDArray[np.float64]) -> tuple[float, float]:
        """Time relative to the reference and its spread, over all visits, each corrected by its factor [visits]."""
        weights = np.array([timing.spread for timing in self.timings]) ** -2.0
        logs = [math.log(timing.ratio / factors[timing.visit]) for timing in self.timings]
        return math.exp(float(np.average(logs, weights=weights))), float(weights.sum() ** -0.5)


@dataclass
class Bench:
    """Times structures, a few sessions at a time.

    Attributes:
        reference: session of the first structure.
        source: builds and opens structures.
        at_once: sessions open beside the reference.
        passes: visits of each structure.
        prime: untimed calls before each timed one.
        deadline: when to be done, in seconds of the clock.
        each: seconds of timing per visit, whatever opening takes; None shares out the time until the deadline.
        clock: times everything.
        generator: gives all random orders.
        visits: number of visits so far.
    """

    reference: TimedSession
    source: ModelSource
    at_once: int
    passes: int
    prime: int
    deadline: float
    each: float | None
    clock: Clock
    generator: np.random.Generator
    visits: int = 0

    def time(self, structures: Sequence[TimedStructure], say: Callable[[str], None]) -> float:
        """Time structures and add the timings to them.

        Args:
            structures: the first one is the reference.
            say: takes a line of progress.

        Returns:
            Milliseconds of the reference.
        """
        chunks = self._chunks(len(structures) - 1)
        taken: list[Samples] = []
        for number, chunk in enumerate(chunks):
            now = self.clock.seconds()
            if now >= self.deadline and number >= len(chunks) // self.passes:
                break  # every structure has at least one timing
            end = now + (self.deadline - now) / (len(chunks) - number)
            samples = self._visit([structures[1 + i] for i in chunk], end)
            ratios = relative_times(samples)
            for i, ratio, spread, kept in zip(
                (-1, *chunk), ratios.value.tolist(), ratios.spread.tolist(), ratios.kept.tolist(), strict=True
            ):
                structures[1 + i].add(number, ratio, spread, kept)
            taken.append(samples)
            self.visits += 1
            say(f"{(number + 1) / len(chunks):.0%} timed")
        reference_ms = weighted_medians(
            np.concatenate([samples.undisturbed_ms[:, :1] for samples in taken]),
            np.concatenate([samples.trust[:, :1] for samples in taken]),
        )
        return float(reference_ms[0])

    def _chunks(self, count: int) -> list[list[int]]:
        """Numbers of the structures that are visited together, pass after pass."""
        parts = math.ceil(count / self.at_once)
        return [
            part.tolist()
            for _ in range(self.passes)
            for part in np.array_split(self.generator.permutation(count), parts)
        ]

    def _visit(self, chunk: Sequence[TimedStructure], end: float) -> Samples:
        """Time some structures beside the reference, which is the first column, until ``end`` on the clock."""
        source = self.source
        with open_sessions(source.open, (source.build(structure.widths) for structure in chunk)) as sessions:
            left = max(0.0, end - self.clock.seconds()) if self.each is None else self.each
            schedule = Schedule(LEAST_ROUNDS, left, 2, self.prime, BURST)
            with span("timed calls"):
                return sample_calls(
                    [_call(session, source.feed) for session in (self.reference, *sessions)],
                    schedule,
                    seed=int(self.generator.integers(2**31)),
                    clock=self.clock,
                )


def _call(session: TimedSession, feed: Feed) -> Callable[[], object]:
    return lambda: session.run(feed)


def estimate_call_seconds(session: TimedSession, feed: Feed, clock: Clock) -> float:
    """Seconds of one call, after one untimed call.

    Args:
        session: the model.
        feed: one batch.
        clock: times the call.

    Returns:
        Seconds.
    """
    session.run(feed)
    started = clock.seconds()
    session.run(feed)
    return clock.seconds() - started


@contextmanager
def open_sessions(open: Callable[[bytes], TimedSession], models: Iterable[bytes]) -> Iterator[list[TimedSession]]:
    """Open sessions of some models; all are closed at the end of the block, and if an error occurs.

    Args:
        open: loads a model.
        models: exported models.

    Yields:
        The sessions, in the models' order.
    """
    sessions: list[TimedSession] = []
    try:
        for model in models:
            sessions.append(open(model))
        yield sessions
    finally:
        for session in sessions:
            session.close()
