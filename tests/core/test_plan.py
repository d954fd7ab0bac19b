"""Laws of plans: a round trip loses nothing, equal plans are equal byte for byte, impossible ones cannot be made."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import PlanError
from compress.core.plan import Budget, EncoderShape, Plan, Structure
from support.structures import structures

SHAPE = EncoderShape("bert", layers=3, hidden_size=24, heads=4, head_size=6, filters=20)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of a small encoder, with and without predictions."""
    kind = draw(st.sampled_from(["speedup", "latency_ms", "macs"]))
    budget = Budget(kind, draw(st.floats(0.05, 1.0)))
    fractions = st.floats(0.0, 1.0)
    plan = Plan(SHAPE, draw(structures(SHAPE)), budget, "full", macs_fraction=draw(fractions))
    if draw(st.booleans()):
        times = {"dense_ms": draw(st.floats(0.1, 9)), "predicted_ms": draw(st.floats(0.1, 9))}
        plan = replace(plan, **times, latency_source=draw(st.sampled_from(["measured", "estimated"])))
    return replace(plan, importance_kept=draw(fractions))


@given(plans())
def test_a_round_trip_loses_nothing(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.to_json() == plan.to_json()


@given(plans())
def test_the_order_of_keys_means_nothing(plan: Plan) -> None:
    document = json.loads(plan.to_json())
    turned = json.dumps(dict(reversed(document.items())))
    assert Plan.from_json(turned).to_json() == plan.to_json()


@pytest.mark.parametrize(
    "structure",
    [
        Structure(heads=((4,), (), ()), filters=((), (), ())),
        Structure(heads=((), (), ()), filters=((20,), (), ())),
        Structure(heads=((-1,), (), ()), filters=((), (), ())),
        Structure(heads=((0,),), filters=((0,),)),
    ],
)
def test_a_plan_of_units_that_are_not_there_cannot_be_made(structure: Structure) -> None:
    with pytest.raises(PlanError):
        Plan(SHAPE, structure, Budget("macs", 0.5), "full", macs_fraction=0.5)
