"""Laws of choosing: the most accurate within the budget, nothing refused, every candidate accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.artifact.validation import Validation
from compress.core.errors import PrecisionRefused
from compress.core.plan import Budget, EncoderShape, Plan, Structure
from compress.export.lowering import Engine
from compress.export.onnx import ExportReport
from compress.stages import candidates
from compress.stages.results import Exported, Finished, Proposal, Repairs
from support.gate_artifact import VALIDATION, changed

SHAPE = EncoderShape("bert", layers=1, hidden_size=8, heads=2, head_size=4, filters=4)


def proposal(precision: Any = "fp32", importance: float = 0.9, heads: int = 1) -> Proposal:
    structure = Structure(heads=(tuple(range(heads)),), filters=((0, 1, 2, 3),))
    plan = Plan(SHAPE, structure, Budget("speedup", 2.0), "full", macs_fraction=0.5, importance_kept=importance)
    return Proposal(Engine(precision), None, plan)


def finished(
    of: Proposal, metric: float = 0.9, ms: float = 5.0, verdict: str = "pass", refused: str | None = None
) -> Finished:
    document = changed(changed(VALIDATION, "latency_ms.compressed", ms), "metric.compressed", metric)
    validation = Validation.model_validate({**document, "verdict": verdict, "reason": "so it is"})
    exported = Exported(Path("model.onnx"), of.engine, ExportReport(20, {}, 1, 1000), 0.0, Path("model.onnx"))
    return Finished(of, None, Repairs(), exported, validation, refused)


def latency_of(candidate: Finished) -> float:
    found = candidate.measured.latency_ms.compressed
    assert found is not None
    return found


MEASURED = st.lists(
    st.builds(
        finished,
        of=st.just(proposal()),
        metric=st.sampled_from([0.1, 0.5, 0.9]),
        ms=st.floats(1, 10),
        verdict=st.sampled_from(["pass", "fail", "inconclusive"]),
        refused=st.sampled_from([None, None, "too bad"]),
    ),
    min_size=1,
    max_size=5,
)


@given(MEASURED)
def test_the_most_accurate_within_the_budget_wins(tried: list[Finished]) -> None:
    accepted = [candidate for candidate in tried if candidate.accepted]
    usable = [candidate for candidate in tried if candidate.refused is None]
    if not usable:
        with pytest.raises(PrecisionRefused, match="too bad"):
            candidates.best(tried)
        return
    chosen = candidates.best(tried)
    assert chosen.refused is None
    if accepted:
        assert chosen.accepted and chosen.metric == max(candidate.metric for candidate in accepted)
        equals = [c for c in accepted if c.metric == chosen.metric]
        assert latency_of(chosen) == min(latency_of(candidate) for candidate in equals)


def test_the_least_expected_loss_comes_first() -> None:
    order = candidates.in_order([proposal("fp32", 0.8), proposal("int8", 0.99)])
    assert [p.engine.precision for p in order] == ["int8", "fp32"]
    tie = candidates.in_order([proposal("fp32"), proposal("int8")])
    assert [p.engine.precision for p in tie] == ["fp32", "int8"]


def test_what_has_little_hope_is_not_finished_beside_what_was_accepted() -> None:
    good = finished(proposal("int8", importance=0.9995))
    assert candidates.hopeless(proposal(importance=0.99), [good]) is not None
    assert candidates.hopeless(proposal(importance=0.999), [good]) is None
    assert candidates.hopeless(proposal(importance=0.1), []) is None
    for unusable in (finished(good.proposal, verdict="fail"), finished(good.proposal, refused="too bad")):
        assert candidates.hopeless(proposal(importance=0.1), [unusable]) is None
    dense = finished(proposal("int8", importance=1.0, heads=2))
    assert "nothing pruned" in str(candidates.hopeless(proposal(importance=0.9999), [dense]))


def test_every_candidate_is_accounted_for() -> None:
    first, second, third = proposal("int8"), proposal("fp32"), proposal("fp16")
    tried = [finished(first, metric=0.9), finished(second, metric=0.8)]
    rows, why = candidates.account([first, second, third], tried, tried[0], {"fp16": "not finished"})
    assert [row.outcome for row in rows] == ["chosen", "less accurate: 0.8000 against 0.9000", "not finished"]
    assert why.startswith("int8: keeps 50% of the MACs") and "fp16: not finished" in why
    assert rows[2].latency_ms is None and rows[0].latency_ms == 5.0
    # What is not known of one that was not finished is null; what makes no sense for it is absent.
    assert rows[2].to_json()["latency_ms"] is None and "verdict" not in rows[2].to_json()
    late = finished(second, verdict="fail")
    rows, _ = candidates.account([first, second], [tried[0], late], tried[0], {})
    assert rows[1].outcome == "fail: so it is"


def test_a_finished_file_moves_with_its_weights(tmp_path: Path) -> None:
    source, target = tmp_path / "int8", tmp_path / "out"
    source.mkdir(), target.mkdir()
    for name in ("model.onnx", "model.onnx.data", "float.onnx"):
        (source / name).write_text(name)
    exported = Exported(source / "model.onnx", Engine(), ExportReport(20, {}, 1, 1), 0.0, source / "float.onnx")
    candidates.place(exported, target)
    assert sorted(file.name for file in target.iterdir()) == ["model.onnx", "model.onnx.data"]
