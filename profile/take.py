"""Measures a profile: times structures on the device, fits a latency table to them, checks it on other structures.

Facade of the profiling files: import the table and the profile from here too.

The structures, and the reasons for them:

- *Uniform* structures give the curves. Every layer has width w of one kind, and about half the dense width of the
  other. So a sublayer's cost is seen L times at once, in a real model, among neighbours like those after pruning. In
  trials, curves with the other kind dense, half or removed agreed to a few per cent; half predicted mixed structures
  best. With everything else removed, the worker threads sleep, and each call pays for waking them.
- *Random mixed* structures give the level of the curves (``fit_table``). Others are left out of the fit and check it.
- Every structure is timed beside a *reference* with about half the width of both kinds, see ``bench.py``. If there is
  time, there are two passes, since a session's place in memory changes its latency by a per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from compress.core.plan import EncoderShape, Widths
from compress.profile.bench import (
    LEAST_ROUNDS,
    Bench,
    ModelSource,
    TimedStructure,
    estimate_call_seconds,
    open_sessions,
)
from compress.profile.device import describe_device
from compress.profile.latency_profile import Check, CurvePoint, Profile, recalibrate
from compress.profile.latency_table import (
    LatencyTable,
    Observation,
    PiecewiseLinear,
    filter_levels,
    fit_piecewise,
    fit_table,
)
from compress.profile.target import Target
from compress.profile.timing import PRIME, PRIMED_SECONDS, Clock

__all__ = [
    "Check",
    "CurvePoint",
    "LatencyTable",
    "ModelSource",
    "PiecewiseLinear",
    "Profile",
    "Workload",
    "filter_levels",
    "fit_piecewise",
    "recalibrate",
    "take_profile",
]

# Random structures that fix the level of the curves; more add little.
_MIXED = 6
# Of a rough profile: head counts, filter counts and random structures of either kind, at most.
_ROUGH_HEADS, _ROUGH_FILTERS, _ROUGH_RANDOM = 5, 6, 4
# Least share of the time that is for timing: there is a second pass if opening sessions twice leaves as much, and more
# time is taken if opening them once does not.
_TIMING_SHARE = 0.5
# Sessions beside the reference: more make better use of a round, and cost memory.
_MOST_SESSIONS = 6
_MOST_SESSION_BYTES = 500_000_000


@dataclass(frozen=True)
class Workload:
    """An encoder and its calls on a target.

    Attributes:
        shape: the dense encoder.
        target: names the target and the precision in the profile.
        batch_size, seq_len: examples per call and tokens per example.
    """

    shape: EncoderShape
    target: Target
    batch_size: int
    seq_len: int


def take_profile(
    source: ModelSource,
    workload: Workload,
    *,
    seconds: float = 45.0,
    check_structures: int = 8,
    rough: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> Profile:
    """Measure the latency table of an encoder on this device.

    Args:
        source: builds and opens structures of the encoder, and has a batch to call them with.
        workload: encoder, batch size, length and target.
        seconds: time to spend. If one pass over all structures would take twice as long, fewer filter counts are
            measured, down to nine. It takes longer where opening sessions would leave less than half of it for timing.
        check_structures: number of random structures to check the table on.
        rough: time fewer structures, for a table that tells latencies but that nothing is planned by. Large models take
            seconds per structure, however little time there is.
        seed: of structures and orders.
        progress: takes a line now and then; None for no output.
        clock: None for the system's.

    Returns:
        The profile, marked ``measured``.
    """
    clock, shape, target = clock or Clock(), workload.shape, workload.target
    started = clock.seconds()
    say = progress or (lambda text: None)
    generator = np.random.default_rng(seed)
    filters = filter_levels(shape.filters)
    heads = tuple(range(shape.heads + 1))
    middle = _middle(shape, filters)
    mixed, least_filters = _MIXED, 9
    rough = rough or source.slow
    if rough:
        heads = _thinned(heads, middle.heads[0], _ROUGH_HEADS)
        least_filters = _ROUGH_FILTERS
        mixed = check_structures = min(_ROUGH_RANDOM, check_structures)
    model = source.build(middle)
    with open_sessions(source.open, [model]) as (reference,):
        open_seconds = clock.seconds() - started
        call_seconds = estimate_call_seconds(reference, source.feed, clock)
        one = open_seconds + LEAST_ROUNDS * call_seconds
        others = len(heads) + mixed + check_structures
        affordable = least_filters if rough else max(least_filters, int(2 * seconds / one) - others)
        filters = _thinned(filters, middle.filters[0], affordable)
        structures = _structures(shape, heads, filters, middle, (mixed, check_structures), generator)
        opening = len(structures) * open_seconds
        twice = 2 * opening <= (1 - _TIMING_SHARE) * seconds
        at_once = int(np.clip(_MOST_SESSION_BYTES // max(1, len(model)), 2, _MOST_SESSIONS))
        bench = Bench(
            reference=reference,
            source=source,
            at_once=at_once,
            passes=2 if twice else 1,
            prime=PRIME if call_seconds < PRIMED_SECONDS else 0,
            deadline=started + max(seconds, 0.0 if rough else opening + _TIMING_SHARE * seconds),
            # How long the first compilation took says little about the others.
            each=seconds * at_once / len(structures) if source.slow else None,
            clock=clock,
            generator=generator,
        )
        del model
        say(f"timing {len(structures)} structures, about {seconds:.0f} s")
        reference_ms = bench.time(structures, say)

    table, factors = fit_table(
        shape,
        heads,
        filters,
        [
            Observation(s.widths, reference_ms * timing.ratio, timing.spread, timing.visit)
            for s in structures
            if s.role not in ("bare", "check")
            for timing in s.timings
        ],
        bare_ms=next(reference_ms * s.estimate(np.ones(bench.visits))[0] for s in structures if s.role == "bare"),
    )
    found = _Found(structures, reference_ms, factors)
    if source.slow:
        table = _between(table, tuple(range(shape.heads + 1)), filter_levels(shape.filters))
    return Profile(
        table=table,
        attention_fit=fit_piecewise(table.heads, table.attention_ms),
        ffn_fit=fit_piecewise(table.filters, table.ffn_ms),
        shape=shape,
        batch_size=workload.batch_size,
        seq_len=workload.seq_len,
        precision=target.precision,
        target=target.name,
        device=describe_device(target),
        source="measured",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(clock.seconds() - started, 2),
        points=tuple(_points(found, shape.layers)),
        check=tuple(_check(table, found, s) for s in structures if s.role == "check"),
    )


def _middle(shape: EncoderShape, filters: Sequence[int]) -> Widths:
    """The reference: about half of both kinds in every layer."""
    heads = max(1, round(shape.heads / 2))
    closest = min((width for width in filters if width > 0), key=lambda width: abs(width - shape.filters / 2))
    return Widths(heads=(heads,) * shape.layers, filters=(closest,) * shape.layers)


def _thinned(widths: tuple[int, ...], middle: int, count: int) -> tuple[int, ...]:
    """So many of the widths; always 0, the reference's and the dense one."""
    if len(widths) <= count:
        return widths
    picked = {widths[round(i)] for i in np.linspace(0, len(widths) - 1, count)}
    return tuple(sorted(picked | {middle}))


