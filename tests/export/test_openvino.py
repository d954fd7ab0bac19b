"""OpenVINO: the same answers as ONNX Runtime, int8 close to them; a missing extra is named."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.errors import ExportError, TargetError
from compress.export import openvino as room
from compress.export.lowering import Engine, variants
from compress.export.runtime import open_session
from compress.profile.target import describe_device, load_target, offered_precisions
from support.models import ALIKE, TINY_SIZES, DenseOnnx
from support.structures import padded_inputs

TARGET = load_target("cpu-openvino")


FAMILIES = [pytest.param(family, marks=pytest.mark.slow if family in ALIKE else []) for family in sorted(TINY_SIZES)]


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, dense_onnx: DenseOnnx) -> tuple[str, Path]:
    pytest.importorskip("openvino")
    return request.param, dense_onnx(request.param)


def _feed(family: str, seed: int = 0) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in padded_inputs(family, seed=seed).items()}


def test_the_target_has_two_precisions_and_says_what_it_runs_on() -> None:
    assert offered_precisions(TARGET, "auto") == ("fp32", "int8")
    assert variants(TARGET, "fp32") == (Engine("fp32"),)
    assert variants(TARGET, "int8") == (Engine("int8", scheme="nncf"),)
    assert describe_device(TARGET)["runtime"] == "openvino"


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    if missing == "nncf":
        pytest.importorskip("openvino")
    monkeypatch.delitem(sys.modules, missing, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TargetError, match=r"pip install 'compress\[openvino\]'") as caught:
        if missing == "openvino":
            open_session(b"", TARGET)
        else:
            room._quantized(None, [], TARGET, quick=True)
    assert caught.value.exit_code == 3


def test_it_answers_like_onnx_runtime(exported: tuple[str, Path]) -> None:
    family, path = exported
    expected = open_session(path, load_target("cpu"))
    for model in (path, path.read_bytes()):
        session = open_session(model, TARGET)
        assert set(session.input_names) == set(expected.input_names)
        for seed in range(3):
            feed = _feed(family, seed)
            np.testing.assert_allclose(session.run(feed), expected.run(feed), atol=1e-4, rtol=0)


def test_answers_stay_after_the_next_call(exported: tuple[str, Path]) -> None:
    family, path = exported
    session = open_session(path, TARGET)
    first = session.run(_feed(family, 0))
    kept = first.copy()
    session.run(_feed(family, 1))
    np.testing.assert_array_equal(first, kept)
    session.close()
    with pytest.raises(ExportError, match="closed"):
        session.run(_feed(family, 0))


def test_mistakes_are_named(exported: tuple[str, Path], tmp_path: Path) -> None:
    _, path = exported
    with pytest.raises(ExportError, match="no model file"):
        open_session(tmp_path / "nothing.xml", TARGET)
    with pytest.raises(ExportError, match="needs input"):
        open_session(path, TARGET).run({})
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="cannot load"):
        open_session(broken, TARGET)


@pytest.mark.slow
def test_nncf_int8_is_close_from_bytes_and_from_a_file(exported: tuple[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    family, path = exported
    samples = [_feed(family, seed) for seed in range(8)]
    found = room.convert(path, TARGET, samples)
    room.save(found, tmp_path / room.IR)
    expected = open_session(path, TARGET).run(samples[0])
    for model in (tmp_path / room.IR, room.to_bytes(found)):
        answer = open_session(model, TARGET).run(samples[0])
        assert 0 < np.abs(answer - expected).max() < 0.3 * np.abs(expected).max()
