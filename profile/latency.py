"""Taking a profile: time structures on the device, explain them by a table, check the table on others.

Facade of the room: the table and the profile come from here too.

What is timed, and why so:

- *Uniform* structures give the curves: every layer has width w of one kind, and about half the dense width of the
  other. A sublayer's cost is thus seen L times at once, in a real model, among neighbours as they are after pruning. In
  trials curves taken with the other kind dense, half or removed agreed to a few per cent, half being the best guide to
  mixed structures; with everything else removed the worker threads sleep, and each call pays for waking them.
- *Random mixed* structures give the level (``table.fit_table``), and others, kept out of the fit, check it.
- Sessions are opened a few at a time, always beside the same *reference* (half the width of both kinds), and only
  ratios within a round are used: neither drift nor memory grows with the number of structures.
- Two passes in different orders, in different company: where memory happens to lie moves a session by a per cent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.plan import EncoderShape, Widths
from compress.profile.measure import Samples, relative, sample, weighted_medians
from compress.profile.record import Check, Point, Profile, recalibrate
from compress.profile.table import (
    LatencyTable,
    Observation,
    PiecewiseLinear,
    filter_levels,
    fit_piecewise,
    fit_table,
)
from compress.profile.target import Target, describe_device

__all__ = [
    "Check",
    "LatencyTable",
    "PiecewiseLinear",
    "Point",
    "Profile",
    "filter_levels",
    "fit_piecewise",
    "recalibrate",
    "take_profile",
]

# Structures that fix the level of the curves; more tell little that is new.
_MIXED = 6
_LEAST_ROUNDS = 5
# Spread of a single undisturbed sample on an ordinary machine, as a fraction.
_SAMPLE_SPREAD = 0.03
# A second pass is made where opening sessions twice leaves this share of the time for timing.
_TIMING_SHARE = 0.5
# Sessions beside the reference: more make better use of a round, and cost memory.
_MOST_SESSIONS = 6
_MOST_SESSION_BYTES = 500_000_000
# Calls longer than this are not primed by an untimed one: their weights outgrow the caches anyway.
_PRIMED_SECONDS = 0.03

Feed = Mapping[str, NDArray[Any]]


class Timed(Protocol):
    """A model that can be called: what sessions of the export room are."""

    def run(self, feed: Feed) -> object: ...

    def close(self) -> None: ...


@dataclass
class _Structure:
    """A structure to time, and what the passes found: logarithms of its ratio to the reference."""

    widths: Widths
    role: str
    width: int = 0
    logs: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    samples: float = 0.0

    def add(self, ratio: float, spread: float, kept: float) -> None:
        self.logs.append(math.log(ratio))
        # Few samples can lie close together by chance: their spread is not believed below what so few can tell.
        self.spreads.append(max(spread, _SAMPLE_SPREAD / math.sqrt(max(kept, 0.1))))
        self.samples += kept

    def estimate(self) -> tuple[float, float]:
        """Ratio to the reference and its standard error, passes weighted by their precision."""
        weights = np.array(self.spreads) ** -2.0
        return math.exp(float(np.average(self.logs, weights=weights))), float(weights.sum() ** -0.5)


def take_profile(
    build: Callable[[Widths], bytes],
    open: Callable[[bytes], Timed],
    feed: Feed,
    *,
    shape: EncoderShape,
    target: Target,
    batch_size: int,
    seq_len: int,
    seconds: float = 45.0,
    check_structures: int = 8,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Measure the latency table of an encoder on this device.

    Args:
        build: the exported model of a structure, given its widths.
        open: loads such a model as the target runs it.
        feed: one batch [batch_size, seq_len] by input name.
        shape: the dense encoder.
        target: names the target in the profile.
        batch_size, seq_len: of the deployment.
        seconds: time to spend. Where even one pass over all structures would take twice as long, fewer filter counts
            are measured; at the least a few rounds of nine filter counts.
        check_structures: random structures to check the table on.
        seed: of structures and orders.
        progress: takes a line now and then.
    """
    started = perf_counter()
    say = progress or (lambda text: None)
    generator = np.random.default_rng(seed)
    filters = filter_levels(shape.filters)
    heads = tuple(range(shape.heads + 1))
    middle = _middle(shape, filters)
    model = build(middle)
    with _opened(open, [model]) as (reference,):
        open_seconds = perf_counter() - started
        call_seconds = _quick_seconds(reference, feed)
        one = open_seconds + _LEAST_ROUNDS * call_seconds
        others = len(heads) + _MIXED + check_structures
        filters = _thinned(filters, middle.filters[0], int(2 * seconds / one) - others)
        structures = _structures(shape, heads, filters, middle, check_structures, generator)
        twice = 2 * len(structures) * open_seconds <= (1 - _TIMING_SHARE) * seconds
        bench = _Bench(
            reference=reference,
            feed=feed,
            build=build,
            open=open,
            at_once=int(np.clip(_MOST_SESSION_BYTES // max(1, len(model)), 2, _MOST_SESSIONS)),
            passes=2 if twice else 1,
            prime=1 if call_seconds < _PRIMED_SECONDS else 0,
            deadline=started + seconds,
            generator=generator,
        )
        del model
        say(f"timing {len(structures)} structures, about {seconds:.0f} s")
        reference_ms = bench.time(structures, say)

    observations = {
        id(s): Observation(s.widths, reference_ms * ratio, spread)
        for s in structures
        for ratio, spread in (s.estimate(),)
    }
    table = fit_table(
        shape,
        heads,
        filters,
        [observations[id(s)] for s in structures if s.role not in ("bare", "check")],
        bare_ms=next(observations[id(s)].ms for s in structures if s.role == "bare"),
    )
    return Profile(
        table=table,
        attention_fit=fit_piecewise(table.heads, table.attention_ms),
        ffn_fit=fit_piecewise(table.filters, table.ffn_ms),
        shape=shape,
        batch_size=batch_size,
        seq_len=seq_len,
        precision=target.precision,
        target=target.name,
        device=describe_device(target),
        source="measured",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(perf_counter() - started, 2),
        points=tuple(_points(structures, observations, shape.layers)),
        check=tuple(_check(table, observations[id(s)]) for s in structures if s.role == "check"),
    )


def _middle(shape: EncoderShape, filters: Sequence[int]) -> Widths:
    """About half of both kinds in every layer: the reference."""
    heads = max(1, round(shape.heads / 2))
    closest = min((width for width in filters if width > 0), key=lambda width: abs(width - shape.filters / 2))
    return Widths(heads=(heads,) * shape.layers, filters=(closest,) * shape.layers)


def _thinned(filters: tuple[int, ...], middle: int, affordable: int) -> tuple[int, ...]:
    """Fewer filter counts where there is no time for all: 0, the reference's and the dense one always stay."""
    count = max(9, affordable)
    if len(filters) <= count:
        return filters
    picked = {filters[round(i)] for i in np.linspace(0, len(filters) - 1, count)}
    return tuple(sorted(picked | {middle}))


def _structures(
    shape: EncoderShape,
    heads: tuple[int, ...],
    filters: tuple[int, ...],
    middle: Widths,
    check_structures: int,
    generator: np.random.Generator,
) -> list[_Structure]:
    """Everything to be timed, the reference first."""
    layers = shape.layers
    found = [_Structure(middle, "reference"), _Structure(shape.dense, "dense")]
    found.append(_Structure(Widths((0,) * layers, (0,) * layers), "bare"))
    found += [_Structure(Widths((h,) * layers, middle.filters), "attention", h) for h in heads if h != middle.heads[0]]
    found += [_Structure(Widths(middle.heads, (f,) * layers), "ffn", f) for f in filters if f != middle.filters[0]]
    for role, count in (("mixed", _MIXED), ("check", check_structures)):
        # Spread over the sizes, so that no run checks large models only.
        shares = np.linspace(0.15, 0.85, count) + generator.uniform(-0.05, 0.05, size=count)
        found += [_Structure(_random_widths(layers, heads, filters, s, generator), role) for s in shares]
    return found


def _random_widths(
    layers: int, heads: Sequence[int], filters: Sequence[int], share: float, generator: np.random.Generator
) -> Widths:
    """A structure as searches give them: about some share of the model, spread unevenly over the layers."""

    def draw(widths: Sequence[int]) -> tuple[int, ...]:
        wanted = np.clip(generator.normal(share, 0.25, size=layers), 0.0, 1.0) * widths[-1]
        return tuple(min(widths, key=lambda width: abs(width - value)) for value in wanted)

    return Widths(heads=draw(heads), filters=draw(filters))


@dataclass
class _Bench:
    """Times structures beside the reference, a few sessions at a time.

    Attributes:
        reference: session of the first structure.
        feed, build, open: see ``take_profile``.
        at_once: sessions open beside the reference.
        passes: how often each structure is visited.
        prime: untimed calls before each timed one.
        deadline: when to be done, by ``perf_counter``.
        generator: of all orders.
    """

    reference: Timed
    feed: Feed
    build: Callable[[Widths], bytes]
    open: Callable[[bytes], Timed]
    at_once: int
    passes: int
    prime: int
    deadline: float
    generator: np.random.Generator

    def time(self, structures: Sequence[_Structure], say: Callable[[str], None]) -> float:
        """Add what is found to the structures; returns the milliseconds of the first of them, the reference."""
        chunks = self._chunks(len(structures) - 1)
        visits: list[Samples] = []
        for number, chunk in enumerate(chunks):
            now = perf_counter()
            if now >= self.deadline and number >= len(chunks) // self.passes:
                break  # every structure has been timed once
            end = now + (self.deadline - now) / (len(chunks) - number)
            samples = self._visit([structures[1 + i] for i in chunk], end)
            ratios = relative(samples)
            for i, ratio, spread, kept in zip(
                (-1, *chunk), ratios.value.tolist(), ratios.spread.tolist(), ratios.kept.tolist(), strict=True
            ):
                structures[1 + i].add(ratio, spread, kept)
            visits.append(samples)
            say(f"{(number + 1) / len(chunks):.0%} timed")
        reference_ms = weighted_medians(
            np.concatenate([samples.undisturbed_ms[:, :1] for samples in visits]),
            np.concatenate([samples.trust[:, :1] for samples in visits]),
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

    def _visit(self, chunk: Sequence[_Structure], end: float) -> Samples:
        """Time some structures beside the reference, which is the first column, until ``perf_counter`` says so."""
        with _opened(self.open, (self.build(structure.widths) for structure in chunk)) as sessions:
            return sample(
                [_call(session, self.feed) for session in (self.reference, *sessions)],
                rounds=_LEAST_ROUNDS,
                seconds=max(0.0, end - perf_counter()),
                warmup=2,
                seed=int(self.generator.integers(2**31)),
                prime=self.prime,
            )


def _call(session: Timed, feed: Feed) -> Callable[[], object]:
    return lambda: session.run(feed)


def _quick_seconds(session: Timed, feed: Feed) -> float:
    """About how long a call takes."""
    session.run(feed)
    started = perf_counter()
    session.run(feed)
    return perf_counter() - started


@contextmanager
def _opened(open: Callable[[bytes], Timed], models: Iterable[bytes]) -> Iterator[list[Timed]]:
    """Sessions of some models, closed at the end whatever happens."""
    sessions: list[Timed] = []
    try:
        for model in models:
            sessions.append(open(model))
        yield sessions
    finally:
        for session in sessions:
            session.close()


def _points(structures: Sequence[_Structure], observations: Mapping[int, Observation], layers: int) -> Iterator[Point]:
    """Raw measurements of the two curves, by width; the reference is a point of both."""
    reference = structures[0]
    for kind, own in (("attention", reference.widths.heads[0]), ("ffn", reference.widths.filters[0])):
        uniform = {s.width: s for s in structures if s.role == kind} | {own: reference}
        without = observations[id(uniform[0])].ms
        for width, structure in sorted(uniform.items()):
            seen = observations[id(structure)]
            yield Point(
                kind="attention" if kind == "attention" else "ffn",
                width=width,
                ms=(seen.ms - without) / layers,
                total_ms=seen.ms,
                spread=seen.spread,
                samples=round(structure.samples, 1),
            )


def _check(table: LatencyTable, seen: Observation) -> Check:
    predicted = table.predict(seen.widths)
    return Check(
        heads=seen.widths.heads,
        filters=seen.widths.filters,
        predicted_ms=predicted,
        measured_ms=seen.ms,
        error=predicted / seen.ms - 1.0,
    )
