"""Laws of engines: packed attention computes the same, at any widths; what is offered is what can be lowered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import TargetError
from compress.core.plan import Widths
from compress.export import graph
from compress.export.lowering import Engine, lower, pack_attention, variants
from compress.export.narrowing import narrow
from compress.export.runtime import open_session
from compress.models.encoder import Encoder, encoder_of
from compress.profile.target import Target, load_target, offered_precisions
from support.models import ALIKE, TINY_SIZES, DenseOnnx, random_model
from support.structures import padded_inputs
from support.thorough import THOROUGH, examples

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
# Those that add something to the scores, or turn queries and keys, stay as they are.
FAMILIES = sorted({*TINY_SIZES} - (set() if THOROUGH else {*ALIKE}))
UNPACKED = ("deberta-v2", "modernbert", "mpnet")


@pytest.fixture(scope="module")
def dense(dense_onnx: DenseOnnx) -> dict[str, tuple[Encoder, onnx.ModelProto]]:
    made = {}
    for family in FAMILIES:
        made[family] = encoder_of(random_model(family)), onnx.load(str(dense_onnx(family)))
    return made


def _run(proto: onnx.ModelProto, family: str) -> Any:
    session = open_session(proto.SerializeToString(), CPU)
    return session.run({name: tensor.numpy() for name, tensor in padded_inputs(family).items()})


@given(
    family=st.sampled_from(FAMILIES),
    heads=st.tuples(*[st.integers(0, 4)] * 3),
    filters=st.tuples(*[st.integers(0, 20)] * 3),
)
@examples(30)
def test_packed_attention_computes_the_same(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]], family: str, heads: Any, filters: Any
) -> None:
    encoder, proto = dense[family]
    plain = narrow(proto, encoder, Widths(heads, filters))
    packed = pack_attention(plain)
    onnx.checker.check_model(packed)
    count = sum(width > 0 for width in heads)
    assert graph.fusions(packed).get("Attention", 0) == (0 if family in UNPACKED else count)
    np.testing.assert_allclose(_run(packed, family), _run(plain, family), atol=1e-5, rtol=0)


def test_attention_of_which_a_projection_is_read_elsewhere_stays(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]],
) -> None:
    proto = graph.copy_of(dense["bert"][1])
    attention = next(node for node in proto.graph.node if node.op_type == "MultiHeadAttention")
    following = next(node for node in proto.graph.node if node.op_type == "LayerNormalization")
    # The first layer's query is also added to what the model computes from its embeddings on.
    position = list(proto.graph.node).index(attention) + 1
    readers = [node for node in list(proto.graph.node)[position:] if attention.output[0] in node.input]
    total = onnx.helper.make_node("Add", [attention.output[0], attention.input[0]], ["both"], "sum")
    for node in readers:
        node.input[:] = ["both" if name == attention.output[0] else name for name in node.input]
    proto.graph.node.insert(position, total)
    packed = pack_attention(proto)
    assert graph.fusions(packed) == {"Attention": 2, "MultiHeadAttention": 1}
    assert following.output
    np.testing.assert_allclose(_run(packed, "bert"), _run(proto, "bert"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_variant_can_be_lowered_and_answers_nearly_the_same(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]], precision: Any
) -> None:
    _, proto = dense["bert"]
    before = proto.SerializeToString(deterministic=True)
    samples = [{k: v.numpy() for k, v in padded_inputs("bert", batch=8, seed=seed).items()} for seed in range(2)]
    expected = _run(proto, "bert")
    for engine in variants(CPU, precision):
        assert engine.precision == precision
        answer = _run(lower(proto, engine, samples), "bert")
        bound = 1e-5 if precision == "fp32" else 0.15 * np.abs(expected).max()
        assert np.abs(answer - expected).max() <= bound, engine
    assert proto.SerializeToString(deterministic=True) == before


@given(
    st.builds(
        Engine,
        precision=st.sampled_from(["fp32", "int8"]),
        form=st.sampled_from(["plain", "packed", "offline", "packed-offline"]),
        scheme=st.sampled_from(["float", "dynamic", "invariant", "static", "nncf"]),
        reduce_range=st.booleans(),
        left_out=st.lists(st.text(), max_size=3).map(tuple),
        mask=st.sampled_from(["tokens", "lengths", "ranges", "bias", "onnx"]),
    )
)
def test_an_engine_survives_its_json(engine: Engine) -> None:
    assert Engine.from_json(json.loads(json.dumps(engine.to_json()))) == engine


def test_names_of_variants_tell_them_apart() -> None:
    for precision in ("fp32", "int8"):
        names = [engine.name for engine in variants(CPU, precision)]
        assert len(set(names)) == len(names)


def test_what_a_target_offers() -> None:
    cpu = load_target("cpu")
    assert offered_precisions(cpu, "auto") == ("fp32", "int8")
    assert offered_precisions(cpu, "int8") == ("int8",)
    with pytest.raises(TargetError, match=r"'cpu' \(onnxruntime-cpu\) has no fp16; use --precision fp32, int8 or auto"):
        offered_precisions(cpu, "fp16")


def test_structures_without_sublayers_have_nothing_to_quantize(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]], tmp_path: Path
) -> None:
    encoder, proto = dense["bert"]
    bare = narrow(proto, encoder, Widths((0,) * 3, (0,) * 3))
    for engine in variants(CPU, "int8"):
        np.testing.assert_array_equal(_run(lower(bare, engine, [], timing_only=True), "bert"), _run(bare, "bert"))
