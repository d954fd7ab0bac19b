"""Laws of masks for fused kernels: the same answers where padding is on the right, and no answers where it may not be
elsewhere; what the kernels are given, against numpy; nothing that a CUDA graph may not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compress.core.errors import ExportError
from compress.core.plan import Widths
from compress.export import fp16, graph
from compress.export.bound import BoundSession
from compress.export.key_masks import COUNTED, with_mask
from compress.export.lowering import Engine, lower, pack_attention, variants
from compress.export.narrowing import narrow
from compress.export.padding import RIGHT_PADDED, PaddingRefused
from compress.export.runtime import open_session
from compress.models.encoder import Encoder, encoder_of
from compress.profile.target import Target, load_target
from support.models import DenseOnnx, random_model
from support.structures import UNEVEN, padded_inputs
from support.thorough import examples

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
# Without a bias of the scores; with one; with one in some layers and turned queries; with one per example.
FAMILIES = ("bert", "mpnet", "modernbert", "deberta-v2")
MASKS = ("lengths", "ranges", "bias", "onnx")
LENGTH = 9
# Tokens first, padding behind them; nothing but padding too.
RIGHT = st.integers(0, LENGTH).map(lambda tokens: [1] * tokens + [0] * (LENGTH - tokens))
ANY = st.lists(st.integers(0, 1), min_size=LENGTH, max_size=LENGTH)


@pytest.fixture(scope="module")
def dense(dense_onnx: DenseOnnx) -> dict[str, tuple[Encoder, onnx.ModelProto]]:
    return {name: (encoder_of(random_model(name)), onnx.load(str(dense_onnx(name)))) for name in FAMILIES}


def _answers(proto: onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """What any program gets, without our session."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})[0])


def _feed(family: str, rows: list[list[int]]) -> dict[str, NDArray[Any]]:
    feed = {name: tensor.numpy() for name, tensor in padded_inputs(family, len(rows), LENGTH).items()}
    ids = np.random.default_rng(0).integers(5, 200, (len(rows), LENGTH))
    return {**feed, "input_ids": ids, "attention_mask": np.array(rows, np.int64)}


def _on_the_right(row: list[int]) -> bool:
    return row == sorted(row, reverse=True)


@given(
    family=st.sampled_from(FAMILIES),
    mask=st.sampled_from(MASKS),
    packed=st.booleans(),
    widths=st.sampled_from([UNEVEN, Widths((4,) * 3, (20,) * 3)]),
    rows=st.lists(RIGHT.filter(any), min_size=1, max_size=4),
)
@examples(20)
def test_right_padded_inputs_are_answered_as_before(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]], family: str, mask: Any, packed: bool, widths: Widths, rows: Any
) -> None:
    encoder, proto = dense[family]
    plain = narrow(proto, encoder, widths)
    formed = with_mask(pack_attention(plain) if packed else plain, mask)
    onnx.checker.check_model(formed)
    feed = _feed(family, rows)
    np.testing.assert_allclose(_answers(formed, feed), _answers(plain, feed), atol=1e-5, rtol=0)


@given(mask=st.sampled_from(MASKS), rows=st.lists(ANY, min_size=1, max_size=4))
@examples(20)
def test_other_padding_is_answered_right_or_not_at_all(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]], mask: Any, rows: list[list[int]]
) -> None:
    proto = dense["bert"][1]
    feed = _feed("bert", rows)
    found, expected = _answers(with_mask(proto, mask), feed), _answers(proto, feed)
    for row, answer, right in zip(rows, found, expected, strict=True):
        if mask in COUNTED and not _on_the_right(row):
            assert np.isnan(answer).all()
        elif any(row):
            np.testing.assert_allclose(answer, right, atol=1e-5, rtol=0)
        else:  # an example of padding alone means nothing, and has to be finite
            assert np.isfinite(answer).all()


@given(st.lists(ANY, min_size=1, max_size=5))
@examples(20)
def test_kernels_are_given_what_their_contract_says(rows: list[list[int]]) -> None:
    given_mask = np.array(rows, np.int64) * 7  # whatever is not 0 is a token
    batch = len(rows)
    lengths = [max(1, sum(row)) for row in rows]
    starts = [LENGTH * row for row in range(batch + 1)]
    expected = {"lengths": ("m.lengths32", lengths), "ranges": ("m.ranges", [*lengths, *starts, *starts])}
    for mask, (name, values) in expected.items():
        proto = with_mask(_attention_alone(), mask)  # type: ignore[arg-type]
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT32, None))
        proto.graph.output.append(helper.make_tensor_value_info("m.right", TensorProto.BOOL, None))
        feed = {"x": np.ones((batch, LENGTH, 8), np.float32), "attention_mask": given_mask}
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        found, right = session.run([name, "m.right"], feed)
        assert found.dtype == np.int32 and found.tolist() == values
        assert right.tolist() == [_on_the_right(row) for row in rows]


