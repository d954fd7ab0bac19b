"""Structured OBS: against refitting by least squares, whatever the width, and on units that are worth nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import compress.calibration.obs
from compress.calibration.curvature import Curvature
from compress.calibration.obs import DAMPING, removal_order

OUTPUTS = 5


def inputs_of(seed: int, columns: int, tokens: int = 200) -> Tensor:
    """Correlated inputs of uneven size, [tokens, columns] float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    scales = torch.rand(columns, generator=generator, dtype=torch.float64) + 0.2
    return torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mixing * scales


def weight_of(seed: int, columns: int) -> Tensor:
    return torch.randn(OUTPUTS, columns, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


def metric_of(seed: int) -> Tensor:
    """An output factor G that is not the identity."""
    root = torch.randn(OUTPUTS, OUTPUTS, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
    return root @ root.T


def columns_of(units: list[int], unit_size: int) -> list[int]:
    return [unit * unit_size + i for unit in units for i in range(unit_size)]


def refitted_loss(x: Tensor, weight: Tensor, metric: Tensor, kept: list[int]) -> float:
    """½ tr(R G Rᵀ), R what is left of X Wᵀ after regressing it on the kept columns.

    The damping of H = XᵀX is rows of sqrt(damping) I below X.
    """
    damping = DAMPING * x.square().sum(0).mean()
    damped = torch.cat([x, damping.sqrt() * torch.eye(x.shape[1], dtype=x.dtype)])
    wanted = damped @ weight.T
    solution = torch.linalg.lstsq(damped[:, kept], wanted).solution if kept else wanted.new_zeros(0, OUTPUTS)
    rest = wanted - damped[:, kept] @ solution
    return 0.5 * float(((rest @ metric) * rest).sum())


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 3))
def test_orders_every_unit_once_with_losses_that_fall_to_nothing(seed: int, units: int, unit_size: int) -> None:
    x, weight = inputs_of(seed, units * unit_size), weight_of(seed, units * unit_size)
    order, loss = removal_order(weight, Curvature(x.T @ x, metric_of(seed)), unit_size)
    assert sorted(order.tolist()) == list(range(units))
    assert loss.shape == (units + 1,)
    assert (np.diff(loss) <= 0).all() and loss[-1] == 0.0 < loss[0]


