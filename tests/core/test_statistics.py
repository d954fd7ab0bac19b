"""Intervals of scores: laws of the bootstrap, whatever the scores combine to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from compress.core import statistics
from compress.core.statistics import (
    Interval,
    drop_interval,
    mean_interval,
    median_interval,
    ratio_interval,
    score_interval,
)


def some_scores(seed: int, n: int = 40) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, 2))


def ratio(rows: NDArray[np.float64]) -> float:
    return float(rows[:, 0].sum() / (1 + np.abs(rows[:, 1]).sum()))


@given(st.integers(0, 100))
def test_interval_is_around_the_value(seed: int) -> None:
    found = score_interval(some_scores(seed), ratio, resamples=200)
    assert found.value == ratio(some_scores(seed)) and found.low <= found.value <= found.high
    assert found == score_interval(some_scores(seed), ratio, resamples=200)


@given(st.integers(0, 100))
def test_what_combines_to_the_mean_has_the_interval_of_the_mean(seed: int) -> None:
    scores = some_scores(seed)[:, 0]
    found = score_interval(scores, lambda rows: float(rows.mean()), resamples=2000)
    expected = mean_interval(scores)
    # Both draw the same resamples from the same seed: means of 40 numbers below 5 differ by their rounding alone.
    bound = 40 * 5 * np.finfo(np.float64).eps
    np.testing.assert_allclose(
        [found.value, *found.as_list()], [expected.value, *expected.as_list()], rtol=0, atol=bound
    )
    assert score_interval(scores) == expected


def test_one_unit_has_an_interval_without_width() -> None:
    one = np.array([3.0])
    assert median_interval(one) == mean_interval(one) == Interval(3.0, 3.0, 3.0)
    assert ratio_interval(one, 2 * one) == Interval(0.5, 0.5, 0.5)
    assert score_interval(some_scores(0, n=1), ratio) == Interval(*[ratio(some_scores(0, n=1))] * 3)


def test_intervals_are_the_percentiles_of_resampled_statistics() -> None:
    top, bottom = np.exp(some_scores(0, n=25)).T
    draws = np.random.default_rng(3).integers(0, 25, size=(500, 25))
    ratios = np.median(top[draws], axis=1) / np.median(bottom[draws], axis=1)
    found = ratio_interval(top, bottom, seed=3, resamples=500)
    np.testing.assert_allclose(found.as_list(), np.percentile(ratios, [2.5, 97.5]), rtol=1e-12)


def test_batches_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = median_interval(some_scores(0)[:, 0])
    monkeypatch.setattr(statistics, "_MOST_DRAWN", 100)
    assert median_interval(some_scores(0)[:, 0]) == whole


@pytest.mark.filterwarnings("error")
def test_a_metric_that_some_resamples_do_not_have_has_no_bounds() -> None:
    found = score_interval(some_scores(0), lambda rows: 1.0 if len(np.unique(rows[:, 0])) > 25 else math.nan)
    assert found.value == 1.0 and math.isnan(found.low) and math.isnan(found.high)


@given(st.integers(0, 100))
def test_drop_is_paired(seed: int) -> None:
    before, after = some_scores(seed), some_scores(seed + 1)
    nothing = drop_interval(before, before, ratio, resamples=50)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    dropped = drop_interval(before, after, ratio, resamples=200)
    assert dropped.value == ratio(before) - ratio(after) and dropped.low <= dropped.high
    # A constant loss on every unit has no uncertainty, however much the units differ.
    constant = drop_interval(before[:, 0], before[:, 0] - 0.5)
    np.testing.assert_allclose([constant.value, *constant.as_list()], [0.5] * 3)