def _between(table: LatencyTable, heads: tuple[int, ...], filters: tuple[int, ...]) -> LatencyTable:
    """A table of few widths with interpolated values for others, so that a search may choose them."""
    heads, filters = (tuple(sorted({*own, *more})) for own, more in ((table.heads, heads), (table.filters, filters)))
    return replace(
        table,
        heads=heads,
        attention_ms=tuple(map(table.attention_at, heads)),
        filters=filters,
        ffn_ms=tuple(map(table.ffn_at, filters)),
    )


def _structures(
    shape: EncoderShape,
    heads: tuple[int, ...],
    filters: tuple[int, ...],
    middle: Widths,
    random: tuple[int, int],
    generator: np.random.Generator,
) -> list[TimedStructure]:
    """All structures to time, the reference first; so many random ones are mixed, and so many checks."""
    layers = shape.layers
    found = [TimedStructure(middle, "reference"), TimedStructure(shape.dense, "dense")]
    found.append(TimedStructure(Widths((0,) * layers, (0,) * layers), "bare"))
    found += [
        TimedStructure(Widths((h,) * layers, middle.filters), "attention", h) for h in heads if h != middle.heads[0]
    ]
    found += [TimedStructure(Widths(middle.heads, (f,) * layers), "ffn", f) for f in filters if f != middle.filters[0]]
    for role, count in zip(("mixed", "check"), random, strict=True):
        # Spread over the sizes, so that every run checks small and large models.
        shares = np.linspace(0.15, 0.85, count) + generator.uniform(-0.05, 0.05, size=count)
        found += [TimedStructure(_random_widths(layers, heads, filters, s, generator), role) for s in shares]
    return found


def _random_widths(
    layers: int, heads: Sequence[int], filters: Sequence[int], share: float, generator: np.random.Generator
) -> Widths:
    """A structure like those that searches find: about this share of the model, spread unevenly over the layers."""

    def draw(widths: Sequence[int]) -> tuple[int, ...]:
        wanted = np.clip(generator.normal(share, 0.25, size=layers), 0.0, 1.0) * widths[-1]
        return tuple(min(widths, key=lambda width: abs(width - value)) for value in wanted)

    return Widths(heads=draw(heads), filters=draw(filters))


@dataclass(frozen=True)
class _Found:
    """Timed structures, with the factors that turn their ratios into milliseconds."""

    structures: Sequence[TimedStructure]
    reference_ms: float
    factors: NDArray[np.float64]

    def ms(self, structure: TimedStructure) -> float:
        """Milliseconds of a structure."""
        return self.reference_ms * structure.estimate(self.factors)[0]


def _points(found: _Found, layers: int) -> Iterator[CurvePoint]:
    """Raw measurements of the two curves, by width; the reference is a point of both."""
    reference = found.structures[0]
    for kind, own in (("attention", reference.widths.heads[0]), ("ffn", reference.widths.filters[0])):
        uniform = {s.width: s for s in found.structures if s.role == kind} | {own: reference}
        without = found.ms(uniform[0])
        for width, structure in sorted(uniform.items()):
            total = found.ms(structure)
            yield CurvePoint(
                kind="attention" if kind == "attention" else "ffn",
                width=width,
                ms=(total - without) / layers,
                total_ms=total,
                spread=structure.estimate(found.factors)[1],
                samples=round(structure.samples, 1),
            )


def _check(table: LatencyTable, found: _Found, structure: TimedStructure) -> Check:
    predicted, measured = table.predict(structure.widths), found.ms(structure)
    return Check(
        heads=structure.widths.heads,
        filters=structure.widths.filters,
        predicted_ms=predicted,
        measured_ms=measured,
        error=predicted / measured - 1.0,
    )