def _attention_alone() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["m"], "cast", to=TensorProto.INT32),
        helper.make_node(
            "MultiHeadAttention", ["x", "x", "x", "", "m"], ["y"], "a", "", "com.microsoft", num_heads=2, scale=0.5
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 8]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 8])]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("mask", MASKS)
def test_nothing_of_a_mask_is_computed_on_the_host(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]], mask: Any
) -> None:
    """A value that shapes make may only be a shape again: as data it would be copied, which no CUDA graph may."""
    before = {node.name for node in dense["bert"][1].graph.node}
    proto = with_mask(dense["bert"][1], mask)
    added = [node for node in proto.graph.node if node.name not in before]
    assert not {node.op_type for node in added} & {"If", "Loop", "Range", "NonZero"}
    on_host = {node.output[0] for node in added if node.op_type == "Shape"}
    for node in added:
        if node.op_type == "Concat" and on_host.intersection(node.input):
            on_host.add(node.output[0])
        elif on_host.intersection(node.input):
            assert node.op_type == "Expand" and node.input[0] not in on_host


def test_one_mask_serves_all_layers_and_a_second_rewrite_changes_nothing(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]],
) -> None:
    for mask in MASKS:
        once = with_mask(dense["bert"][1], mask)  # type: ignore[arg-type]
        assert sum(node.op_type == "CumSum" for node in once.graph.node) <= 2
        assert with_mask(once, mask).graph == once.graph  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_variant_of_a_gpu_answers_nearly_the_same_on_the_processor(
    dense: dict[str, tuple[Encoder, onnx.ModelProto]],
) -> None:
    target, (_, proto) = load_target("h100"), dense["bert"]
    feed = _feed("bert", [[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8])
    expected = _answers(proto, feed)
    for precision in ("fp32", "fp16"):
        engines = variants(target, precision)  # type: ignore[arg-type]
        assert engines[0] == Engine(precision)  # type: ignore[arg-type]
        assert len({engine.name for engine in engines}) == len(engines)
        for engine in engines:
            formed = lower(proto, engine)
            off = np.abs(_answers(formed, feed) - expected).max()
            assert off <= (1e-5 if precision == "fp32" else 0.02 * np.abs(expected).max()), engine
            assert any(entry.key == RIGHT_PADDED for entry in formed.metadata_props) == (engine.mask in COUNTED)


def test_ranges_are_for_half_precision_alone_whose_kernel_takes_every_length() -> None:
    target = load_target("h100")
    assert any(engine.mask == "ranges" for engine in variants(target, "fp16"))
    assert not any(engine.mask == "ranges" for engine in variants(target, "fp32"))
    plain = _attention_alone()
    assert lower(plain, Engine("fp32", mask="ranges")) == plain


def test_a_target_with_any_padding_keeps_to_masks_that_take_it() -> None:
    target = load_target("h100").model_copy(update={"padding": "any"})
    assert {engine.mask for engine in variants(target, "fp16")} == {"tokens", "bias"}


def test_fused_forms_have_the_operators(dense: dict[str, tuple[Encoder, onnx.ModelProto]]) -> None:
    proto = dense["bert"][1]
    fused = graph.fusions(lower(proto, Engine("fp16", "packed-offline", mask="lengths")))
    assert fused == {"Attention": 3, "BiasGelu": 3, "SkipLayerNormalization": 6}
    own = lower(proto, Engine("fp16", "offline", mask="onnx"))
    assert [node.op_type for node in own.graph.node if not node.domain].count("Attention") == 3
    assert own.opset_import[0].version == 24


@pytest.mark.slow
def test_nodes_that_stay_in_fp32_are_found_in_every_form(dense: dict[str, tuple[Encoder, onnx.ModelProto]]) -> None:
    feed = _feed("bert", [[1] * 9, [1] * 4 + [0] * 5])
    for engine in variants(load_target("h100"), "fp16")[-4::3]:
        whole = lower(dense["bert"][1], Engine("fp32", engine.form, mask=engine.mask))
        kept = fp16.choose_float32_nodes(whole, [feed], allowed=-1.0)
        assert kept.nodes
        half = lower(whole, Engine("fp16", left_out=kept.nodes, mask=engine.mask))
        assert np.isfinite(_answers(half, feed)).all()


def test_our_sessions_refuse_other_padding_by_name(dense: dict[str, tuple[Encoder, onnx.ModelProto]]) -> None:
    data = with_mask(dense["bert"][1], "onnx").SerializeToString()
    ordinary = open_session(data, CPU)
    bound = BoundSession(onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]), "cpu")
    left = _feed("bert", [[1] * 9, [0, 0] + [1] * 7])
    for session in (ordinary, bound):
        assert np.isfinite(session.run(_feed("bert", [[1] * 9, [1] * 4 + [0] * 5]))).all()
        with pytest.raises(PaddingRefused, match=r"attention_mask: example 1 .* before a token \(001111111\)"):
            session.run(left)
    assert issubclass(PaddingRefused, ExportError)
