"""The statistics of a gate: from what was measured to PASS, FAIL or INCONCLUSIVE. Pure: no clocks, no files.

A limit is met where the whole interval is on its right side, broken where the whole interval is on its wrong side, and
open where the interval straddles it: then another run could say either, and a gate that guessed would fail builds at
random.

What is timed here is timed in *visits*: the models are loaded, timed against each other in turns, and let go; then
again. Within a visit calls resemble each other (drift, caches, where in memory a model happens to lie), so that
counting them as independent makes intervals too narrow. Visits are the units: their spread has all of that in it, and
Student's t for so few of them is honest about how little is known of it.

``tests/gate/test_decision.py`` simulates both kinds of error under noise like that of shared machines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.statistics import Interval, Verdict, drop_interval, verdict_at_least, verdict_at_most

Floats = NDArray[np.float64]

# Visits before each look at the intervals: a limit that is still open is measured on.
VISITS = 8
LOOKS = 3
# Of a decision over all its looks, whoever wins; each look has its part of the error.
CONFIDENCE = 0.99
_PER_LOOK = 1 - (1 - CONFIDENCE) / LOOKS
# Standard deviation of a model's latency from one loading of it to the next, as a fraction: intervals of a record
# rest on one loading and cannot have it in them. Measured: one file timed against itself, ratios with a standard
# deviation of 1.0 to 1.1 % from loading to loading (docs/gate.md).
LOADING_SPREAD = 0.008
# Half-widths of normal intervals, in standard deviations.
_OF_95, _OF_99 = 1.959964, 2.575829


def exactly(value: float) -> Interval:
    """What is counted and not measured."""
    return Interval(value, value, value)


def judged(found: Interval, bound: float, direction: Literal["at most", "at least"]) -> Verdict:
    """Whether a limit is met.

    Args:
        found: what was measured, with its interval.
        bound: the limit, in the same unit.
        direction: which side of it is right.

    Returns:
        Pass or fail where the whole interval is on one side; inconclusive where it straddles the limit.
    """
    return verdict_at_most(found, bound) if direction == "at most" else verdict_at_least(found, bound)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all limits together: one that is broken decides, then one that is open.

    Raises:
        ValueError: there are none; a gate without limits has no verdict.
    """
    found = set(verdicts)
    if not found:
        raise ValueError("no verdict of no limits")
    return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"


def over_visits(values: Sequence[float] | Floats, confidence: float = _PER_LOOK) -> Interval:
    """A positive quantity that was measured once per visit: geometric mean and Student's interval.

    Args:
        values: latencies or ratios of latencies, [visits], at least two.
        confidence: of the two-sided interval.
    """
    from scipy.stats import t

    logs = np.log(np.asarray(values, dtype=np.float64))
    centre = float(logs.mean())
    half = float(t.ppf(0.5 + confidence / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def recorded_ratio(candidate: Interval, baseline: Interval) -> Interval:
    """Latency of a candidate over a baseline's, from the speed-ups of both over the same dense model.

    Each was timed in turns with that model. So the machine's state on either day drops out of a speed-up, unlike
    out of milliseconds.

    Args:
        candidate: its speed-up with the 95 % interval.
        baseline: the same of the baseline.

    Returns:
        The ratio with a 99 % interval, loading included: four loadings took part.
    """
    value = baseline.value / candidate.value
    # A ratio is long where the candidate's speed-up is low and the baseline's high.
    up = math.hypot(math.log(candidate.value / candidate.low), math.log(baseline.high / baseline.value))
    down = math.hypot(math.log(candidate.high / candidate.value), math.log(baseline.value / baseline.low))
    loading = _OF_99 * LOADING_SPREAD * math.sqrt(4)
    up, down = (math.hypot(half * _OF_99 / _OF_95, loading) for half in (up, down))
    return Interval(value, value * math.exp(-down), value * math.exp(up))


def reciprocal(interval: Interval) -> Interval:
    """1 / x of a positive quantity."""
    return Interval(1 / interval.value, 1 / interval.high, 1 / interval.low)


def paired_drop(
    reference: Floats, candidate: Floats, combine: Callable[[Floats], float] | None = None, seed: int = 0
) -> Interval:
    """How much of a metric a candidate loses against a reference on the same examples, with its 95 % interval.

    Args:
        reference: a row per example, [n] or [n, parts].
        candidate: the same, in the same order.
        combine: from rows to the metric; None is their mean.
        seed: of the bootstrap, which draws examples: both models' rows of one together.
    """
    return drop_interval(reference, candidate, combine, seed)


def unpaired_drop(reference: Interval, candidate: Interval) -> Interval:
    """How much of a metric a candidate loses, from two intervals, where examples are not known one by one.

    Wider than ``paired_drop``.

    Args:
        reference: its metric with the 95 % interval.
        candidate: the same of the candidate.
    """
    value = reference.value - candidate.value
    down = math.hypot(reference.value - reference.low, candidate.high - candidate.value)
    up = math.hypot(reference.high - reference.value, candidate.value - candidate.low)
    return Interval(value, value - down, value + up)


def scaled(interval: Interval, factor: float) -> Interval:
    """An interval in another unit.

    Args:
        interval: in the old unit.
        factor: from the old unit to the new one; positive.
    """
    return Interval(interval.value * factor, interval.low * factor, interval.high * factor)
