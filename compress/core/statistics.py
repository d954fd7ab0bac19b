"""Pure statistics of timings and scores: medians, bootstrap intervals, verdicts. No clocks, no files.

Timings on shared machines drift by factors within minutes, so whatever is compared is measured interleaved, and what is
resampled is the *pair*: a slow minute hits both sides of a pair and leaves their ratio alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % bootstrap interval, in the unit of the estimate."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        return [self.low, self.high]


def median_interval(samples: NDArray[np.float64], seed: int = 0, resamples: int = 2000) -> Interval:
    """Median of ``samples`` [n] and its 95 % percentile-bootstrap interval."""
    values = np.asarray(samples, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    return Interval(float(np.median(values)), float(low), float(high))


def ratio_interval(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], seed: int = 0, resamples: int = 2000
) -> Interval:
    """Ratio of medians of two paired series [n], with its 95 % interval; pairs are resampled together."""
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.shape != bottom.shape:
        raise ValueError(f"paired series differ in length: {top.shape} and {bottom.shape}")
    draws = np.random.default_rng(seed).integers(0, len(top), size=(resamples, len(top)))
    ratios = np.median(top[draws], axis=1) / np.median(bottom[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(np.median(top) / np.median(bottom)), float(low), float(high))


def mean_interval(samples: NDArray[np.float64], seed: int = 0, resamples: int = 2000) -> Interval:
    """Mean of per-example scores [n] and its 95 % percentile-bootstrap interval."""
    values = np.asarray(samples, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def score_interval(
    scores: NDArray[np.float64],
    combine: Callable[[NDArray[np.float64]], float] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """A metric and its 95 % percentile-bootstrap interval, units resampled.

    Args:
        scores: a row per unit, [n] or [n, parts].
        combine: from such rows to the metric; None is the mean of [n].
        seed: of the resampling.
        resamples: number of resamples for ``combine``.
    """
    if combine is None:
        return mean_interval(scores, seed)
    draws = np.random.default_rng(seed).integers(0, len(scores), size=(resamples, len(scores)))
    low, high = np.percentile([combine(scores[draw]) for draw in draws], [2.5, 97.5])
    return Interval(float(combine(scores)), float(low), float(high))


def drop_interval(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    combine: Callable[[NDArray[np.float64]], float] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """How much a metric falls, with its 95 % interval; a unit's rows of both are resampled together."""
    if combine is None:
        return mean_interval(before - after, seed)
    both = np.stack([before, after], axis=1)
    return score_interval(both, lambda rows: combine(rows[:, 0]) - combine(rows[:, 1]), seed, resamples)


def verdict_at_most(estimate: Interval, limit: float) -> Verdict:
    """Is the estimate at most ``limit``? ``inconclusive`` when the interval straddles it."""
    if estimate.high <= limit:
        return "pass"
    return "fail" if estimate.low > limit else "inconclusive"


def verdict_at_least(estimate: Interval, limit: float) -> Verdict:
    """Is the estimate at least ``limit``? ``inconclusive`` when the interval straddles it."""
    if estimate.low >= limit:
        return "pass"
    return "fail" if estimate.high < limit else "inconclusive"
