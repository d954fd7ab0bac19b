"""A planned structure is timed until the profile predicts it well enough, and no more often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress.core.plan import Budget, Plan
from compress.core.progress import Silent
from compress.core.statistics import Interval
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from compress.fineprune.projection import project
from compress.options.run_config import RunConfig
from compress.profile.take import Profile
from compress.search.costs import Costs
from compress.stages import search
from compress.stages.budget_use import MOST_USED, ROUNDS, SHARE
from compress.stages.context import Run
from compress.stages.stage import Stages
from support.profiles import PROFILE
from support.simulated_device import SimulatedDevice
from support.simulated_machine import SHAPE

BUDGET = Budget("speedup", 2.0)


def planned(_run: Run, _importance: Any, profile: Profile, share: float, _size: Any) -> Plan:
    limit = share * profile.dense_ms / BUDGET.value
    draw = np.random.default_rng(0)
    worth = draw.random((SHAPE.layers, SHAPE.heads)), draw.random((SHAPE.layers, SHAPE.filters)) / 16
    structure = project(*worth, Costs.latency(profile.table, limit), limit, exact=True)
    return Plan(SHAPE, structure, BUDGET, "full", macs_fraction=0.5)


def running(monkeypatch: pytest.MonkeyPatch, device: SimulatedDevice) -> Run:
    """A run whose plans come from a projection, and are timed on the device."""
    monkeypatch.setattr(search, "search", planned)
    monkeypatch.setattr(
        search, "_time_plan", lambda run, engine, plan, _: device.compare(plan.structure.widths, engine)
    )
    config = RunConfig(model="m", data="d", output="o", speedup=2.0)
    return Run(config, SimpleNamespace(), Stages(Silent()), device)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("factor", "timings"),
    [(1.0, 1), (1.03, 1), (1.3, 2), (0.7, 2)],
    ids=["as planned", "nearly as planned", "too slow", "too fast"],
)
def test_what_is_timed(monkeypatch: pytest.MonkeyPatch, factor: float, timings: int) -> None:
    device = SimulatedDevice(factor)
    run = running(monkeypatch, device)
    plan, profile = search.search_on_device(run, SimpleNamespace(), Engine("fp32"), PROFILE)  # type: ignore[arg-type]
    assert timings <= len(device.timed) <= ROUNDS and (timings > 1 or len(device.timed) == 1)
    used = 2 * device.of(plan.structure.widths) / PROFILE.dense_ms
    if timings == 1:
        assert used <= MOST_USED
        assert profile.table.predict(plan.structure.widths) == pytest.approx(device.of(plan.structure.widths), rel=0.01)
    if factor == 1.03:
        # Narrower than what was timed, and predicted from it.
        assert plan.structure.widths != device.timed[0] and used <= SHARE + 0.005


@pytest.mark.parametrize(("used", "timings"), [(0.99, 0), (0.945, 0), (1.01, 1), (0.93, 1), (1.2, 1)])
def test_after_a_file_was_timed_its_neighbour_is_not(
    monkeypatch: pytest.MonkeyPatch, used: float, timings: int
) -> None:
    device = SimulatedDevice(1.0)
    run = running(monkeypatch, device)
    before = planned(run, None, PROFILE, SHARE, None)
    latency = used * PROFILE.dense_ms / 2
    file = LatencyComparison(*(Interval(v, v, v) for v in (PROFILE.dense_ms, latency, PROFILE.dense_ms / latency)), 9)
    importance: Any = SimpleNamespace()
    plan, profile = search.search_again(run, importance, Engine("fp32"), before, PROFILE, file)
    assert len(device.timed) >= timings and (timings or not device.timed)
    assert profile.table.predict(plan.structure.widths) <= PROFILE.dense_ms / 2
