"""A structure that scores chose uses the budget on the device, whatever the profile thought of the device."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress.core.plan import Budget, Plan, Structure
from compress.export.lowering import Engine
from compress.fineprune.projection import project
from compress.options.run_config import RunConfig
from compress.search.costs import Costs
from compress.stages.budget_use import LEAST_USED, MOST_USED, ROUNDS
from compress.stages.context import Run
from compress.stages.results import Proposal
from compress.stages.settle_structure import AIM, Settling
from compress.stages.stage import Stages
from support.profiles import PROFILE
from support.simulated_device import SimulatedDevice
from support.simulated_machine import SHAPE

BUDGET = Budget("speedup", 2.0)
LIMIT = AIM * PROFILE.dense_ms / 2


def settling(device: SimulatedDevice, **options: Any) -> Settling | None:
    config = RunConfig(model="m", data="d", output="o", speedup=2.0, **options)
    plan = Plan(SHAPE, Structure.dense(SHAPE), BUDGET, "full", macs_fraction=1.0)
    proposal = Proposal(Engine("fp32"), PROFILE, plan)
    costs = replace(Costs.latency(PROFILE.table, LIMIT), limit=LIMIT)
    return Settling.of(Run(config, SimpleNamespace(), Stages(Said()), device), proposal, costs)  # type: ignore[arg-type]


class Said:
    """Progress that keeps nothing."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_more: None


def choose(limit: float) -> Structure:
    draw = np.random.default_rng(0)
    worth = draw.random((SHAPE.layers, SHAPE.heads)), draw.random((SHAPE.layers, SHAPE.filters)) / 16
    return project(*worth, Costs.latency(PROFILE.table, limit), limit, exact=True)


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.15, 1.3])
def test_narrower_where_it_takes_longer_and_wider_where_it_takes_less(factor: float) -> None:
    device = SimulatedDevice(factor)
    one = settling(device)
    assert one is not None
    structure, limit = one(choose)
    used = 2 * device.of(structure.widths) / PROFILE.dense_ms
    before = 2 * device.of(choose(LIMIT).widths) / PROFILE.dense_ms
    # Widths come in steps: of a small model no structure may use exactly what is aimed at.
    assert used <= MOST_USED and used > before if factor < 1 else used <= MOST_USED < before
    assert used >= LEAST_USED - 0.05
    assert structure == choose(limit)
    assert 2 <= len(device.timed) <= ROUNDS
    assert one.profile.table.predict(structure.widths) == pytest.approx(device.of(structure.widths))


def test_one_timing_where_it_is_as_predicted() -> None:
    device = SimulatedDevice(1.0)
    one = settling(device)
    assert one is not None and one(choose) == (choose(LIMIT), LIMIT) and len(device.timed) == 1


def test_a_device_that_nothing_is_fast_enough_on_keeps_what_can_be_kept() -> None:
    device = SimulatedDevice(1.0, least=20 * PROFILE.dense_ms)
    one = settling(device)
    assert one is not None and one(choose)[0] == choose(LIMIT)


def test_nothing_is_timed_with_a_profile_that_was_given() -> None:
    assert settling(SimulatedDevice(1.0), profile="profile.json") is None
