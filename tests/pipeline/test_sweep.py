"""Laws of sweeps: the front is what nothing beats; budgets are read or refused; one run end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress import cli
from compress.core.errors import ConfigError
from compress.core.plan import Budget
from compress.pipeline.sweep import parse_budgets
from compress.pipeline.sweep_result import Point, with_front
from compress.report.html import render
from compress.report.write import page_of
from support.runs import measure_briefly


def point(ms: float, metric: float, refused: str | None = None) -> Point:
    return Point("2x", "fp32", "fp32", 0.5, ms, (ms, ms), 2.0, (2.0, 2.0), metric, (metric, metric), 1, "pass", refused)


POINTS = st.lists(
    st.builds(
        point,
        ms=st.integers(1, 5).map(float),
        metric=st.sampled_from([0.1, 0.5, 0.7, 0.9]),
        refused=st.sampled_from([None, None, "too bad"]),
    ),
    max_size=8,
)


@given(POINTS)
def test_the_front_is_what_nothing_usable_beats(points: list[Point]) -> None:
    marked = with_front(points)
    usable = [found for found in marked if found.refused is None]
    for found in marked:
        beaten = any(
            (other.latency_ms < found.latency_ms and other.metric >= found.metric)
            or (other.latency_ms <= found.latency_ms and other.metric > found.metric)
            for other in usable
        )
        assert found.front == (found.refused is None and not beaten)
    if usable:
        assert any(found.front for found in usable)


def test_budgets_are_read_and_mistakes_refused() -> None:
    assert parse_budgets("latency_ms", "4, 6,8.5,4") == [Budget("latency_ms", v) for v in (4.0, 6.0, 8.5)]
    for text in ("", "4;6", "fast", "-1", "0", "inf", "nan"):
        with pytest.raises(ConfigError, match="write 4,6,8"):
            parse_budgets("speedup", text)


@pytest.mark.parametrize("budgets", [[], ["--speedup", "2", "--latency-ms", "4"]])
def test_a_sweep_takes_one_kind_of_budget(budgets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "model", "--data", "data.csv", *budgets]) == 3
    assert "one of --latency-ms 4,6,8 and --speedup 1.5,2,3" in capsys.readouterr().err


def test_dense_and_budgets_in_one_table_and_picture(
    one_layer: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compress.options.effort import EFFORT, Effort

    measure_briefly(monkeypatch)
    monkeypatch.setitem(
        EFFORT, "fast", Effort(profile_seconds=1.0, candidates=0, epochs=0, most_epochs=0, most_flops=0.0, further=0)
    )
    out = tmp_path / "sweep"
    options: dict[str, Any] = {"--data": data_csv, "--eval-data": data_csv, "--seq-len": 24, "--samples": 32}
    options |= {"--speedup": "1.2,100000", "--effort": "fast", "--precision": "fp32", "--output": out}
    code = cli.main(
        ["sweep", str(one_layer), "--allow-chance", *(str(text) for pair in options.items() for text in pair)]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    document = json.loads((out / "sweep.json").read_text())
    # The second budget cannot be reached: that is said, and the rest stands.
    assert [found["budget"] for found in document["points"]] == ["dense", "1.2x"]
    assert "cannot be reached" in said.err
    assert "dense" in said.out and "1.2x" in said.out
    assert (
        document["provenance"]["origins"]["seq_len"] == "command line"
        and document["provenance"]["seconds"]["profile"] > 0
    )
    searched = [part for part in document["provenance"]["spent"]["parts"] if part["stage"] == "search"]
    # Once for the budget that can be reached, and once more where its file misses it.
    assert searched[0]["part"] == [] and searched[0]["count"] >= 1
    assert (out / "report.html").read_text() == render(page_of([out]))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert "compress[plot]" in said.err
    else:
        assert (out / "sweep.png").stat().st_size > 10_000
