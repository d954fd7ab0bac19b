"""Laws of int8: close to float, exact where left out, the same operators for timing; rows keep their own scale."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import DataError
from compress.export import int8
from compress.export.lowering import pack_attention
from compress.export.onnx import export_onnx
from compress.export.runtime import open_session
from compress.profile.target import Target
from support.models import random_model
from support.structures import padded_inputs

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("onnx") / "dense.onnx"
    export_onnx(random_model("bert"), path, input_names=list(padded_inputs("bert")))
    return onnx.load(str(path))


def _samples(count: int, batch: int = 8) -> list[dict[str, Any]]:
    return [{k: v.numpy() for k, v in padded_inputs("bert", batch=batch, seed=seed).items()} for seed in range(count)]


def _answer(proto: onnx.ModelProto) -> Any:
    return open_session(proto.SerializeToString(), CPU).run(_samples(1)[0])


def test_what_can_be_quantized_is_the_encoder_and_not_the_head(model: onnx.ModelProto) -> None:
    plain = set(int8.quantizable(model).values())
    assert len(plain) == 3 * 6 and all(".encoder.layer." in name for name in plain)
    packed = set(int8.quantizable(pack_attention(model)).values())
    assert len(packed) == 3 * 4 and "bert.encoder.layer.0.attention.self.query_key_value" in packed


@pytest.mark.parametrize("packed", [False, True])
def test_dynamic_int8_is_close_and_its_weights_have_a_scale_per_channel(model: onnx.ModelProto, packed: bool) -> None:
    source = pack_attention(model) if packed else model
    found = int8.quantize_dynamic(source)
    assert np.abs(_answer(found) - _answer(model)).max() < 0.1 * np.abs(_answer(model)).max()
    tensors = {tensor.name: tensor for tensor in found.graph.initializer}
    for weight in int8.quantizable(source).values():
        quantized = tensors[f"{weight}.weight_quantized"]
        assert quantized.data_type == TensorProto.INT8 and f"{weight}.weight" not in tensors
        assert tensors[f"{weight}.weight_scale"].dims[0] == quantized.dims[1]
    assert not found.graph.value_info


def test_weights_left_out_stay_as_they_are(model: onnx.ModelProto) -> None:
    everything = list(int8.quantizable(model).values())
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = int8.quantize_dynamic(model, everything[2:])
    kept = {tensor.name: tensor for tensor in found.graph.initializer}
    for weight in everything[2:]:
        name = f"{weight}.weight"
        np.testing.assert_array_equal(numpy_helper.to_array(kept[name]), numpy_helper.to_array(tensors[name]))
    assert all(f"{weight}.weight" not in kept for weight in everything[:2])
    assert int8.quantize_dynamic(model, everything) == model


@pytest.mark.parametrize("packed", [False, True])
def test_for_timing_there_are_the_same_operators_on_the_same_sizes(model: onnx.ModelProto, packed: bool) -> None:
    def form(proto: onnx.ModelProto) -> tuple[Counter[str], list[Any]]:
        sizes = sorted((t.name, t.data_type, tuple(t.dims)) for t in proto.graph.initializer)
        return Counter(node.op_type for node in proto.graph.node), sizes

    source = pack_attention(model) if packed else model
    real, quick = int8.quantize_dynamic(source), int8.quantize_dynamic(source, timing_only=True)
    assert form(real) == form(quick)


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_static_int8_is_close(model: onnx.ModelProto, calibration: Any) -> None:
    found = int8.quantize_static(model, _samples(3), calibration=calibration)
    counts = Counter(node.op_type for node in found.graph.node)
    assert counts["QuantizeLinear"] and counts["DequantizeLinear"] >= 18
    assert np.abs(_answer(found) - _answer(model)).max() < 0.25 * np.abs(_answer(model)).max()
    zeros = [t for t in found.graph.initializer if t.name.endswith("_zero_point") and "weight" not in t.name]
    assert zeros and {int(value) for t in zeros for value in np.ravel(numpy_helper.to_array(t))} == {128}


def test_static_int8_needs_examples(model: onnx.ModelProto) -> None:
    with pytest.raises(DataError, match="8 calibration examples are too few for static int8; give at least 16"):
        int8.quantize_static(model, _samples(1))


@given(seed=st.integers(0, 1000), rows=st.integers(2, 30), scale=st.floats(1e-6, 1e4))
def test_rows_of_a_table_are_rounded_to_half_a_step_of_their_own(seed: int, rows: int, scale: float) -> None:
    values = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    values *= (scale ** np.linspace(0, 1, rows, dtype=np.float32))[:, None]
    values[rows // 2] = 0
    proto = _lookup(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "_TABLE_BYTES", 0)
        found = int8.embeddings_by_row(proto)
    onnx.checker.check_model(found)
    session = open_session(found.SerializeToString(), CPU)
    answer = session.run({"input_ids": np.arange(rows, dtype=np.int64)[None]})[0]
    steps = np.abs(values).max(axis=1, keepdims=True) / 127
    assert (np.abs(answer - values) <= 0.5001 * steps + 1e-30).all()


def test_small_tables_stay(model: onnx.ModelProto) -> None:
    assert int8.embeddings_by_row(model) == model


def _lookup(values: Any) -> onnx.ModelProto:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "sequence", values.shape[1]])
    node = helper.make_node("Gather", ["table", "input_ids"], ["rows"], "lookup")
    graph = helper.make_graph([node], "lookup", [ids], [rows], [numpy_helper.from_array(values, "table")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    proto.ir_version = 10
    return proto


def test_output_error_is_relative_to_the_spread() -> None:
    expected = np.array([[1.0, -1.0], [3.0, -3.0]])
    assert int8.output_error([expected], [expected]) == 0
    error = int8.output_error([expected + 0.5], [expected])
    assert error == pytest.approx(0.5 / np.std(expected))
    assert int8.output_error([10 * (expected + 0.5)], [10 * expected]) == pytest.approx(error)
