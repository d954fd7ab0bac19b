"""Intervals of scores: laws of the bootstrap, whatever the scores combine to."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from compress.core.statistics import drop_interval, mean_interval, score_interval


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
    np.testing.assert_allclose([found.value, *found.as_list()], [expected.value, *expected.as_list()], atol=0.15)
    assert score_interval(scores) == expected


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
