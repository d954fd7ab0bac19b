"""Exactly so many elements, the most worthy ones, over all matrices or in each."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.sparsity.topk import allowed, choose

SHAPES = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4)
FRACTIONS = st.floats(0.001, 1.0)


def worths(shapes: list[tuple[int, int]], seed: int) -> list[torch.Tensor]:
    # Few different values: many are equal.
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(-3, 4, size=shape).astype(np.float32)) for shape in shapes]


@given(SHAPES, FRACTIONS, st.integers(0, 99))
def test_exactly_so_many_stay_over_all_matrices(shapes: list[tuple[int, int]], fraction: float, seed: int) -> None:
    worth = worths(shapes, seed)
    masks = choose(worth, fraction, "global")
    total = sum(part.numel() for part in worth)
    assert sum(int(mask.sum()) for mask in masks) == allowed(total, fraction)
    every, kept = torch.cat([w.flatten() for w in worth]), torch.cat([m.flatten() for m in masks]).bool()
    assert [m.shape for m in masks] == [w.shape for w in worth]
    if not bool(kept.all()):
        assert every[kept].min() >= every[~kept].max()
        # Of equal ones the first stay.
        least = every == every[kept].min()
        assert kept[least].tolist() == sorted(kept[least].tolist(), reverse=True)


@given(SHAPES, FRACTIONS, st.integers(0, 99))
def test_exactly_so_many_stay_in_each_matrix(shapes: list[tuple[int, int]], fraction: float, seed: int) -> None:
    for part in worths(shapes, seed):
        (mask,) = choose([part], fraction, "per-matrix")
        assert int(mask.sum()) == allowed(part.numel(), fraction)
    masks = choose(worths(shapes, seed), fraction, "per-matrix")
    assert all(
        torch.equal(m, choose([w], fraction, "global")[0]) for m, w in zip(masks, worths(shapes, seed), strict=True)
    )


@given(st.integers(1, 10**7), st.floats(0.0001, 1.0))
def test_no_more_than_the_fraction_and_never_nothing(elements: int, fraction: float) -> None:
    count = allowed(elements, fraction)
    assert 1 <= count <= elements
    assert count == 1 or count <= elements * fraction + 1e-5
    assert allowed(elements, 1.0) == elements


def test_a_tenth_is_a_tenth_whatever_floats_say() -> None:
    assert [allowed(10 * n, 0.1) for n in (1, 3, 7, 1_061_683)] == [1, 3, 7, 1_061_683]
