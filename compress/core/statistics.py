"""Pure statistics of timings and scores: medians, bootstrap intervals, verdicts. No clocks, no files.

Timings on shared machines drift by factors within minutes. So compared models are measured interleaved, and *pairs* are
resampled: a slow minute hits both sides of a pair and leaves their ratio alone.

Percentile intervals: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["pass", "fail", "inconclusive"]
Floats = NDArray[np.float64]

# Numbers that the bootstrap draws at a time: bounds its memory for large data sets.
_MOST_DRAWN = 10_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % bootstrap interval, in the unit of the estimate."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        """Return the bounds as JSON documents have them."""
        return [self.low, self.high]


def median_interval(samples: Floats, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the median of samples and its 95 % percentile-bootstrap interval.

    Args:
        samples: timings, [n].
        seed: seed of the resampling.
        resamples: number of resamples.
    """
    return _interval(np.median, np.asarray(samples, dtype=np.float64), seed=seed, resamples=resamples)


def ratio_interval(numerator: Floats, denominator: Floats, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the ratio of the medians of two paired series, with its 95 % interval.

    Args:
        numerator: timings, [n].
        denominator: timings, [n]; pairs are resampled together.
        seed: seed of the resampling.
        resamples: number of resamples.

    Raises:
        ValueError: the series differ in length.
    """
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.shape != bottom.shape:
        raise ValueError(f"paired series differ in length: {top.shape} and {bottom.shape}")

    def ratio(above: Floats, below: Floats, axis: int) -> Any:
        return np.median(above, axis=axis) / np.median(below, axis=axis)

    return _interval(ratio, top, bottom, seed=seed, resamples=resamples)


def mean_interval(samples: Floats, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the mean of per-example scores and its 95 % percentile-bootstrap interval.

    Args:
        samples: scores, [n].
        seed: seed of the resampling.
        resamples: number of resamples.
    """
    return _interval(np.mean, np.asarray(samples, dtype=np.float64), seed=seed, resamples=resamples)


def score_interval(
    scores: Floats,
    combine: Callable[[Floats], float] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """Return a metric and its 95 % percentile-bootstrap interval; units are resampled.

    Args:
        scores: one row per unit, [n] or [n, parts].
        combine: turns such rows into the metric; None is the mean of [n].
        seed: seed of the resampling.
        resamples: number of resamples for ``combine``.
    """
    if combine is None:
        return mean_interval(scores, seed)

    # Rows of several parts cannot be samples of scipy's: resample their indices.
    def metric(chosen: NDArray[np.intp], axis: int) -> Any:
        return np.apply_along_axis(lambda rows: combine(scores[rows]), axis, chosen)

    return _interval(metric, np.arange(len(scores)), seed=seed, resamples=resamples)


def drop_interval(
    before: Floats,
    after: Floats,
    combine: Callable[[Floats], float] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Interval:
    """Return how much a metric falls, with its 95 % interval; both rows of a unit are resampled together.

    Args:
        before: one row per unit, [n] or [n, parts].
        after: rows of the same units, in the same order.
        combine: turns such rows into the metric; None is the mean of [n].
        seed: seed of the resampling.
        resamples: number of resamples for ``combine``.
    """
    if combine is None:
        return mean_interval(before - after, seed)
    both = np.stack([before, after], axis=1)
    return score_interval(both, lambda rows: combine(rows[:, 0]) - combine(rows[:, 1]), seed, resamples)


def _interval(statistic: Callable[..., Any], *samples: NDArray[Any], seed: int, resamples: int) -> Interval:
    """Return a statistic of paired samples [n] with its 95 % percentile-bootstrap interval.

    The interval of a single unit has no width: there is nothing to resample.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    value = float(statistic(*samples, axis=-1))
    if len(samples[0]) == 1:
        return Interval(value, value, value)
    with warnings.catch_warnings():
        # Where the statistic is undefined on a resample the bounds are nan, which says it.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        low, high = bootstrap(
            samples,
            statistic,
            n_resamples=resamples,
            batch=1 + _MOST_DRAWN // (1 + len(samples[0])),
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(value, float(low), float(high))


def verdict_at_most(estimate: Interval, limit: float) -> Verdict:
    """Return whether the estimate is at most ``limit``: ``inconclusive`` where the interval straddles it.

    Args:
        estimate: with its interval.
        limit: in the same unit.
    """
    if estimate.high <= limit:
        return "pass"
    return "fail" if estimate.low > limit else "inconclusive"


def verdict_at_least(estimate: Interval, limit: float) -> Verdict:
    """Return whether the estimate is at least ``limit``: ``inconclusive`` where the interval straddles it.

    Args:
        estimate: with its interval.
        limit: in the same unit.
    """
    if estimate.low >= limit:
        return "pass"
    return "fail" if estimate.high < limit else "inconclusive"
