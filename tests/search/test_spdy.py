"""Trying structures out: whatever the losses claim, what scores best as a whole is found, within the budget."""

from __future__ import annotations

import numpy as np
import pytest

from compress.core.errors import BudgetUnreachable
from compress.core.importance import Ranking, Rankings
from compress.core.plan import EncoderShape, Structure
from compress.search.costs import Costs
from compress.search.planner import search_full
from compress.search.spdy import search_coefficients

SHAPE = EncoderShape(model_type="bert", layers=3, heads=4, head_size=8, filters=48, hidden_size=32)
COSTS = Costs.macs(SHAPE, 0.4, 12.0)


def random_rankings(seed: int) -> Rankings:
    """Random orders, losses that fall to nothing."""
    generator = np.random.default_rng(seed)

    def rankings(units: int) -> tuple[Ranking, ...]:
        losses = [np.append(np.sort(generator.exponential(size=units))[::-1], 0.0) for _ in range(SHAPE.layers)]
        return tuple(Ranking(generator.permutation(units), loss) for loss in losses)

    return Rankings(rankings(SHAPE.heads), rankings(SHAPE.filters))


def late_filters_matter(structure: Structure) -> float:
    """A score that the losses know nothing of."""
    return 1.0 / (1 + len(structure.filters[-1])) + 0.1 / (1 + len(structure.heads[0]))


@pytest.mark.parametrize("seed", range(4))
def test_finds_a_better_structure_and_says_so(seed: int) -> None:
    rankings = random_rankings(seed)
    start, _ = search_full(rankings, COSTS)
    found = search_coefficients(rankings, COSTS, late_filters_matter, candidates=30, seed=seed)
    assert found.first == late_filters_matter(rankings.structure(start))
    assert found.score == late_filters_matter(rankings.structure(found.widths)) < found.first
    assert SHAPE.macs(found.widths, 12.0) <= COSTS.limit * (1 + 1e-9)


def test_the_rankings_returned_lead_the_search_to_the_best() -> None:
    found = search_coefficients(random_rankings(0), COSTS, late_filters_matter, candidates=30)
    again, _ = search_full(found.rankings, COSTS)
    assert late_filters_matter(found.rankings.structure(again)) == pytest.approx(found.score, rel=0.05)


def test_what_a_plan_is_said_to_lose_does_not_depend_on_the_coefficients() -> None:
    """Plans of several precisions are compared by it, and each has coefficients of its own."""
    rankings = random_rankings(0)
    found = search_coefficients(rankings, COSTS, late_filters_matter, candidates=30)
    searched = [[sublayer.loss[0] for sublayer in COSTS.sublayers(r)] for r in (rankings, found.rankings)]
    assert searched[0] != searched[1]
    assert found.rankings.lost(found.widths) == rankings.lost(found.widths)
    assert found.rankings.total() == rankings.total()


def test_a_score_that_likes_the_first_best_changes_nothing() -> None:
    rankings = random_rankings(1)
    start, _ = search_full(rankings, COSTS)
    best = rankings.structure(start)
    found = search_coefficients(rankings, COSTS, lambda s: 0.0 if s == best else 1.0, candidates=10)
    assert found.widths == start and found.score == 0.0
    for before, after in zip(COSTS.sublayers(rankings), COSTS.sublayers(found.rankings), strict=True):
        np.testing.assert_array_equal(before.loss, after.loss)


def test_no_structure_is_scored_twice_and_no_more_than_asked() -> None:
    scored: list[Structure] = []

    def score(structure: Structure) -> float:
        scored.append(structure)
        return late_filters_matter(structure)

    found = search_coefficients(random_rankings(2), COSTS, score, candidates=8)
    assert len(set(scored)) == len(scored) == found.tried == 9


def test_equal_seeds_try_the_same() -> None:
    def tried(seed: int) -> list[Structure]:
        scored: list[Structure] = []
        search_coefficients(
            random_rankings(3), COSTS, lambda s: float(len(scored.append(s) or scored)), candidates=6, seed=seed
        )
        return scored

    assert tried(5) == tried(5) != tried(6)


def test_ends_where_nothing_new_turns_up() -> None:
    """With room for everything there is one structure; a time limit is not waited for."""
    found = search_coefficients(random_rankings(0), Costs.macs(SHAPE, 1.0, 12.0), late_filters_matter, seconds=1e6)
    assert found.tried == 1


def test_no_time_tries_the_first_alone() -> None:
    assert search_coefficients(random_rankings(0), COSTS, late_filters_matter, seconds=0.0).tried == 1


def test_an_endless_search_is_refused() -> None:
    with pytest.raises(ValueError, match="would not end"):
        search_coefficients(random_rankings(0), COSTS, late_filters_matter)


def test_what_cannot_be_reached_is_said() -> None:
    costs = Costs(COSTS.heads, COSTS.head_cost, COSTS.filters, COSTS.filter_cost, fixed=5.0, limit=4.0)
    with pytest.raises(BudgetUnreachable):
        search_coefficients(random_rankings(0), costs, late_filters_matter, candidates=3)
