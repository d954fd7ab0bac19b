"""Laws of the standard form: it computes what the fused operator does, TensorRT takes it, int8 is symmetric."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ExportError
from compress.core.plan import Widths
from compress.export import fp16, graph
from compress.export.int8 import quantizable
from compress.export.lowering import Engine, lower, variants
from compress.export.narrowing import narrow
from compress.export.runtime import open_session
from compress.export.standard_ops import check_supported, expand_attention, supported, unsupported
from compress.models.encoder import Encoder, encoder_of
from compress.profile.target import Target, load_target
from support.models import DenseOnnx, random_model
from support.structures import padded_inputs
from support.thorough import examples

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
# Plain attention, and two kinds that add something to its scores.
FAMILIES = ("bert", "mpnet", "deberta-v2")
Dense = dict[str, tuple[Encoder, onnx.ModelProto]]


@pytest.fixture(scope="module")
def dense(dense_onnx: DenseOnnx) -> Dense:
    made = {}
    for family in FAMILIES:
        made[family] = encoder_of(random_model(family)), onnx.load(str(dense_onnx(family)))
    return made


def feed_of(family: str) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in padded_inputs(family).items()}


def answer(proto: onnx.ModelProto, family: str) -> Any:
    return open_session(proto.SerializeToString(), CPU).run(feed_of(family))


@given(
    family=st.sampled_from(FAMILIES),
    heads=st.tuples(*[st.integers(0, 4)] * 3),
    filters=st.tuples(*[st.integers(0, 20)] * 3),
)
@examples(25)
def test_it_computes_the_same_at_any_widths_padding_included(
    dense: Dense, family: str, heads: Any, filters: Any
) -> None:
    encoder, proto = dense[family]
    fused = narrow(proto, encoder, Widths(heads, filters))
    standard = expand_attention(fused)
    onnx.checker.check_model(standard)
    assert not graph.fusions(standard)
    assert np.allclose(answer(standard, family), answer(fused, family), atol=1e-5)
    # Once is enough: what is lowered from a file that is standard already stays as it is.
    assert [node.op_type for node in expand_attention(standard).graph.node] == [
        node.op_type for node in standard.graph.node
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_takes_every_operator_of_what_is_lowered_for_it(dense: Dense, family: str, precision: Any) -> None:
    _, proto = dense[family]
    (engine,) = variants(load_target("h100-tensorrt"), precision)
    lowered = lower(proto, engine, [feed_of(family)], timing_only=True)
    assert unsupported(lowered) == []
    check_supported(lowered, load_target("h100-tensorrt"))


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_in_fp16_it_answers_like_the_fused_graph_and_what_is_kept_is_kept(dense: Dense, family: str) -> None:
    _, proto = dense[family]
    standard = expand_attention(proto)
    # The processor computes fp16 wide; a GPU rounds every value in between, which `emulated` does.
    exact = answer(standard, family)
    for converted in (fp16.to_half(standard), fp16.emulate_fp16(standard)):
        assert np.abs(answer(converted, family) - exact).max() < 0.02
    norms = fp16.norm_nodes(standard)
    assert any("shares" in name for name in norms), "the softmax of the written-out attention counts as one"
    kept = fp16.to_half(standard, norms)
    readers = {name: node for node in kept.graph.node for name in node.input}
    assert {node.name for node in kept.graph.node} >= set(norms)
    casts = [node for node in kept.graph.node if node.op_type == "Cast" and node.output[0] in readers]
    assert len(casts) > len(fp16.to_half(standard).graph.node) - len(standard.graph.node)


def test_int8_is_symmetric_in_every_pair_and_only_linear_layers_have_pairs(dense: Dense) -> None:
    _, proto = dense["bert"]
    (engine,) = variants(load_target("t4-tensorrt"), "int8")
    assert (engine.form, engine.scheme) == ("standard", "symmetric")
    samples = [{k: np.repeat(v, 8, axis=0) for k, v in feed_of("bert").items()}]
    lowered = lower(proto, engine, samples)
    points = {t.name: t for t in lowered.graph.initializer}
    pairs = [node for node in lowered.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        point = points[node.input[2]]
        assert point.data_type == TensorProto.INT8 and not numpy_helper.to_array(point).any()
        assert (numpy_helper.to_array(points[node.input[1]]) > 0).all()
    weights = [t for t in lowered.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2]
    assert len(weights) == len(quantizable(expand_attention(proto)))
    assert min(int(numpy_helper.to_array(t).min()) for t in weights) >= -127
    exact = answer(proto, "bert")
    assert np.abs(answer(lowered, "bert") - exact).max() < 0.2 * np.abs(exact).max()

    uneven = graph.copy_of(lowered)
    changed = next(t for t in uneven.graph.initializer if t.name == pairs[0].input[2])
    changed.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), changed.name))
    assert "not symmetric int8" in unsupported(uneven)[0]


def test_what_tensorrt_does_not_take_is_named(dense: Dense) -> None:
    _, proto = dense["bert"]
    with pytest.raises(ExportError, match=r"com.microsoft.MultiHeadAttention.*onnx-tensorrt.*runtime = \"onnxrun"):
        check_supported(proto, load_target("v100-tensorrt"))
    other = helper.make_model(
        helper.make_graph([helper.make_node("Unique", ["x"], ["y"])], "g", [], []),
        opset_imports=[helper.make_opsetid("", 99)],
    )
    assert unsupported(other) == ["opset 99 (it takes 9 to 24)", "operator Unique"]


def test_attention_that_is_not_ours_is_refused(dense: Dense) -> None:
    _, proto = dense["bert"]
    other = graph.copy_of(proto)
    node = next(node for node in other.graph.node if node.op_type == "MultiHeadAttention")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("num_heads", 4))
    with pytest.raises(ExportError, match="attention of another form"):
        expand_attention(other)


def test_the_list_names_its_source_and_release() -> None:
    known = supported()
    assert "onnx-tensorrt" in known["source"] and known["release"]
    assert set(known["types"]["MatMul"]) >= {"FP32", "FP16"}


def test_engines_of_other_targets_are_as_before() -> None:
    assert variants(load_target("h100"), "fp16")[0] == Engine("fp16")
    assert {engine.form for engine in variants(CPU, "fp32")} == {"plain", "packed", "offline"}


def test_files_are_lowered_from_disk_as_from_memory(dense: Dense, tmp_path: Path) -> None:
    _, proto = dense["bert"]
    path = tmp_path / "model.onnx"
    graph.save(lower(proto, Engine("fp16", "standard")), path, graph.EXTERNAL_DATA_ABOVE_BYTES)
    loaded = onnx.load(str(path))
    assert unsupported(loaded) == []
    assert np.abs(open_session(path, CPU).run(feed_of("bert")) - answer(proto, "bert")).max() < 0.02


def test_int8_has_fp16_around_it_but_for_what_is_kept(dense: Dense) -> None:
    _, proto = dense["bert"]
    (engine,) = variants(load_target("t4-tensorrt"), "int8")
    assert engine.rest == "fp16" and "with fp16" in engine.name
    samples = [{k: np.repeat(v, 8, axis=0) for k, v in feed_of("bert").items()}]
    lowered = lower(proto, engine, samples)
    floats = {t.name: t.data_type for t in lowered.graph.initializer if t.data_type in _FLOATS}
    # All of it: scales, biases, norms, embeddings.
    assert set(floats.values()) == {TensorProto.FLOAT16} and len(floats) > 30
    wide = lower(proto, replace(engine, rest="fp32"), samples)
    exact = answer(wide, "bert")
    assert np.abs(answer(lowered, "bert") - exact).max() < 0.02 * np.abs(exact).max() + 0.02

    # A product that stays in fp32 keeps its pairs, so it is still one of int8.
    kept = next(node.name for node in wide.graph.node if "output.dense.weight_Dequantize" in "".join(node.input))
    partly = lower(proto, replace(engine, float32_nodes=(kept,)), samples)
    product = next(node for node in partly.graph.node if node.name == kept)
    makers = {node.output[0]: node.op_type for node in partly.graph.node}
    assert [makers[name] for name in product.input] == ["DequantizeLinear", "DequantizeLinear"]
    scales = {t.data_type for t in partly.graph.initializer if t.name.endswith("_scale")}
    assert scales == {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert np.abs(answer(partly, "bert") - exact).max() < 0.02 * np.abs(exact).max() + 0.02
    # The float32 graph that it is made of is not half of one.
    source = lower(proto, replace(engine, precision="fp32", scheme="float"))
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in source.graph.initializer)
