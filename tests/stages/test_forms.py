"""Forms on a GPU: what does not load, does not run, answers otherwise or is the same file is not timed. Sessions are
stand-ins: their answers are what is tried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compress.core.errors import ExportError
from compress.export.key_masks import Mask
from compress.export.lowering import Engine
from compress.stages import forms
from compress.stages.forms import difference, open_forms, with_padding

OFFERED = tuple(Engine("fp16", mask=mask) for mask in ("tokens", "bias", "onnx", "lengths", "ranges"))
FEED = {"input_ids": np.ones((2, 6), np.int64), "attention_mask": np.ones((2, 6), np.int64)}


class StandIn:
    """A session with given answers; None fails."""

    def __init__(self, answers: Any) -> None:
        self.answers, self.closed, self.fed = answers, False, {}

    def run(self, feed: Any) -> Any:
        self.fed = feed
        if self.answers is None:
            raise ExportError("CUDA failure")
        return np.array(self.answers)

    def close(self) -> None:
        self.closed = True


def _opened(
    monkeypatch: pytest.MonkeyPatch, answers: dict[Mask, Any], runtime: str = "onnxruntime-cuda"
) -> tuple[dict[str, Any], list[str], dict[bytes, StandIn]]:
    made: dict[bytes, StandIn] = {}

    def open_session(file: bytes, target: Any) -> StandIn:
        found = answers[file.decode()]  # type: ignore[index]
        if found == "refused":
            raise ExportError("no such kernel")
        made[file] = StandIn(found)
        return made[file]

    said: list[str] = []
    monkeypatch.setattr(forms, "open_session", open_session)
    dense: Any = SimpleNamespace(timing_feed=FEED, build=lambda widths, engine: engine.mask.encode())
    run: Any = SimpleNamespace(info=said.append, loaded=SimpleNamespace(target=SimpleNamespace(runtime=runtime)))
    nothing: Any = None
    return dict(open_forms(run, dense, nothing, OFFERED)), said, made


def test_only_forms_that_answer_as_the_default_does_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[Mask, Any] = {
        "tokens": [[1.0, -2.0]],
        "bias": [[1.01, -2.0]],
        "onnx": "refused",
        "lengths": None,
        "ranges": [[1.0, -1.9]],
    }
    sessions, said, made = _opened(monkeypatch, answers)
    assert list(sessions) == ["fp16", "fp16, mask bias"]
    assert [line.split(" is left out: ")[0] for line in said] == [
        "fp16, mask onnx",
        "fp16, mask lengths",
        "fp16, mask ranges",
    ]
    assert "no such kernel" in said[0] and "CUDA failure" in said[1] and "differ by 5.0%" in said[2]
    assert [made[name].closed for name in (b"tokens", b"bias", b"lengths", b"ranges")] == [False, False, True, True]
    # Inputs have padding, of another length in the second example.
    assert made[b"bias"].fed["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]


def test_a_default_that_does_not_run_is_an_error_and_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="no such kernel"):
        _opened(monkeypatch, dict.fromkeys(("tokens", "bias", "onnx", "lengths", "ranges"), "refused"))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="CUDA failure"):
        _opened(monkeypatch, dict.fromkeys(("tokens", "bias", "onnx", "lengths", "ranges"), None))  # type: ignore[arg-type]


def test_forms_of_a_processor_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[Mask, Any] = {engine.mask: [[1.0]] for engine in OFFERED}
    sessions, said, _ = _opened(monkeypatch, {**answers, "ranges": [[9.0]]}, "onnxruntime-cpu")
    assert len(sessions) == 5 and not said


def test_differences_are_relative_to_the_largest_answer() -> None:
    expected = np.array([[4.0, -1.0]])
    assert difference(expected + 0.04, expected) == pytest.approx(0.01)
    assert difference(np.array([[np.nan, 1.0]]), expected) == float("inf")
    assert difference(np.zeros((1, 3)), expected) == float("inf")
    images = {"pixel_values": np.zeros((1, 3, 4, 4))}
    assert with_padding(images) == images
    short = with_padding({"attention_mask": np.ones((2, 1), np.int64)})
    assert short["attention_mask"].tolist() == [[1], [1]]
