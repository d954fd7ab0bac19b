"""Calls as CUDA graphs, up to the edge: real I/O binding and run options on the processor, which ignores numbers of
graphs. Where only CUDA's behaviour is needed, ``StandIn`` has it: it notes numbers, or refuses to capture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ExportError, TargetError
from compress.core.plan import EncoderShape
from compress.export import bound, captured, cuda, session
from compress.export.bound import BoundSession
from compress.export.captured import CapturedSession, fill_up, obstacles
from compress.export.key_masks import with_mask
from compress.export.padding import PaddingRefused
from compress.profile import gpu
from compress.profile.cuda_graphs import CudaGraphs
from compress.profile.target import load_target
from support.encoder_graph import encoder_graph
from support.thorough import examples

SHAPE = EncoderShape("bert", 2, 16, 2, 8, 24)
GRAPHS = CudaGraphs(batch_size=(1, 4), seq_len=(4, 8))
SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=5, unique=True).map(lambda found: tuple(sorted(found)))


def tokens_graph() -> bytes:
    """Attention with a mask over embedded tokens; an answer for every token, [batch, sequence, 16]."""
    random = np.random.default_rng(0)
    table = numpy_helper.from_array(random.standard_normal((32, 16)).astype(np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"], "embed"),
        helper.make_node("Cast", ["attention_mask"], ["m"], "cast", to=TensorProto.INT32),
        helper.make_node(
            "MultiHeadAttention", ["x", "x", "x", "", "m"], ["y"], "a", "", "com.microsoft", num_heads=2, scale=0.5
        ),
    ]
    kinds = ["input_ids", "attention_mask"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in kinds]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 16])]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [table])
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return data


class StandIn:
    """An ``InferenceSession`` on the processor that stands in for CUDA's: notes the number of each call's graph.

    Args:
        model: bytes of a file.
        most: bytes that fit; a graph of a call with more inputs cannot be captured. None for no limit.
    """

    def __init__(self, model: bytes, most: int | None = None) -> None:
        self._real = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.numbers: list[int] = []
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        number = int(options.get_run_config_entry(bound.GRAPH_NUMBER))
        self.numbers.append(number)
        if self._most is not None and number > self._most:
            raise RuntimeError("CUDA failure 2: out of memory")
        self._real.run_with_iobinding(binding, options)


def plain(model: bytes) -> BoundSession:
    return BoundSession(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]), "cpu")


def feed_of(batch: int, length: int, mask: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    ids = np.random.default_rng(batch * 100 + length).integers(0, 32, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else np.array(mask)}


@given(batches=SIZES, lengths=SIZES, batch=st.integers(1, 24), length=st.integers(1, 24))
def test_a_call_goes_into_the_smallest_shape_that_takes_it(
    batches: tuple[int, ...], lengths: tuple[int, ...], batch: int, length: int
) -> None:
    graphs = CudaGraphs(batch_size=batches, seq_len=lengths)
    fitting = [shape for shape in graphs.shapes if shape[0] >= batch and shape[1] >= length]
    assert graphs.bucket(batch, length) == min(fitting, key=lambda shape: shape[0] * shape[1], default=None)
    assert len(set(graphs.shapes)) == len(batches) * len(lengths)


def test_shapes_of_a_target_are_the_calls_own_where_none_are_stated() -> None:
    assert CudaGraphs().for_calls(2, 64).shapes == ((2, 64),)
    assert CudaGraphs(seq_len=(32, 128)).for_calls(2, 64).shapes == ((2, 32), (2, 128))
    assert CudaGraphs(batch_size=(4,), seq_len=(8,)).bucket(3, None) == (4, 8)
    with pytest.raises(TargetError, match=r"1 x 256 is larger than every shape .*1 x 128.*add the size"):
        CudaGraphs(seq_len=(128,)).for_calls(1, 256)
    with pytest.raises(TargetError, match="81 shapes, and at most 64"):
        CudaGraphs(batch_size=tuple(range(1, 10)), seq_len=tuple(range(1, 10))).for_calls(1, 1)
    with pytest.raises(ValueError, match="must ascend"):
        CudaGraphs(batch_size=(4, 1))


@given(batch=st.integers(1, 5), length=st.integers(1, 9), tokens=st.integers(1, 9))
@examples(30)
def test_calls_filled_up_answer_as_they_do_alone(batch: int, length: int, tokens: int) -> None:
    model = tokens_graph()
    feed = feed_of(batch, length, [[1] * min(tokens, length) + [0] * (length - min(tokens, length))] * batch)
    found = CapturedSession(StandIn(model), GRAPHS, lambda: plain(model), "cpu").run(feed)
    np.testing.assert_allclose(found, plain(model).run(feed), atol=1e-6, rtol=0)


def test_only_axes_of_tokens_of_the_answer_are_cut() -> None:
    # As files of sentence encoders: the answer is the second output, and has no axis of tokens.
    proto = onnx.ModelProto.FromString(tokens_graph())
    proto.graph.output[0].name = "last_hidden_state"
    for node in proto.graph.node:
        node.output[:] = ["last_hidden_state" if name == "y" else name for name in node.output]
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    proto.graph.initializer.append(axes)
    proto.graph.node.append(
        helper.make_node("ReduceMax", ["last_hidden_state", "axes"], ["sentence_embedding"], "pool", keepdims=0)
    )
    proto.graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 16]))
    model = proto.SerializeToString()
    made = CapturedSession(StandIn(model), GRAPHS, lambda: plain(model), "cpu")
    assert made.run(feed_of(3, 3)).shape == plain(model).run(feed_of(3, 3)).shape == (3, 16)


def test_every_shape_is_captured_once_under_a_number_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    model = tokens_graph()
    stand_in = StandIn(model)
    made = CapturedSession(stand_in, GRAPHS, lambda: plain(model), "cpu")
    for batch, length in ((1, 3), (1, 4), (3, 8), (1, 2), (4, 7)):
        made.run(feed_of(batch, length))
    # The first call of a shape asks for the sizes of its outputs, without a graph.
    assert stand_in.numbers == [-1, 1, 1, -1, 4, 1, 4]
    assert not caplog.records
    made.close()
    with pytest.raises(ExportError, match="closed"):
        made.run(feed_of(1, 3))


def test_memory_of_a_graph_stays_where_it_is() -> None:
    stand_in, places = StandIn(tokens_graph()), []
    one = BoundSession(stand_in, "cpu", 0, None, 1)
    answers = []
    for seed in range(3):
        feed = {name: (value + seed) % 2 for name, value in feed_of(2, 4).items()} | {"attention_mask": np.ones((2, 4))}
        feed = {name: value.astype(np.int64) for name, value in feed.items()}
        answers.append(one.run(feed))
        places.append([value.data_ptr() for value in one._binding.get_outputs()])
        np.testing.assert_array_equal(answers[-1], plain(tokens_graph()).run(feed))
    assert places[0] == places[1] == places[2]
    # Answers given before are not written over.
    assert not np.array_equal(answers[0], answers[1])


def test_a_call_outside_the_shapes_runs_without_a_graph_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model = tokens_graph()
    stand_in = StandIn(model)
    made = CapturedSession(stand_in, GRAPHS, lambda: plain(model), "cpu")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            feed = feed_of(5, 9)
            np.testing.assert_array_equal(made.run(feed), plain(model).run(feed))
    assert stand_in.numbers == [-1, -1]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "5 x 9 is outside the shapes of CUDA graphs (1 x 4, 1 x 8, 4 x 4, 4 x 8)" in said


def test_inputs_without_a_mask_are_not_filled_up_with_tokens() -> None:
    ids = np.ones((1, 3), np.int64)
    assert fill_up({"input_ids": ids}, 1, 4) is None
    assert fill_up({"input_ids": ids}, 4, 3) == {"input_ids": pytest.approx(np.ones((4, 3)))}
    images = {"pixel_values": np.zeros((2, 3, 4, 4), np.float32)}
    filled = fill_up(images, 4, 8)
    assert filled is not None and filled["pixel_values"].shape == (4, 3, 4, 4)
    model = encoder_graph(SHAPE, SHAPE.dense)
    made = CapturedSession(StandIn(model), GRAPHS, lambda: plain(model), "cpu")
    for length in (3, 4):
        feed = {"input_ids": np.arange(2 * length).reshape(2, length) % 32}
        np.testing.assert_allclose(made.run(feed), plain(model).run(feed), atol=1e-6)


def test_without_room_for_graphs_calls_run_without_them_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, opened = tokens_graph(), []

    def without() -> BoundSession:
        opened.append(plain(model))
        return opened[-1]

    made = CapturedSession(StandIn(model, most=0), GRAPHS, without, "cpu")
    with caplog.at_level(logging.WARNING):
        for feed in (feed_of(1, 4), feed_of(1, 4), feed_of(3, 8)):
            np.testing.assert_array_equal(made.run(feed), plain(model).run(feed))
    assert len(opened) == 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert "CUDA graphs were given up" in said and "out of memory" in said


def test_padding_that_a_file_does_not_take_is_no_reason_to_give_graphs_up() -> None:
    model = with_mask(onnx.ModelProto.FromString(tokens_graph()), "lengths").SerializeToString()
    stand_in = StandIn(model)
    made = CapturedSession(stand_in, GRAPHS, lambda: plain(model), "cpu")
    with pytest.raises(PaddingRefused, match="example 1"):
        made.run(feed_of(2, 3, [[1, 1, 0], [0, 1, 1]]))
    made.run(feed_of(2, 3))
    assert stand_in.numbers[-1] == 3


def test_what_cannot_be_captured_is_named(tmp_path: Path) -> None:
    assert obstacles(tokens_graph()) == []
    proto = onnx.ModelProto.FromString(tokens_graph())
    proto.graph.node.append(helper.make_node("NonZero", ["input_ids"], ["places"], "counted"))
    onnx.save_model(proto, str(tmp_path / "model.onnx"))
    assert obstacles(tmp_path / "model.onnx") == ["NonZero 'counted'"]


@pytest.mark.parametrize("refusal", ["cannot use the graph capture feature", None])
def test_a_target_with_graphs_opens_them_or_says_why_not(
    refusal: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    h100 = gpu.Gpu("NVIDIA H100", "9.0", "580", 80000, 1980, 345)
    monkeypatch.setattr(gpu, "gpus", lambda: (h100,))
    monkeypatch.setattr(cuda, "gpus", lambda: (h100,))
    monkeypatch.setattr(cuda, "lacking_provider", lambda: None)
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    asked = []

    def load(model: Any, options: Any, providers: Any) -> Any:
        asked.append(providers[0][1].get("enable_cuda_graph"))
        if refusal and asked[-1]:
            raise ExportError(f"ONNX Runtime cannot load the graph: this session {refusal} as requested")
        return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(session, "load_inference", load)
    target = load_target("h100").model_copy(update={"cuda_graphs": GRAPHS})
    opened = cuda.open_cuda(tokens_graph(), target)
    if refusal is None:
        assert asked == ["1"] and isinstance(opened, CapturedSession)
    else:
        assert asked == ["1", None] and isinstance(opened, BoundSession)
        assert refusal in caplog.text
    asked.clear()
    proto = onnx.ModelProto.FromString(tokens_graph())
    proto.graph.node.append(helper.make_node("NonZero", ["input_ids"], ["places"], "counted"))
    assert isinstance(cuda.open_cuda(proto.SerializeToString(), target), BoundSession)
    assert asked == [None] and "NonZero 'counted' cannot be captured" in caplog.text


def test_refusals_of_capture_are_told_from_others() -> None:
    assert captured.refused(ExportError("cannot use the graph capture feature as requested"))
    assert not captured.refused(ExportError("no such file"))
    assert "enable_cuda_graph" not in cuda.provider_options(0)[0][1]
    assert cuda.provider_options(0, graphs=True)[0][1]["enable_cuda_graph"] == "1"
