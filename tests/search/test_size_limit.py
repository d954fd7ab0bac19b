"""Size as a second constraint: the search against brute force, sizes against real files, refusals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import BudgetUnreachable, ConfigError
from compress.core.plan import EncoderShape, Widths
from compress.options.run_config import make_config
from compress.search.knapsack import Sublayer, allocate
from compress.search.size_limit import SizeLimit, allocate_within

SHAPE = EncoderShape("bert", 2, 24, 4, 6, 20)


def _sublayers(seed: int, number: int = 4, levels: int = 4) -> tuple[list[Sublayer], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    found, sizes = [], []
    for _ in range(number):
        widths = tuple(range(levels))
        cost = np.concatenate([[0.0], np.sort(rng.uniform(0.5, 3, levels - 1))])
        loss = np.concatenate([np.sort(rng.uniform(0.1, 5, levels - 1))[::-1], [0.0]])
        found.append(Sublayer(widths, cost, loss))
        sizes.append(np.array(widths) * rng.uniform(1, 4))
    return found, sizes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1.1), st.floats(0.0, 1.1))
def test_within_both_limits_and_no_further_from_the_optimum_than_it_says(seed: int, time: float, space: float) -> None:
    sublayers, sizes = _sublayers(seed)
    budget = time * sum(float(s.cost[-1]) for s in sublayers)
    room = space * sum(float(size[-1]) for size in sizes)
    found = allocate_within(sublayers, sizes, room, budget)

    def total(of: list[np.ndarray], levels: tuple[int, ...]) -> float:
        return sum(float(values[level]) for values, level in zip(of, levels, strict=True))

    costs, losses = [s.cost for s in sublayers], [s.loss for s in sublayers]
    assert total(costs, found.levels) <= budget * (1 + 1e-9)
    assert total(sizes, found.levels) <= room * (1 + 1e-9)
    assert found.loss == pytest.approx(total(losses, found.levels))
    best = min(
        total(losses, levels)
        for levels in product(range(4), repeat=4)
        if total(costs, levels) <= budget and total(sizes, levels) <= room
    )
    assert found.gap is not None
    assert found.loss - found.gap <= best + 1e-9
    assert found.loss >= best - 1e-9


def test_where_the_size_does_not_bind_it_changes_nothing() -> None:
    sublayers, sizes = _sublayers(3)
    budget = 0.5 * sum(float(s.cost[-1]) for s in sublayers)
    assert allocate_within(sublayers, sizes, 1e9, budget) == allocate(sublayers, budget)


def test_a_small_file_where_any_latency_would_do() -> None:
    # The cost alone would keep everything; without the price of bytes there would be nothing to search.
    sublayers, sizes = _sublayers(4)
    room = 0.4 * sum(float(size[-1]) for size in sizes)
    found = allocate_within(sublayers, sizes, room, 1e9)
    assert 0 < sum(float(size[level]) for size, level in zip(sizes, found.levels, strict=True)) <= room


def test_room_counts_weights_of_heads_and_filters() -> None:
    weights = 2 * (4 * 4 * 24 * 6 + 20 * 2 * 24)
    room = SizeLimit.of(0.02, SHAPE, dense_bytes=4 * (weights + 1000), bytes_per_weight=4)
    assert room.fixed == pytest.approx(4000)
    assert room.used(SHAPE.dense) == pytest.approx(4 * (weights + 1000))
    assert room.used(Widths((0, 1), (0, 0))) == pytest.approx(4000 + 4 * 4 * 24 * 6)
    assert room.fits(Widths((0, 0), (5, 5))) and not room.fits(SHAPE.dense)
    room.check()


def test_a_size_below_the_embeddings_is_refused_with_the_least() -> None:
    with pytest.raises(BudgetUnreachable, match=r"size 0.003 MB cannot be reached.*0.004 MB.*--precision int8"):
        SizeLimit(3000, 4000, 1, 1).check()


def test_the_paper_s_search_knows_no_size() -> None:
    with pytest.raises(ConfigError, match="--method full"):
        make_config({"model": "m", "size_mb": 3.0, "method": "kwon"})
