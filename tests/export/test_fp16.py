"""Laws of fp16: half the bytes, nearly the answers; what fp16 cannot hold is found, named and kept in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ExportError
from compress.export import fp16
from compress.export.lowering import Engine, lower, variants
from compress.export.runtime import open_session
from compress.export.standard_ops import expand_attention
from compress.profile.target import Target, load_target
from support.models import DenseOnnx
from support.structures import padded_inputs

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
Feed = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module", params=["bert", "mpnet"])
def dense(request: pytest.FixtureRequest, dense_onnx: DenseOnnx) -> tuple[onnx.ModelProto, Feed]:
    feed = {name: tensor.numpy() for name, tensor in padded_inputs(request.param).items()}
    return onnx.load(str(dense_onnx(request.param))), feed


def _answers(proto: onnx.ModelProto, feed: Feed) -> Any:
    onnx.checker.check_model(proto)
    return open_session(proto.SerializeToString(), CPU).run(feed)


def _floats(proto: onnx.ModelProto) -> set[int]:
    return {t.data_type for t in proto.graph.initializer} & {TensorProto.FLOAT, TensorProto.FLOAT16}


def test_weights_become_half_and_answers_stay(dense: tuple[onnx.ModelProto, Feed]) -> None:
    proto, feed = dense
    exact, halved = _answers(proto, feed), fp16.to_half(proto)
    assert _floats(halved) == {TensorProto.FLOAT16}
    for answers in (_answers(halved, feed), _answers(fp16.emulate_fp16(proto), feed)):
        assert answers.dtype == np.float32
        assert 0 < np.abs(answers - exact).max() < 1e-2


def test_kept_nodes_are_computed_in_fp32_with_casts_around(dense: tuple[onnx.ModelProto, Feed]) -> None:
    proto, feed = dense
    kept = fp16.norm_nodes(proto)
    names = {node.name: node for node in proto.graph.node}
    assert {names[name].op_type for name in kept} == {"LayerNormalization", "Add"}
    halved = fp16.to_half(proto, kept)
    norms = [node for node in halved.graph.node if node.op_type == "LayerNormalization"]
    weights = {tensor.name: tensor.data_type for tensor in halved.graph.initializer}
    assert norms and all(weights[node.input[1]] == TensorProto.FLOAT for node in norms)
    assert np.abs(_answers(halved, feed) - _answers(proto, feed)).max() < 1e-2
    everything = [node.name for node in proto.graph.node]
    assert np.array_equal(_answers(fp16.emulate_fp16(proto, everything), feed), _answers(proto, feed))


def test_a_name_of_no_node_is_refused(dense: tuple[onnx.ModelProto, Feed]) -> None:
    with pytest.raises(ExportError, match="cannot keep nonsense in fp32: the graph has no such node"):
        fp16.to_half(dense[0], ["nonsense"])


def _overflowing(scale: float) -> tuple[onnx.ModelProto, Feed]:
    """Two products: what lies between them is 4 x scale^2, the answer a ten-thousandth of 4 times that."""
    up, down = np.full((4, 4), scale, np.float32), np.full((4, 4), 1e-4, np.float32)
    proto = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "up"], ["between"], "first"),
                helper.make_node("MatMul", ["between", "down"], ["y"], "second"),
                helper.make_node("Relu", ["y"], ["logits"], "third"),
            ],
            "overflow",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
            [numpy_helper.from_array(up, "up"), numpy_helper.from_array(down, "down")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return proto, {"x": np.array([[scale, scale, scale, -scale]], np.float32)}


def test_what_fp16_cannot_hold_is_named_and_kept() -> None:
    proto, feed = _overflowing(300.0)
    assert not np.isfinite(_answers(fp16.emulate_fp16(proto), feed)).all()
    assert fp16.nodes_near_overflow(proto, [feed]) == {"first": 180000.0, "second": 180000.0}
    kept = fp16.choose_float32_nodes(proto, [feed])
    assert kept.nodes == ("first", "second")
    assert "1.8e+05" in kept.reason
    assert np.allclose(_answers(fp16.emulate_fp16(proto, kept.nodes), feed), _answers(proto, feed), rtol=1e-2)
    assert fp16.choose_float32_nodes(*[proto, [{"x": feed["x"] / 300}]]).nodes == ()


def test_a_value_between_two_kept_nodes_is_not_rounded_to_fp16() -> None:
    proto, feed = _overflowing(300.0)
    halved = fp16.to_half(proto, ("first", "second"))
    nodes = {node.name: node for node in halved.graph.node}
    assert nodes["second"].input[0] == nodes["first"].output[0]
    assert np.allclose(_answers(halved, feed), _answers(proto, feed), rtol=1e-2)


def test_what_several_kept_nodes_read_is_cast_once(dense: tuple[onnx.ModelProto, Feed]) -> None:
    proto, feed = dense
    standard = expand_attention(proto)
    # Every layer adds the same mask to its scores.
    halved = fp16.to_half(standard, [node.name for node in standard.graph.node if node.op_type in ("Add", "Softmax")])
    outputs = [name for node in halved.graph.node for name in node.output]
    assert len(outputs) == len(set(outputs))
    assert np.abs(_answers(halved, feed) - _answers(proto, feed)).max() < 1e-2


def test_without_data_norms_stay_in_fp32(dense: tuple[onnx.ModelProto, Feed]) -> None:
    kept = fp16.choose_float32_nodes(dense[0], [])
    assert set(kept.nodes) == set(fp16.norm_nodes(dense[0]))


def test_norms_are_kept_where_answers_drift(dense: tuple[onnx.ModelProto, Feed]) -> None:
    kept = fp16.choose_float32_nodes(dense[0], [dense[1]], allowed=0.0)
    # Kept only if that helps; the error is that of what was chosen.
    norms = set(fp16.norm_nodes(dense[0]))
    assert norms <= set(kept.nodes) or not norms & set(kept.nodes)
    assert kept.error > 0


def test_the_engine_of_a_gpu_lowers_to_half(dense: tuple[onnx.ModelProto, Feed], tmp_path: Path) -> None:
    engine = variants(load_target("v100"), "fp16")[0]
    assert Engine.from_json(engine.to_json()) == engine == Engine("fp16")
    assert _floats(lower(dense[0], engine)) == {TensorProto.FLOAT16}
    assert variants(load_target("v100"), "fp32")[0] == Engine()
