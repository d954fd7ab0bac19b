"""OpenVINO: the same answers as ONNX Runtime, int8 close to them; a missing extra is named."""

from __future__ import annotations

import builtins
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compress.core.errors import ExportError, TargetError
from compress.export import openvino as room
from compress.export.int8 import quantizable
from compress.export.lowering import Engine, variants
from compress.export.narrowing import narrow
from compress.export.runtime import open_session
from compress.models.encoder import encoder_of
from compress.profile.device import describe_device
from compress.profile.target import load_target, offered_precisions
from support.models import ALIKE, TINY_SIZES, DenseOnnx, random_model
from support.structures import EMPTY, UNEVEN, padded_inputs

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
            room._quantized(None, [], TARGET)
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


def _types(model: Any) -> dict[str, str]:
    """Number formats of the weights of linear layers, by the layer's name."""
    found = {}
    for operator in model.get_ops():
        if operator.get_type_name() == "MatMul":
            source = operator.input_value(1).get_node()
            while source.get_type_name() != "Constant" and source.inputs():
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Constant":
                found[operator.get_friendly_name()] = source.get_element_type().get_type_name()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_weights_that_are_left_out_stay_float_and_no_others(family: str, dense_onnx: DenseOnnx) -> None:
    pytest.importorskip("nncf")
    path = dense_onnx(family)
    samples = [_feed(family, seed) for seed in range(2)]
    layers = quantizable(onnx.load(str(path)))
    left_out = list(layers.values())[::4]
    types = _types(room.convert(path, TARGET, samples, left_out))
    assert {node for node in layers if types[node] == "f32"} == {n for n, w in layers.items() if w in left_out}
    assert {types[node] for node in layers} == {"f32", "i8"}


def _kernels(model: Any) -> Counter[tuple[str, ...]]:
    """What OpenVINO runs a model by: kinds of layers, number formats, primitives; of each how many.

    Whether 8 bits have a sign depends on ranges, so on values; the two were measured to take the same time.
    """
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = ("layerType", "runtimePrecision", "primitiveType")
    infos = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ops()]
    layers = [tuple(str(info[name].astype(str)) for name in told) for info in infos]
    return Counter(tuple(text.lower().replace("u8", "i8") for text in layer) for layer in layers if layer[0] != "Const")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_what_is_timed_runs_by_the_kernels_of_what_is_deployed(family: str, dense_onnx: DenseOnnx) -> None:
    pytest.importorskip("nncf")
    samples = [_feed(family, seed) for seed in range(2)]
    encoder = encoder_of(random_model(family))
    dense = onnx.load(str(dense_onnx(family)))
    layout = room.int8_layout(dense.SerializeToString(), TARGET, samples[:1])
    for widths in (encoder.shape.dense, UNEVEN, EMPTY):
        narrowed = narrow(dense, encoder, widths)
        timed = room.convert_alike(narrowed, TARGET, layout)
        deployed = room.convert(narrowed.SerializeToString(), TARGET, samples)
        assert _types(timed) == _types(deployed)
        assert _kernels(timed) == _kernels(deployed)


@pytest.mark.slow
def test_a_timed_structure_answers_finitely_and_the_dense_one_as_nncf_made_it(dense_onnx: DenseOnnx) -> None:
    pytest.importorskip("nncf")
    dense, feed = onnx.load(str(dense_onnx("bert"))), _feed("bert")
    layout = room.int8_layout(dense.SerializeToString(), TARGET, [feed])

    def answer(model: Any) -> Any:
        return open_session(room.to_bytes(model), TARGET).run(feed)

    np.testing.assert_array_equal(answer(room.convert_alike(dense, TARGET, layout)), answer(layout.quantized))
    narrowed = narrow(dense, encoder_of(random_model("bert")), UNEVEN)
    assert np.isfinite(answer(room.convert_alike(narrowed, TARGET, layout))).all()


@pytest.mark.slow
def test_a_model_that_is_read_while_another_lives_can_be_quantized(dense_onnx: DenseOnnx) -> None:
    pytest.importorskip("nncf")
    alive = room.convert(dense_onnx("bert"), TARGET)
    assert _types(room.convert(dense_onnx("bert"), TARGET, [_feed("bert")])) != _types(alive)


def test_a_weight_that_is_not_there_cannot_be_left_out(dense_onnx: DenseOnnx) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(ExportError, match=r"no layers of these weights.*: bert\.nothing"):
        room.convert(dense_onnx("bert"), TARGET, [_feed("bert")], ["bert.nothing"])


@pytest.mark.slow
def test_int8_answers_do_not_depend_on_the_texts_beside(dense_onnx: DenseOnnx) -> None:
    pytest.importorskip("nncf")
    samples = [_feed("bert", seed) for seed in range(8)]
    session = open_session(room.to_bytes(room.convert(dense_onnx("bert"), TARGET, samples)), TARGET)
    first, others = _feed("bert", seed=9), _feed("bert", seed=10)
    mixed = {name: np.concatenate([values[:1], others[name][1:]]) for name, values in first.items()}
    np.testing.assert_array_equal(session.run(mixed)[0], session.run(first)[0])
    assert np.abs(session.run(mixed)[1:] - session.run(first)[1:]).max() > 0
