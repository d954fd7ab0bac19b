"""Taking a profile: time structures on the device, explain them by a table, check the table on others.

Facade of the room: the table and the profile come from here too.

What is timed, and why so:

- *Uniform* structures give the curves: every layer has width w of one kind, and about half the dense width of the
  other. A sublayer's cost is thus seen L times at once, in a real model, among neighbours as they are after pruning. In
  trials curves taken with the other kind dense, half or removed agreed to a few per cent, half being the best guide to
  mixed structures; with everything else removed the worker threads sleep, and each call pays for waking them.
- *Random mixed* structures give the level (``table.fit_table``), and others, kept out of the fit, check it.
- Each is timed against a *reference* (about half the width of both kinds), see ``bench.py``. Two passes where there is
  time: where a session happens to lie in memory moves it by a per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from compress.core.plan import EncoderShape, Widths
from compress.profile.bench import LEAST_ROUNDS, Bench, Feed, Structure, Timed, opened, quick_seconds
from compress.profile.latency_profile import Check, Point, Profile, recalibrate
from compress.profile.latency_table import (
    LatencyTable,
    Observation,
    PiecewiseLinear,
    filter_levels,
    fit_piecewise,
    fit_table,
)
from compress.profile.target import Target, describe_device
from compress.profile.timing import Clock

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
# A second pass is made where opening sessions twice leaves this share of the time for timing.
_TIMING_SHARE = 0.5
# Sessions beside the reference: more make better use of a round, and cost memory.
_MOST_SESSIONS = 6
_MOST_SESSION_BYTES = 500_000_000
# Calls longer than this are not primed by an untimed one: their weights outgrow the caches anyway.
_PRIMED_SECONDS = 0.03


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
    clock: Clock | None = None,
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
        progress: takes a line now and then; None for silence.
        clock: None is the system's.
    """
    clock = clock or Clock()
    started = clock.seconds()
    say = progress or (lambda text: None)
    generator = np.random.default_rng(seed)
    filters = filter_levels(shape.filters)
    heads = tuple(range(shape.heads + 1))
    middle = _middle(shape, filters)
    model = build(middle)
    with opened(open, [model]) as (reference,):
        open_seconds = clock.seconds() - started
        call_seconds = quick_seconds(reference, feed, clock)
        one = open_seconds + LEAST_ROUNDS * call_seconds
        others = len(heads) + _MIXED + check_structures
        filters = _thinned(filters, middle.filters[0], int(2 * seconds / one) - others)
        structures = _structures(shape, heads, filters, middle, check_structures, generator)
        twice = 2 * len(structures) * open_seconds <= (1 - _TIMING_SHARE) * seconds
        bench = Bench(
            reference=reference,
            feed=feed,
            build=build,
            open=open,
            at_once=int(np.clip(_MOST_SESSION_BYTES // max(1, len(model)), 2, _MOST_SESSIONS)),
            passes=2 if twice else 1,
            prime=1 if call_seconds < _PRIMED_SECONDS else 0,
            deadline=started + seconds,
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
        seconds=round(clock.seconds() - started, 2),
        points=tuple(_points(found, shape.layers)),
        check=tuple(_check(table, found, s) for s in structures if s.role == "check"),
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
) -> list[Structure]:
    """Everything to be timed, the reference first."""
    layers = shape.layers
    found = [Structure(middle, "reference"), Structure(shape.dense, "dense")]
    found.append(Structure(Widths((0,) * layers, (0,) * layers), "bare"))
    found += [Structure(Widths((h,) * layers, middle.filters), "attention", h) for h in heads if h != middle.heads[0]]
    found += [Structure(Widths(middle.heads, (f,) * layers), "ffn", f) for f in filters if f != middle.filters[0]]
    for role, count in (("mixed", _MIXED), ("check", check_structures)):
        # Spread over the sizes, so that no run checks large models only.
        shares = np.linspace(0.15, 0.85, count) + generator.uniform(-0.05, 0.05, size=count)
        found += [Structure(_random_widths(layers, heads, filters, s, generator), role) for s in shares]
    return found


def _random_widths(
    layers: int, heads: Sequence[int], filters: Sequence[int], share: float, generator: np.random.Generator
) -> Widths:
    """A structure as searches give them: about some share of the model, spread unevenly over the layers."""

    def draw(widths: Sequence[int]) -> tuple[int, ...]:
        wanted = np.clip(generator.normal(share, 0.25, size=layers), 0.0, 1.0) * widths[-1]
        return tuple(min(widths, key=lambda width: abs(width - value)) for value in wanted)

    return Widths(heads=draw(heads), filters=draw(filters))


@dataclass(frozen=True)
class _Found:
    """Timed structures with what is needed to read them in milliseconds."""

    structures: Sequence[Structure]
    reference_ms: float
    factors: NDArray[np.float64]

    def ms(self, structure: Structure) -> float:
        return self.reference_ms * structure.estimate(self.factors)[0]


def _points(found: _Found, layers: int) -> Iterator[Point]:
    """Raw measurements of the two curves, by width; the reference is a point of both."""
    reference = found.structures[0]
    for kind, own in (("attention", reference.widths.heads[0]), ("ffn", reference.widths.filters[0])):
        uniform = {s.width: s for s in found.structures if s.role == kind} | {own: reference}
        without = found.ms(uniform[0])
        for width, structure in sorted(uniform.items()):
            total = found.ms(structure)
            yield Point(
                kind="attention" if kind == "attention" else "ffn",
                width=width,
                ms=(total - without) / layers,
                total_ms=total,
                spread=structure.estimate(found.factors)[1],
                samples=round(structure.samples, 1),
            )


def _check(table: LatencyTable, found: _Found, structure: Structure) -> Check:
    predicted, measured = table.predict(structure.widths), found.ms(structure)
    return Check(
        heads=structure.widths.heads,
        filters=structure.widths.filters,
        predicted_ms=predicted,
        measured_ms=measured,
        error=predicted / measured - 1.0,
    )
