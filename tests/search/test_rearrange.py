"""The exchange lowers its objective, keeps counts, and finds what the diagonal cannot see."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.search.rearrange import exchange, rearrange


def objective(block: np.ndarray, pruned: np.ndarray) -> float:
    return float(block[np.ix_(pruned, pruned)].sum())


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.data())
def test_never_worse_and_of_the_same_size(seed: int, units: int, data: st.DataObject) -> None:
    gradients = np.random.default_rng(seed).normal(size=(20, units))
    block = gradients.T @ gradients
    count = data.draw(st.integers(0, units))
    start = np.sort(np.argsort(block.diagonal())[:count])
    found = exchange(block, start)
    assert len(found) == count == len(set(found.tolist()))
    assert objective(block, found) <= objective(block, start) + 1e-9


def test_units_that_cancel_are_pruned_together() -> None:
    # Gradients of 0 and 1 cancel: pruning both costs next to nothing, though each alone costs most.
    gradients = np.array([[1.0, -0.99, 0.5, 0.6]])
    block = gradients.T @ gradients
    assert exchange(block, np.array([2, 3])).tolist() == [0, 1]


def test_kept_view_is_the_complement() -> None:
    block = np.diag([4.0, 1.0, 3.0, 2.0])
    assert rearrange(block, (0, 2)) == (0, 2)
    assert rearrange(block, ()) == ()
