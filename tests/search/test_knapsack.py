"""Exact search against brute force, budgets never exceeded, and the paper's searches with their defects mended."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import BudgetUnreachable
from compress.core.importance import rank_losses
from compress.search.knapsack import Sublayer, allocate
from compress.search.kwon import PiecewiseCost, search_latency_kwon, search_macs_kwon

# Hundredths: differences of costs are either nothing or large against rounding.
costs = st.integers(0, 1000).map(lambda n: n / 100)


@st.composite
def sublayers(draw: st.DrawFn) -> list[Sublayer]:
    result = []
    for _ in range(draw(st.integers(1, 5))):
        widths = draw(st.integers(1, 4))
        # Staircases: costs do not fall with width; losses do not rise.
        steps = draw(st.lists(costs, min_size=widths, max_size=widths))
        losses = draw(st.lists(costs, min_size=widths, max_size=widths))
        result.append(
            Sublayer(
                widths=tuple(range(widths + 1)),
                cost=np.concatenate([[0.0], np.cumsum(steps)]),
                loss=np.concatenate([np.cumsum(losses[::-1])[::-1], [0.0]]),
            )
        )
    return result


def brute_force(options: list[Sublayer], budget: float, fixed: float) -> float:
    best = np.inf
    for levels in product(*(range(len(s.widths)) for s in options)):
        if fixed + sum(s.cost[i] for s, i in zip(options, levels, strict=True)) <= budget:
            best = min(best, sum(s.loss[i] for s, i in zip(options, levels, strict=True)))
    return float(best)


@settings(deadline=None, max_examples=150)
@given(sublayers(), st.floats(0.0, 1.2), st.floats(0.0, 3.0))
def test_exact_search_is_brute_force_up_to_its_stated_gap(options: list[Sublayer], share: float, fixed: float) -> None:
    budget = fixed + share * sum(float(s.cost[-1]) for s in options)
    found = allocate(options, budget, fixed=fixed)
    truth = brute_force(options, budget, fixed)
    assert found.cost <= budget + 1e-9
    assert found.loss >= truth - 1e-9
    assert found.gap is not None
    assert found.loss - found.gap <= truth + 1e-9


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
def test_integral_costs_are_solved_to_the_optimum(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    options = [
        Sublayer((0, 1, 2, 3), np.array([0, 1, 2, 3]) * int(rng.integers(1, 5)), np.sort(rng.random(4))[::-1])
        for _ in range(4)
    ]
    budget = float(round(share * sum(s.cost[-1] for s in options)))
    if budget == 0:
        return
    # Buckets of one unit, or a whole fraction of it: nothing is lost to rounding.
    found = allocate(options, budget, buckets=int(budget) * 50)
    assert found.loss == pytest.approx(brute_force(options, budget, 0.0))
    assert found.gap == pytest.approx(0.0, abs=1e-12)


def test_below_the_fixed_part_is_unreachable() -> None:
    option = Sublayer((0, 1), np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    with pytest.raises(BudgetUnreachable, match=r"1\.5"):
        allocate([option], 1.0, fixed=1.5)


def test_equal_losses_are_ranked_by_index() -> None:
    order, loss = rank_losses(np.array([1.0, 3.0, 1.0, 3.0]))
    assert order.tolist() == [1, 3, 0, 2]
    assert loss.tolist() == [8.0, 5.0, 2.0, 1.0, 0.0]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_kwon_macs_keeps_the_budget_even_when_heads_alone_would_exceed_it(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    heads, filters = rng.random((3, 4)), rng.random((3, 16))
    price_head, price_filter = 40.0, 1.0
    budget = share * (heads.size * price_head + filters.size * price_filter)
    kept_heads, kept_filters = search_macs_kwon(heads, filters, price_head, price_filter, budget)
    assert kept_heads.sum() * price_head + kept_filters.sum() * price_filter <= budget + 1e-9


def kept_importance(importance: np.ndarray, counts: np.ndarray) -> float:
    return float(sum(np.sort(row)[::-1][:n].sum() for row, n in zip(importance, counts, strict=True)))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
def test_full_is_never_worse_than_kwon_in_the_objective(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    heads, filters = rng.random((3, 4)), rng.random((3, 16))
    budget = share * (heads.size * 10.0 + filters.size)
    kept = search_macs_kwon(heads, filters, 10.0, 1.0, budget)
    kwon = kept_importance(heads, kept[0]) + kept_importance(filters, kept[1])
    options = []
    for layer in range(3):
        for row, price in ((heads[layer], 10.0), (filters[layer], 1.0)):
            widths = tuple(range(len(row) + 1))
            options.append(Sublayer(widths, np.array(widths) * price, rank_losses(row)[1]))
    found = allocate(options, budget)
    assert heads.sum() + filters.sum() - found.loss >= kwon - 1e-9


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.0, 40.0),
    st.integers(0, 4),
    st.integers(0, 16),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.05]),
)
def test_kwon_latency_keeps_the_fitted_budget_for_any_slope(
    seed: int, budget: float, head_knee: int, filter_knee: int, head_slope: float, filter_slope: float
) -> None:
    rng = np.random.default_rng(seed)
    heads, filters = rng.random((3, 4)), rng.random((3, 16))
    attention, ffn = PiecewiseCost(head_knee, 2.0, head_slope), PiecewiseCost(filter_knee, 3.0, filter_slope)
    kept_heads, kept_filters = search_latency_kwon(heads, filters, attention, ffn, budget)
    assert sum(attention(int(n)) for n in kept_heads) + sum(ffn(int(n)) for n in kept_filters) <= budget + 1e-9
    if budget >= attention(4) * 3 + ffn(16) * 3:
        assert kept_heads.sum() == heads.size and kept_filters.sum() == filters.size


def test_kwon_latency_drops_whole_sublayers_at_low_budgets() -> None:
    rng = np.random.default_rng(0)
    heads, filters = rng.random((6, 12)), rng.random((6, 64))
    kept_heads, kept_filters = search_latency_kwon(
        heads, filters, PiecewiseCost(4, 1.0, 0.1), PiecewiseCost(16, 1.0, 0.05), budget=2.0
    )
    assert 0 < (kept_heads > 0).sum() + (kept_filters > 0).sum() <= 2
