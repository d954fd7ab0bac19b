"""The dense model in the artifact's number format: measured or predicted, and the next budget where it is enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compress.artifact.summary import row_of, rows
from compress.artifact.validation import Sections, Unpruned
from compress.core.plan import Budget, Plan, Structure
from compress.core.statistics import Interval
from compress.export.measure import LatencyComparison
from compress.stages.unpruned import next_budget, unpruned_section
from support.made_up import PLAN, PROFILE, SHAPE, VALIDATION


def timed(dense: float, compressed: float) -> LatencyComparison:
    def around(value: float) -> Interval:
        return Interval(value, 0.9 * value, 1.1 * value)

    return LatencyComparison(around(dense), around(compressed), around(dense / compressed), 40)


def planned(budget: Budget) -> Plan:
    return replace(PLAN, structure=Structure.dense(SHAPE), budget=budget)


def test_pruning_is_measured_against_the_dense_model_in_the_same_number_format() -> None:
    found = unpruned_section(PLAN, "int8", PROFILE, timed(10.0, 2.0), timed(3.0, 2.0))
    assert found is not None and found.latency_ms is not None and found.speedup is not None
    assert (found.latency_ms.value, found.speedup.value, found.rounds) == (3.0, 1.5, 40)
    assert found.next_budget is None and found.sentence == ""
    # In float32 that is the baseline of every speed-up.
    found = unpruned_section(PLAN, "fp32", PROFILE, timed(10.0, 2.0))
    assert found is not None and found.speedup is not None and found.speedup.value == 5.0


def test_what_was_not_timed_is_predicted() -> None:
    found = unpruned_section(PLAN, "fp16", PROFILE, None)
    assert found is not None and found.latency_ms is None and found.speedup is None
    assert found.predicted_ms == pytest.approx(PROFILE.table.dense_ms, abs=1e-4)
    pruned_ms = PROFILE.table.predict(PLAN.structure.widths)
    assert found.predicted_speedup == pytest.approx(PROFILE.table.dense_ms / pruned_ms, abs=1e-3)
    assert unpruned_section(PLAN, "fp16", None, None) is None


@pytest.mark.parametrize("comparison", [timed(20.0, 8.0), None])
def test_a_number_format_that_is_enough_offers_a_budget_that_prunes(comparison: Any) -> None:
    profile = replace(PROFILE, baseline_ms=40.0)
    found = unpruned_section(planned(Budget("speedup", 2.0)), "fp16", profile, comparison)
    assert found is not None and found.next_budget is not None
    option, value = found.next_budget.split()
    speedup_of_dense = 20.0 / 8.0 if comparison else 40.0 / profile.table.dense_ms
    assert option == "--speedup" and float(value) > speedup_of_dense
    assert found.sentence.startswith("The dense model in fp16 meets the budget alone: nothing is pruned.")
    assert found.next_budget in found.sentence and ("by the profile" in found.sentence) == (comparison is None)


def test_the_next_budget_is_less_than_the_dense_model_takes_and_within_reach() -> None:
    dense_ms, none = PROFILE.table.dense_ms, Structure(((),) * 3, ((),) * 3).widths
    option, value = (next_budget(Budget("latency_ms", 50.0), PROFILE) or "").split()
    assert option == "--latency-ms" and PROFILE.table.predict(none) < float(value) < dense_ms
    # Nothing is offered for a budget that is missed, or that is not of latency.
    assert next_budget(Budget("latency_ms", 0.9 * dense_ms), PROFILE) is None
    assert next_budget(Budget("macs", 1.0), PROFILE) is None and next_budget(Budget("speedup", 1.0), None) is None


def test_the_result_table_has_it_unless_it_is_the_float32_model_itself() -> None:
    section = unpruned_section(PLAN, "int8", PROFILE, timed(10.0, 4.8), timed(7.2, 4.8))
    assert section is not None
    found = rows(Sections.of({**VALIDATION, "unpruned": section.to_json()}), PLAN)
    latency, speedup = row_of(found, "latency unpruned"), row_of(found, "speedup unpruned")
    assert (latency.name, latency.dense, latency.compressed) == ("int8", 7.2, 4.8)
    assert (speedup.compressed, speedup.interval) == (1.5, (1.35, 1.65))
    plain = Unpruned.model_validate({**section.to_json(), "precision": "fp32"})
    found = rows(Sections.of({**VALIDATION, "unpruned": plain.to_json()}), PLAN)
    assert row_of(found, "latency unpruned").dense is None