@pytest.mark.parametrize("unit_size", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_to_go_is_the_cheapest_to_refit_without(seed: int, unit_size: int) -> None:
    units = 8
    x, weight = inputs_of(seed, units * unit_size), weight_of(seed, units * unit_size)
    identity = torch.eye(OUTPUTS, dtype=torch.float64)
    order, loss = removal_order(weight, Curvature(x.T @ x, identity), unit_size)
    alone = [
        refitted_loss(x, weight, identity, columns_of([u for u in range(units) if u != unit], unit_size))
        for unit in range(units)
    ]
    assert order[-1] == int(np.argmin(alone))
    assert loss[-2] == pytest.approx(min(alone), rel=1e-6)


@pytest.mark.parametrize("unit_size", [1, 3])
def test_without_damping_it_is_the_error_on_the_data(unit_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress.calibration.obs, "DAMPING", 1e-12)
    x, weight = inputs_of(7, 8 * unit_size), weight_of(7, 8 * unit_size)
    order, loss = removal_order(weight, Curvature(x.T @ x, torch.eye(OUTPUTS, dtype=torch.float64)), unit_size)
    kept = x[:, columns_of(order[:-1].tolist(), unit_size)]
    wanted = x @ weight.T
    rest = wanted - kept @ torch.linalg.lstsq(kept, wanted).solution
    assert loss[-2] == pytest.approx(0.5 * float(rest.square().sum()), rel=1e-6)


@pytest.mark.parametrize("unit_size", [1, 3])
def test_losses_are_those_of_refitting_at_every_width(unit_size: int) -> None:
    """Removal one by one with compensation ends where refitting the kept units at once does."""
    units = 7
    x, weight, metric = inputs_of(3, units * unit_size), weight_of(3, units * unit_size), metric_of(3)
    order, loss = removal_order(weight, Curvature(x.T @ x, metric), unit_size)
    for count in range(units + 1):
        direct = refitted_loss(x, weight, metric, columns_of(order[:count].tolist(), unit_size))
        assert loss[count] == pytest.approx(direct, rel=1e-6, abs=1e-9 * loss[0])


def test_only_directions_that_matter_are_counted() -> None:
    x, weight = inputs_of(4, 6), weight_of(4, 6)
    weight[0, 2] = 50.0
    blind = torch.eye(OUTPUTS, dtype=torch.float64)
    blind[0, 0] = 0.0
    order, loss = removal_order(weight, Curvature(x.T @ x, blind), 1)
    weight[0] = 0.0
    without, same = removal_order(weight, Curvature(x.T @ x, blind), 1)
    assert order.tolist() == without.tolist()
    np.testing.assert_allclose(loss, same, rtol=1e-9)


@pytest.mark.parametrize("unit_size", [1, 2])
def test_a_duplicate_costs_next_to_nothing(unit_size: int) -> None:
    x, weight = inputs_of(5, 6 * unit_size), weight_of(5, 6 * unit_size)
    twins = (1, 4)
    x[:, columns_of([twins[1]], unit_size)] = x[:, columns_of([twins[0]], unit_size)]
    order, loss = removal_order(weight, Curvature(x.T @ x, torch.eye(OUTPUTS, dtype=torch.float64)), unit_size)
    assert order[-1] in twins
    assert loss[-2] < 1e-3 * loss[0] < 0.1 * loss[-3]


@pytest.mark.parametrize("unit_size", [1, 2])
def test_dead_units_go_first(unit_size: int) -> None:
    x, weight = inputs_of(6, 8 * unit_size), weight_of(6, 8 * unit_size)
    x[:, columns_of([2, 5], unit_size)] = 0.0
    order, loss = removal_order(weight, Curvature(x.T @ x, torch.eye(OUTPUTS, dtype=torch.float64)), unit_size)
    assert set(order[-2:].tolist()) == {2, 5}
    assert loss[-3] < 1e-3 * loss[0] < loss[-4]


def test_a_sublayer_that_never_speaks_costs_nothing() -> None:
    nothing = Curvature(torch.zeros(6, 6), torch.zeros(OUTPUTS, OUTPUTS))
    order, loss = removal_order(weight_of(0, 6), nothing, 2)
    assert sorted(order.tolist()) == [0, 1, 2] and not loss.any()


def test_several_units_in_a_step_give_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    units = 60
    x, weight, metric = inputs_of(8, units, tokens=400), weight_of(8, units), metric_of(8)
    found = Curvature(x.T @ x, metric)
    order, loss = removal_order(weight, found, 1)
    monkeypatch.setattr(compress.calibration.obs, "STEPS", 20)  # three units in a step
    coarse_order, coarse_loss = removal_order(weight, found, 1)
    assert sorted(coarse_order.tolist()) == list(range(units))
    assert (np.diff(coarse_loss) <= 0).all() and coarse_loss[-1] == 0.0
    for count in (15, 30, 45):
        assert len(set(order[:count]) & set(coarse_order[:count])) >= 0.8 * count
        # At the end of a step the loss is exact, so it is that of refitting again.
        direct = refitted_loss(x, weight, metric, coarse_order[:count].tolist())
        assert coarse_loss[count] == pytest.approx(direct, rel=1e-6)
        assert coarse_loss[count] == pytest.approx(loss[count], rel=0.2)
    assert coarse_loss[0] == pytest.approx(loss[0], rel=1e-6)


def test_equal_inputs_give_equal_orders() -> None:
    x, weight = inputs_of(9, 12), weight_of(9, 12)
    runs = [removal_order(weight, Curvature(x.T @ x, metric_of(9)), 2) for _ in range(2)]
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])
