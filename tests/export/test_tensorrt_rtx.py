"""Engines of TensorRT-RTX: really built, for GPUs that are not here; refusals where it is missing or does not fit.

Where ``tensorrt_rtx`` is not installed (``make rtx``), what builds is skipped, and what is said then is still tested.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from compress.core.errors import EXIT_ERROR, ExportError, TargetError
from compress.core.plan import Widths
from compress.export import cuda, engine_session, graph, rtx_library, runtime, tensorrt_rtx
from compress.export.engine_session import check_call, ranges_of
from compress.export.lowering import lower, variants
from compress.export.narrowing import narrow
from compress.export.onnx import export_onnx
from compress.export.standard_ops import check_supported, count_attention, expand_attention, precision_of
from compress.export.tensorrt_file import (
    RtxRecord,
    context_path,
    engine_path,
    library_of,
    read_record,
    record_path,
)
from compress.models.encoder import encoder_of
from compress.profile import gpu
from compress.profile.target import Calls, Target, load_target
from support.models import EVERY_FAMILY, OF_IMAGES, DenseOnnx, layers, random_model
from support.once import Once
from support.structures import padded_inputs

RTX_4090 = gpu.Gpu("NVIDIA GeForce RTX 4090", "8.9", "580.82.07", 24564, 3120, 210)
H100 = gpu.Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.82.07", 81559, 1980, 345)
HERE = rtx_library.load() is not None
needs_library = pytest.mark.skipif(not HERE, reason="tensorrt_rtx, which builds engines, is not installed: `make rtx`")
# Heads as real models have them: kernels of fused attention take no heads of six values.
WIDE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
WIDE_OF = {"distilbert": {"dim": 128, "n_heads": 4, "hidden_dim": 256}}
# Attention of every kind: plain, with positions in its scores, with turned queries and keys, and of images.
KINDS = ("bert", "deberta-v2", "modernbert", "vit")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_session, "_BUILT", type(engine_session._BUILT)())
    as_if(monkeypatch)


def as_if(monkeypatch: pytest.MonkeyPatch, *found: gpu.Gpu) -> None:
    for module in (gpu, cuda, tensorrt_rtx):
        monkeypatch.setattr(module, "gpus", lambda: found)


def target(name: str = "rtx-4090", **changes: Any) -> Target:
    return load_target(name).for_calls(2, 16).model_copy(update=changes)


def feed_of(family: str) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in padded_inputs(family).items()}


def wide_model(once: Once, family: str) -> tuple[Any, onnx.ModelProto]:
    """An encoder of two layers with heads of 32 values, and its file."""
    network = random_model(family, **{**WIDE_OF.get(family, WIDE), **layers(family, 2)})

    def make(folder: Path) -> None:
        export_onnx(network, folder / "model.onnx", input_names=list(feed_of(family)))

    return encoder_of(network), onnx.load(str(once(f"wide-{family}", make) / "model.onnx"))


def lowered(proto: onnx.ModelProto, family: str, precision: Any) -> bytes:
    (engine,) = variants(target(), precision)
    data: bytes = lower(proto, engine, [feed_of(family)], timing_only=True).SerializeToString()
    return data


def fused(data: bytes, for_target: Target) -> tuple[int, int]:
    """Fused attentions in the built engine, and those in the graph."""
    record = tensorrt_rtx.make_record(data, for_target)
    return tensorrt_rtx.build(data, for_target, record).fused, record.attention


@pytest.fixture
def file(dense_onnx: DenseOnnx, tmp_path: Path) -> Path:
    """A small fp16 file of standard operators, alone in its folder."""
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(lowered(onnx.load(str(dense_onnx("bert"))), "bert", "fp16"))
    return path


@needs_library
def test_an_engine_is_built_without_a_gpu_and_its_record_says_what_it_is(file: Path) -> None:
    kept = runtime.keep_engine(file, target())
    assert kept.files == (engine_path(file), record_path(file), context_path(file))
    assert all(path.stat().st_size for path in kept.files)
    record = json.loads(record_path(file).read_text())
    assert (record["runtime"], record["compute_capability"], record["precision"]) == ("TensorRT-RTX", "8.9", "fp16")
    assert record["release"] == rtx_library.release() and record["attention"] == 3
    assert (record["batch_size"], record["seq_len"]) == ([1, 2, 2], [1, 16, 16])
    assert len(record["engine_sha256"]) == len(record["onnx_sha256"]) == 64
    assert f"TensorRT-RTX {rtx_library.release()}, compute capability 8.9, fp16" in kept.said

    # The same case again: nothing is built. Another one is refused, and both sides are said.
    before = engine_path(file).stat().st_mtime_ns
    assert runtime.keep_engine(file, target()) == kept and engine_path(file).stat().st_mtime_ns == before
    with pytest.raises(TargetError, match=r"compute capability 8\.9, here 8\.6.*remove '.*model.plan'") as caught:
        runtime.keep_engine(file, target("rtx-3090"))
    assert caught.value.exit_code == EXIT_ERROR
    record_path(file).write_text(record_path(file).read_text().replace(rtx_library.release(), "1.6.0.1"))
    with pytest.raises(TargetError, match=rf"TensorRT-RTX 1\.6\.0\.1, here {rtx_library.release()}.*that release"):
        runtime.keep_engine(file, target())


@needs_library
def test_weights_beside_the_file_are_read(file: Path) -> None:
    # Files above 2 GB have them.
    graph.save(onnx.load(str(file)), file, 0)
    assert file.with_name("model.onnx.data").stat().st_size > file.stat().st_size
    assert "fp16" in runtime.keep_engine(file, target()).said
    assert engine_path(file).stat().st_size > file.with_name("model.onnx.data").stat().st_size


@needs_library
def test_the_file_for_onnx_runtime_names_the_engine_and_has_its_inputs_and_outputs(file: Path) -> None:
    runtime.keep_engine(file, target())
    context, model = onnx.load(str(context_path(file))), onnx.load(str(file))
    (node,) = context.graph.node
    assert (node.domain, node.op_type) == ("com.microsoft", "EPContext")
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    # Read by the provider from the folder of this file; it refuses absolute paths and "..".
    assert (context_path(file).parent / attributes["ep_cache_context"].decode()).samefile(engine_path(file))
    assert (attributes["embed_mode"], attributes["hardware_architecture"]) == (0, b"89")
    types = [[(v.name, v.type.tensor_type.elem_type) for v in side] for side in (model.graph.input, model.graph.output)]
    ours = [(v.name, v.type.tensor_type.elem_type) for v in context.graph.input]
    assert ours == types[0] and list(node.input) == [name for name, _ in ours]
    assert [(v.name, v.type.tensor_type.elem_type) for v in context.graph.output] == types[1]
    import onnxruntime

    # It is a graph that ONNX Runtime knows: what is missing here is the provider alone.
    with pytest.raises(Exception, match=r"EPContext node.*not compatible with any execution provider"):
        onnxruntime.InferenceSession(str(context_path(file)), providers=["CPUExecutionProvider"])


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("family", [*EVERY_FAMILY, *OF_IMAGES])
def test_the_parser_takes_the_standard_graph_of_every_family(dense_onnx: DenseOnnx, family: str) -> None:
    proto = onnx.load(str(dense_onnx(family)))
    for precision in ("fp32", "fp16", "int8"):
        assert rtx_library.unsupported(lowered(proto, family, precision)) == [], precision


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("family", KINDS)
def test_attention_is_fused_in_fp16_and_int8_whole_and_cut(once: Once, family: str) -> None:
    encoder, proto = wide_model(once, family)
    random = np.random.default_rng(0)
    cut = Widths((int(random.integers(1, 4)), 0), (0, int(random.integers(1, 256))))
    for precision in ("fp16", "int8"):
        assert fused(lowered(proto, family, precision), target()) == (2, 2), precision
        assert fused(lowered(narrow(proto, encoder, cut), family, precision), target()) == (1, 1), (precision, cut)


@needs_library
@pytest.mark.slow
def test_the_oldest_and_the_newest_gpu_are_built_for_and_a_model_without_sublayers(once: Once) -> None:
    encoder, proto = wide_model(once, "bert")
    for name in ("t4-rtx", "rtx-5090"):
        assert fused(lowered(proto, "bert", "fp16"), target(name)) == (2, 2), name
    # Nothing left in any layer: there is nothing to quantize and no attention.
    empty = narrow(proto, encoder, Widths((0, 0), (0, 0)))
    assert fused(lowered(empty, "bert", "int8"), target()) == (0, 0)


@needs_library
def test_what_the_parser_does_not_take_is_named_by_node(dense_onnx: DenseOnnx, file: Path) -> None:
    proto = onnx.load(str(dense_onnx("bert")))
    node = next(node for node in proto.graph.node if node.op_type == "MultiHeadAttention")
    with pytest.raises(ExportError, match=rf"MultiHeadAttention \('{node.name}': .*by the parser of release") as caught:
        check_supported(proto, target())
    assert "TensorRT-RTX does not support" in str(caught.value)
    with pytest.raises(ExportError, match="MultiHeadAttention"):
        tensorrt_rtx.make_record(proto.SerializeToString(), target())
    check_supported(onnx.load(str(file)), target())


@needs_library
def test_a_graph_that_cannot_be_built_is_said_in_the_library_s_words(dense_onnx: DenseOnnx, file: Path) -> None:
    record = tensorrt_rtx.make_record(file, target())
    with pytest.raises(ExportError, match=r"TensorRT-RTX [\d.]+ failed reading the model: operator MultiHeadAttention"):
        tensorrt_rtx.build(dense_onnx("bert"), target(), record)


@needs_library
def test_reasons_why_an_engine_does_not_run_here_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = rtx_library.load()
    assert module is not None
    reasons = module.EngineInvalidityDiagnostics

    def found(validity: Any, flags: int) -> None:
        engine_runtime = SimpleNamespace(get_engine_validity=lambda engine: (validity, flags))
        monkeypatch.setattr(module, "Runtime", lambda log: engine_runtime)
        rtx_library.check_valid(b"engine", "engine 'x'")

    found(module.EngineValidity.VALID, 0)
    found(module.EngineValidity.SUBOPTIMAL, 0)
    with pytest.raises(TargetError, match=r"engine 'x'.*VERSION_MISMATCH \(built by another release\).*; remove it"):
        found(module.EngineValidity.INVALID, int(reasons.VERSION_MISMATCH))
    with pytest.raises(TargetError, match=r"UNSUPPORTED_CC \(built for another compute capability\).*OLD_CUDA_DRIVER"):
        found(module.EngineValidity.INVALID, int(reasons.UNSUPPORTED_CC) | int(reasons.OLD_CUDA_DRIVER))
    with pytest.raises(TargetError, match="the driver is too old: update it") as caught:
        found(module.EngineValidity.INVALID, int(reasons.OLD_CUDA_DRIVER))
    assert "remove it" not in str(caught.value), "building it again would not help"


@needs_library
def test_on_the_gpu_the_engine_beside_the_file_is_opened_after_it_was_compared(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    asked, opened = [], []
    monkeypatch.setattr(rtx_library, "check_valid", lambda engine, where: asked.append((engine, where)))
    monkeypatch.setattr(tensorrt_rtx, "_choose_polygraphys_library", lambda: None)
    monkeypatch.setattr(tensorrt_rtx, "EngineSession", lambda engine, record, calls: opened.append((engine, calls)))
    with pytest.raises(TargetError, match="'rtx-4090' is not on this machine"):
        runtime.open_session(file, target())
    as_if(monkeypatch, RTX_4090)
    # Without an engine, one is built for this process; twice the same.
    runtime.open_session(file, target())
    runtime.open_session(file, target())
    assert opened[0] == opened[1] and asked[0][1] == "a new engine" and not engine_path(file).exists()
    runtime.keep_engine(file, target())
    runtime.open_session(file, target())
    assert opened[-1] == (engine_path(file).read_bytes(), target().calls)
    assert asked[-1] == (opened[-1][0], f"engine '{engine_path(file)}'")

    with pytest.raises(TargetError, match=r"lengths 1, 16, 16, here 1, 32, 32"):
        runtime.open_session(file, load_target("rtx-4090").for_calls(2, 32))
    record_path(file).write_text(record_path(file).read_text().replace('"8.9"', '"8.6"'))
    with pytest.raises(TargetError, match=r"compute capability 8\.6, here 8\.9.*remove"):
        runtime.open_session(file, target())
    record_path(file).write_text(record_path(file).read_text().replace('"8.6"', '"8.9"'))
    engine_path(file).write_bytes(b"another")
    with pytest.raises(TargetError, match="is damaged: its SHA-256"):
        runtime.open_session(file, target())
    as_if(monkeypatch, H100, RTX_4090)
    with pytest.raises(TargetError, match="CUDA_VISIBLE_DEVICES=1"):
        runtime.open_session(file, target())


def test_polygraphy_uses_one_of_the_two_libraries_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("polygraphy.config")
    monkeypatch.setattr(config, "USE_TENSORRT_RTX", False)
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", sys)
    with pytest.raises(TargetError, match=r"polygraphy uses TensorRT in this process already.*another process"):
        tensorrt_rtx._choose_polygraphys_library()
    monkeypatch.delitem(sys.modules, "polygraphy.backend.trt")
    tensorrt_rtx._choose_polygraphys_library()
    assert config.USE_TENSORRT_RTX
    tensorrt_rtx._choose_polygraphys_library()


@needs_library
def test_a_gpu_that_is_not_built_for_is_refused(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    hopper = target(compute_capability="9.0")
    with pytest.raises(TargetError, match=r"does not build for compute capability 9\.0; it builds for 7\.5, .*8\.9"):
        runtime.keep_engine(file, hopper)
    as_if(monkeypatch, H100)
    with pytest.raises(TargetError, match=r"is here, but cannot be used: .*compute capability 9\.0"):
        runtime.open_session(file, hopper)
    assert not engine_path(file).exists()
    with pytest.raises(TargetError, match="gives no compute_capability"):
        runtime.require_builder(target(compute_capability=None))


def test_without_the_library_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for attempt in (runtime.require_builder, lambda wanted: runtime.keep_engine(file, wanted)):
        with pytest.raises(TargetError, match=r"pip install -c constraints.txt 'compress\[rtx\]'") as caught:
            attempt(target())
        assert caught.value.exit_code == EXIT_ERROR
    # Planning needs no engine: the list of TensorRT's operators stands in for the parser.
    check_supported(onnx.load(str(file)), target())
    unknown = helper.make_model(
        helper.make_graph([helper.make_node("Unique", ["x"], ["y"])], "g", [], []),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    with pytest.raises(ExportError, match=r"operator Unique \(by github.com/onnx/onnx-tensorrt"):
        check_supported(unknown, target())
    runtime.require_builder(load_target("v100")), "other targets do not ask for it"
    as_if(monkeypatch, RTX_4090)
    with pytest.raises(TargetError, match=r"is here, but cannot be used: .*compress\[rtx\]"):
        runtime.open_session(file, target())


def test_an_engine_of_another_library_is_said_to_be_one(file: Path) -> None:
    engine_path(file).parent.mkdir()
    record_path(file).write_text('{"tensorrt": "10.9.0.34", "gpu": "Tesla T4"}')
    engine_path(file).write_bytes(b"engine")
    assert library_of(file) == "TensorRT"
    with pytest.raises(TargetError, match=r"was built by TensorRT, not TensorRT-RTX; remove '.*model.plan'"):
        read_record(file, RtxRecord)


def test_a_call_outside_the_engine_s_ranges_is_refused_with_both() -> None:
    calls = Calls(batch_size=(2, 4, 8), seq_len=(8, 64, 128))
    check_call({"input_ids": (4, 64), "attention_mask": (4, 64)}, calls)
    check_call({"input_ids": (100, 8)}, calls)  # split into batches of 8
    check_call({"pixel_values": (4, 3, 224, 224)}, calls)
    for shape in ((4, 129), (4, 7), (1, 64)):
        words = rf"{shape[0]} x {shape[1]}.*batch sizes 2 to 8 and lengths 8 to 128.*--seq-len"
        with pytest.raises(ExportError, match=words):
            check_call({"input_ids": shape}, calls)


def test_ranges_are_those_of_the_free_dimensions(dense_onnx: DenseOnnx) -> None:
    calls = Calls(batch_size=(1, 4, 8), seq_len=(8, 64, 128))
    texts = ranges_of(onnx.load(str(dense_onnx("bert"))), calls)
    assert texts["input_ids"] == ((1, 8), (4, 64), (8, 128)) and len(texts) == 3
    images = ranges_of(onnx.load(str(dense_onnx("vit"))), calls)
    assert images == {"pixel_values": ((1, 3, 16, 16), (4, 3, 16, 16), (8, 3, 16, 16))}


def test_attention_and_precision_are_counted_in_the_graph(dense_onnx: DenseOnnx) -> None:
    proto = onnx.load(str(dense_onnx("bert")))
    assert count_attention(expand_attention(proto)) == 3 and count_attention(proto) == 0
    encoder = encoder_of(random_model("bert"))
    cut = narrow(proto, encoder, Widths((2, 0, 1), (5, 5, 0)))
    for precision in ("fp32", "fp16", "int8"):
        graph = onnx.load_from_string(lowered(cut, "bert", precision))
        assert (count_attention(graph), precision_of(graph)) == (2, precision)


def test_records_say_what_is_fused() -> None:
    record = RtxRecord(
        release="1.7.1.116",
        compute_capability="8.9",
        precision="fp16",
        attention=6,
        attention_fused=6,
        onnx_sha256="a" * 64,
        batch_size=(1, 1, 1),
        seq_len=(1, 64, 64),
        inputs=("input_ids",),
        outputs=("logits",),
    )
    assert record.fusion == "attention is fused in all 6 layers that have it"
    assert replace(record, attention_fused=4).fusion == "attention is fused in 4 of 6 layers that have it"
    assert replace(record, attention_fused=0).fusion.startswith("attention is fused in 0 of 6")
    assert replace(record, attention=0, attention_fused=0).fusion == "no attention is left"
    assert not record.differences(replace(record, attention_fused=None, precision="int8"))
    assert record.differences(replace(record, seq_len=(1, 64, 128))) == ["lengths 1, 64, 64, here 1, 64, 128"]
