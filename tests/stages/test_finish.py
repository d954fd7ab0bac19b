"""A file that misses the budget is built once more, unless another is as good already."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from compress.stages import finish


def found(verdict: str, metric: float) -> Any:
    validation = SimpleNamespace(verdict=verdict, reason="", metric=SimpleNamespace(compressed=metric))
    return SimpleNamespace(validation=validation, timed=object(), outcomes=None)


@pytest.mark.parametrize(
    ("first", "other", "built"),
    [
        (("pass", 0.8), None, 1),
        (("fail", 0.8), None, 2),
        (("fail", 0.8), (True, 0.79), 2),
        (("fail", 0.8), (True, 0.8), 1),
        (("inconclusive", 0.8), (True, 0.9), 1),
        (("fail", 0.8), (False, 0.9), 2),
    ],
)
def test_how_often_a_proposal_is_built(
    monkeypatch: pytest.MonkeyPatch, first: tuple[str, float], other: tuple[bool, float] | None, built: int
) -> None:
    results = iter([found(*first), found("pass", 0.7)])
    calls: list[object] = []
    monkeypatch.setattr(finish, "prune", lambda run, plan: calls.append(plan) or (None, None))
    monkeypatch.setattr(finish, "export_file", lambda *_: SimpleNamespace(summary=str))
    monkeypatch.setattr(finish, "validate_file", lambda *_: next(results))
    monkeypatch.setattr(finish, "refusal_of", lambda *_: None)
    monkeypatch.setattr(finish, "search_again", lambda *_: ("narrower", "corrected"))
    monkeypatch.setattr(finish, "replace", lambda proposal, **changes: SimpleNamespace(**changes))
    config = SimpleNamespace(budget=SimpleNamespace(kind="speedup"), profile=None, int8_drop=0.01)
    run: Any = SimpleNamespace(
        config=config, stages=SimpleNamespace(stage=lambda _: nullcontext()), info=lambda _: None, loaded=None
    )
    proposal: Any = SimpleNamespace(engine=None, plan="wide", measured_with="profile", weighed=None)
    others: Any = [] if other is None else [SimpleNamespace(accepted=other[0], metric=other[1])]
    done = finish.finish(run, proposal, others)
    assert calls == ["wide", "narrower"][:built]
    assert done.proposal.plan == calls[-1]
