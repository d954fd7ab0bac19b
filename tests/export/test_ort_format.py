"""ONNX Runtime's own format: the same answers, an operator list without traces of the machine, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from compress.core.errors import ExportError
from compress.core.plan import EncoderShape
from compress.export import ort_format
from compress.profile.target import list_targets, load_target
from support.encoder_graph import encoder_graph

SHAPE = EncoderShape("bert", 2, 16, 2, 8, 24)
FEED = {"input_ids": np.array([[3, 1, 4], [1, 5, 9]], np.int64)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(encoder_graph(SHAPE, SHAPE.dense))
    return path


@pytest.mark.parametrize("platform", ["amd64", "arm"])
def test_it_answers_as_the_onnx_file_does_and_lists_its_operators(
    model: Path, tmp_path: Path, platform: ort_format.Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "engine"
    ort_format.write_ort(model, folder, FEED, platform)
    assert sorted(file.name for file in folder.iterdir()) == ["model.ort", "required_operators.config"]
    first, second = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, FEED)[0]
        for path in (model, folder / "model.ort")
    )
    np.testing.assert_allclose(first, second, atol=1e-5)
    listed = (folder / "required_operators.config").read_text()
    assert str(tmp_path) not in listed and "#" not in listed
    used = {node.op_type for node in onnx.load(str(model)).graph.node}
    assert "Gather" in used and "Gather" in listed
    assert capsys.readouterr().out == ""


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"could not convert model.onnx to its .ort format"):
        ort_format.write_ort(broken, tmp_path / "engine", FEED, "amd64")
    assert not (tmp_path / "engine").exists()


def test_another_model_in_its_place_is_noticed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_format, "_difference", lambda *_: float("nan"))
    with pytest.raises(ExportError, match=r"outputs of model\.ort differ"):
        ort_format.write_ort(model, tmp_path / "engine", FEED, "amd64")


def test_one_shipped_target_asks_for_it() -> None:
    assert [target.name for target in list_targets() if target.ort] == ["cpu-ort"]
    assert load_target("cpu").ort is None
