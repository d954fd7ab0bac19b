"""Which form of int8 this machine's device takes. Timings are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from compress.core.statistics import Interval
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from compress.stages import present_device

OFFERED = tuple(
    Engine("int8", form, scheme)  # type: ignore[arg-type]
    for form, scheme in (("packed", "invariant"), ("packed", "dynamic"), ("plain", "static"))
)


@pytest.mark.parametrize("cost", [0.02, 0.3])
@pytest.mark.parametrize("fastest", OFFERED, ids=lambda engine: engine.name)
def test_int8_is_the_exact_invariant_form_unless_it_costs_too_much(
    fastest: Engine, cost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Static ranges answer alike in every call too, but round more coarsely."""
    took = Interval(1 + cost, 1 + cost, 1 + cost)
    monkeypatch.setattr(present_device, "compare_latency", lambda *_, **__: LatencyComparison(took, took, took, 15))
    said: list[str] = []
    run: Any = SimpleNamespace(config=SimpleNamespace(seed=0), info=said.append)
    dense: Any = SimpleNamespace(timing_feed={})
    sessions: Any = {engine.name: None for engine in OFFERED}
    found = present_device._invariant_if_worth_it(run, dense, OFFERED, sessions, fastest.name)
    costly = fastest != OFFERED[0] and cost > present_device.WORTH_INVARIANCE
    assert found == (fastest if costly else OFFERED[0]).name
    assert len(said) == costly
