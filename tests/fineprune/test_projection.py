"""Scores to structures: within the budget always, and the search's own structure from the search's own importance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import BudgetUnreachable
from compress.core.importance import Ranking, Rankings, rank_losses
from compress.core.plan import Structure
from compress.fineprune.projection import coarse, cost_of, dense_cost, importance_of, masks_of, project
from compress.search.costs import Costs
from compress.search.planner import search_full
from support.simulated_machine import SHAPE, planted_table

LATENCY = Costs.latency(planted_table(), 0.0)
MACS = Costs.macs(SHAPE, 1.0, 20.0)


def units(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(SHAPE.layers, SHAPE.heads)), rng.exponential(size=(SHAPE.layers, SHAPE.filters)) / 9


@pytest.mark.parametrize("costs", [LATENCY, MACS], ids=["latency", "macs"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), share=st.floats(0.001, 1), exact=st.booleans())
def test_every_projection_is_within_the_budget(costs: Costs, seed: int, share: float, exact: bool) -> None:
    limit = costs.fixed + share * (dense_cost(costs, SHAPE.layers) - costs.fixed)
    structure = project(*units(seed), costs, limit, exact=exact)
    assert cost_of(costs, structure.widths) <= limit * (1 + 1e-9)
    assert all(mask.sum() == n for mask, n in zip(masks_of(structure, SHAPE)[0], structure.widths.heads, strict=True))


def test_all_the_budget_keeps_everything_and_none_of_it_nothing() -> None:
    dense = dense_cost(MACS, SHAPE.layers)
    assert project(*units(0), MACS, dense) == Structure.dense(SHAPE)
    assert project(*units(0), MACS, 0.0).widths.heads == (0,) * SHAPE.layers
    with pytest.raises(BudgetUnreachable):
        project(*units(0), LATENCY, LATENCY.fixed / 2)


@pytest.mark.parametrize("seed", range(5))
def test_what_the_search_knows_gives_the_searchs_structure(seed: int) -> None:
    heads, filters = units(seed)
    factors = np.random.default_rng(seed).uniform(0.5, 2, size=(SHAPE.layers, 2))
    rankings = Rankings(
        heads=tuple(Ranking(*rank_losses(row)) for row in heads),
        filters=tuple(Ranking(*rank_losses(row)) for row in filters),
        coefficients=factors,
    )
    limit = 0.4 * dense_cost(MACS, SHAPE.layers)
    widths, _ = search_full(rankings, replace(MACS, limit=limit))
    assert project(*importance_of(rankings), MACS, limit, exact=True) == rankings.structure(widths)


def test_few_widths_are_offered_in_training_the_ends_among_them() -> None:
    few = coarse(Costs.macs(replace(SHAPE, filters=3072), 1.0, 20.0))
    assert len(few.filters) <= 33 and few.filters[0] == 0 and few.filters[-1] == 3072
