"""Timing many structures of one encoder beside a reference, in bounded memory and time.

Sessions are opened a few at a time, a *visit*, always beside the same reference, and only ratios within a visit are
used: neither the machine's drift nor memory grows with the number of structures.
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
from compress.profile.timing import Clock, Samples, relative, sample, weighted_medians

LEAST_ROUNDS = 6
# Timed calls in a row at each turn, after the one that warms the caches.
_BURST = 2
# Spread of a single undisturbed sample on an ordinary machine, as a fraction.
_SAMPLE_SPREAD = 0.03

Feed = Mapping[str, NDArray[Any]]


class Timed(Protocol):
    """A model that can be called: what sessions of the export room are."""

    def run(self, feed: Feed) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Timing:
    """What one visit said about a structure.

    Attributes:
        visit: its number, from 0.
        ratio: to the reference.
        spread: standard error of the ratio, as a fraction of it.
    """

    visit: int
    ratio: float
    spread: float


@dataclass
class Structure:
    """A structure to time, and what was found.

    Attributes:
        widths: its heads and filters.
        role: what it is timed for.
        width: of a uniform structure: heads or filters per layer, of the kind that is its role.
        timings: one per visit.
        samples: calls timed, each counted by its trust.
    """

    widths: Widths
    role: str
    width: int = 0
    timings: list[Timing] = field(default_factory=list)
    samples: float = 0.0

    def add(self, visit: int, ratio: float, spread: float, kept: float) -> None:
        """Take in what a visit found."""
        # Few samples can lie close together by chance: their spread is not believed below what so few can tell.
        self.timings.append(Timing(visit, ratio, max(spread, _SAMPLE_SPREAD / math.sqrt(max(kept, 0.1)))))
        self.samples += kept

    def estimate(self, factors: NDArray[np.float64]) -> tuple[float, float]:
        """Ratio to the reference and its spread, over all visits, each corrected by its factor [visits]."""
        weights = np.array([timing.spread for timing in self.timings]) ** -2.0
        logs = [math.log(timing.ratio / factors[timing.visit]) for timing in self.timings]
        return math.exp(float(np.average(logs, weights=weights))), float(weights.sum() ** -0.5)


@dataclass
class Bench:
    """Times structures, a few sessions at a time.

    Attributes:
        reference: session of the first structure.
        feed, build, open: see ``compress.profile.take.take_profile``.
        at_once: sessions open beside the reference.
        passes: how often each structure is visited.
        prime: untimed calls before each timed one.
        deadline: when to be done, in seconds of the clock.
        clock: times everything.
        generator: of all orders.
        visits: how many have been made.
    """

    reference: Timed
    feed: Feed
    build: Callable[[Widths], bytes]
    open: Callable[[bytes], Timed]
    at_once: int
    passes: int
    prime: int
    deadline: float
    clock: Clock
    generator: np.random.Generator
    visits: int = 0

    def time(self, structures: Sequence[Structure], say: Callable[[str], None]) -> float:
        """Add what is found to the structures; returns the milliseconds of the first of them, the reference."""
        chunks = self._chunks(len(structures) - 1)
        taken: list[Samples] = []
        for number, chunk in enumerate(chunks):
            now = self.clock.seconds()
            if now >= self.deadline and number >= len(chunks) // self.passes:
                break  # every structure has been timed once
            end = now + (self.deadline - now) / (len(chunks) - number)
            samples = self._visit([structures[1 + i] for i in chunk], end)
            ratios = relative(samples)
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
        """Which of so many structures are visited together, pass after pass."""
        parts = math.ceil(count / self.at_once)
        return [
            part.tolist()
            for _ in range(self.passes)
            for part in np.array_split(self.generator.permutation(count), parts)
        ]

    def _visit(self, chunk: Sequence[Structure], end: float) -> Samples:
        """Time some structures beside the reference, which is the first column, until the clock says so."""
        with opened(self.open, (self.build(structure.widths) for structure in chunk)) as sessions:
            return sample(
                [_call(session, self.feed) for session in (self.reference, *sessions)],
                rounds=LEAST_ROUNDS,
                seconds=max(0.0, end - self.clock.seconds()),
                warmup=2,
                seed=int(self.generator.integers(2**31)),
                prime=self.prime,
                burst=_BURST,
                clock=self.clock,
            )


def _call(session: Timed, feed: Feed) -> Callable[[], object]:
    return lambda: session.run(feed)


def quick_seconds(session: Timed, feed: Feed, clock: Clock) -> float:
    """About how long a call takes."""
    session.run(feed)
    started = clock.seconds()
    session.run(feed)
    return clock.seconds() - started


@contextmanager
def opened(open: Callable[[bytes], Timed], models: Iterable[bytes]) -> Iterator[list[Timed]]:
    """Sessions of some models, closed at the end whatever happens."""
    sessions: list[Timed] = []
    try:
        for model in models:
            sessions.append(open(model))
        yield sessions
    finally:
        for session in sessions:
            session.close()
