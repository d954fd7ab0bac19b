"""A trace: spans within spans, written whatever happens, and nothing at all where nobody asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.core.errors import ConfigError
from compress.core.trace import recording, span, tracing


def _spans(file: Path) -> dict[str, tuple[float, float]]:
    events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    assert {event["ph"] for event in events} <= {"X"}
    return {event["name"]: (event["ts"], event["ts"] + event["dur"]) for event in events}


def test_a_part_lies_within_its_stage(tmp_path: Path) -> None:
    with tracing(tmp_path / "trace.json"), span("stage"):
        with span("first", of="model"):
            pass
        with span("second"):
            pass
    found = _spans(tmp_path / "trace.json")
    assert list(found) == ["stage", "first", "second"]
    assert found["stage"][0] == 0 <= found["first"][0] <= found["first"][1] <= found["second"][0]
    assert found["second"][1] <= found["stage"][1]


def test_a_run_that_fails_leaves_its_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half way"), tracing(tmp_path / "trace.json"), span("stage"):
        raise ValueError("half way")
    assert list(_spans(tmp_path / "trace.json")) == ["stage"]


def test_nothing_is_recorded_unasked(tmp_path: Path) -> None:
    with tracing(None), span("stage"):
        pass
    with span("before"), tracing(tmp_path / "trace.json"):
        pass
    assert _spans(tmp_path / "trace.json") == {}


def test_whoever_records_within_a_recording_has_paths_of_its_own(tmp_path: Path) -> None:
    with tracing(tmp_path / "trace.json"), span("run"):
        with recording() as spans, span("stage") as notes:
            with span("part", of="model"):
                pass
            notes["stored"] = 1
        with span("after"):
            pass
    assert [one.path for one in spans] == [("stage", "part"), ("stage",)]
    assert [one.notes for one in spans] == [{"of": "model"}, {"stored": 1}]
    assert list(_spans(tmp_path / "trace.json")) == ["run", "stage", "part", "after"]


def test_a_function_is_a_span_each_time_it_is_called() -> None:
    @span("doubled")
    def double(number: int) -> int:
        """Twice a number."""
        return 2 * number

    with recording() as spans:
        assert (double(2), double(3)) == (4, 6)
    assert [one.path for one in spans] == [("doubled",), ("doubled",)] and double.__doc__ == "Twice a number."


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--trace"), tracing(tmp_path / "none" / "trace.json"):
        pytest.fail("the block ran")
