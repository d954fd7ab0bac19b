"""On a GPU: run automatically where there is one with its runtime, skipped elsewhere with the reason.

What these need of a GPU alone; everything up to that edge is tested beside the code that it belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compress.export import cuda, cuda_events, rtx_library, tensorrt
from compress.export.lowering import lower, variants
from compress.export.measure import compare_without_copies
from compress.export.onnx import export_onnx
from compress.export.runtime import keep_engine, open_session
from compress.export.tensorrt_file import EngineRecord, RtxRecord, engine_path, read_record
from compress.profile import gpu
from compress.profile.cuda_graphs import CudaGraphs
from compress.profile.device import describe_device
from compress.profile.target import Target
from support.models import random_model
from support.structures import padded_inputs

FOUND = gpu.gpus()
NO_GPU = "" if FOUND else "no GPU here (nvidia-smi shows none)"
NO_CUDA = NO_GPU or cuda.lacking_provider() or ""
NO_TENSORRT = NO_GPU or tensorrt.lacking_tensorrt(FOUND[0].compute_capability) or ""
on_cuda = pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA)
# polygraphy uses one of the two in a process: where TensorRT is tested, this one needs a process of its own.
NO_RTX = (
    NO_GPU or rtx_library.lacking(FOUND[0].compute_capability) or ("TensorRT is tested here" if not NO_TENSORRT else "")
)
on_rtx = pytest.mark.skipif(bool(NO_RTX), reason=NO_RTX)
on_tensorrt = pytest.mark.skipif(bool(NO_TENSORRT), reason=NO_TENSORRT)
CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
# Of answers of about 1 in these random models.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(random_model("bert"), path, input_names=list(padded_inputs("bert")))
    return path


def feed() -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in padded_inputs("bert").items()}


def here(runtime: Any) -> Target:
    batch, length = next(iter(feed().values())).shape
    found = Target(name="here", device="this GPU", runtime=runtime, compute_capability=FOUND[0].compute_capability)
    return found.for_calls(batch, length)


def lowered(dense: Path, target: Target, precision: Any) -> bytes:
    data: bytes = lower(onnx.load(str(dense)), variants(target, precision)[0], [feed()]).SerializeToString()
    return data


@on_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_answers_as_on_the_processor(dense: Path, precision: str) -> None:
    session = open_session(lowered(dense, here("onnxruntime-cuda"), precision), here("onnxruntime-cuda"))
    expected = open_session(dense, CPU).run(feed())
    # Twice: the second call fills what the first has bound.
    for _ in range(2):
        assert np.abs(session.run(feed()) - expected).max() < TOLERANCE[precision]
    session.close()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32 values, which fused kernels take, unlike those of ``dense``."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = random_model("bert", hidden_size=128, num_attention_heads=4, intermediate_size=256)
    export_onnx(model, path, input_names=list(padded_inputs("bert")))
    return path


@on_cuda
@pytest.mark.parametrize("length", [9, 32])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_form_answers_as_on_the_processor(wide: Path, precision: Any, length: int) -> None:
    batch = {name: tensor.numpy() for name, tensor in padded_inputs("bert", 3, length).items()}
    expected = open_session(wide, CPU).run(batch)
    target, off = here("onnxruntime-cuda"), {}
    for engine in variants(target, precision):
        session = open_session(lower(onnx.load(str(wide)), engine).SerializeToString(), target)
        off[engine.name] = float(np.abs(session.run(batch) - expected).max())
        session.close()
    # All of them are shown if one is wrong.
    assert max(off.values()) < TOLERANCE[precision], off


@on_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_calls_as_cuda_graphs_answer_as_without(wide: Path, precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    graphs = CudaGraphs(batch_size=(1, 4), seq_len=(16, 32))
    target = here("onnxruntime-cuda")
    captured = target.model_copy(update={"cuda_graphs": graphs})
    for engine in variants(target, precision):
        file = lower(onnx.load(str(wide)), engine).SerializeToString()
        session, without = open_session(file, captured), open_session(file, target)
        for batch, length, seed in ((1, 16, 0), (1, 11, 1), (3, 30, 2), (4, 32, 3), (3, 30, 4)):
            call = {name: tensor.numpy() for name, tensor in padded_inputs("bert", batch, length, seed).items()}
            assert np.abs(session.run(call) - without.run(call)).max() < TOLERANCE[precision], engine
        session.close()
        without.close()
    assert not caplog.records, "nothing was outside the shapes, and every form was captured"


@on_cuda
@pytest.mark.skipif(cuda_events.runtime() is None, reason="cuda-bindings is not installed, or finds no driver")
def test_events_time_calls_without_copies(dense: Path) -> None:
    target = here("onnxruntime-cuda")
    sessions = [open_session(lowered(dense, target, precision), target) for precision in ("fp32", "fp16")]
    compared = compare_without_copies(*sessions, feed(), rounds=30)
    assert compared is not None and compared.dense.value > 0 and compared.compressed.value > 0
    # What is timed is the call: its answer is still right afterwards.
    assert np.abs(sessions[0].run(feed()) - open_session(dense, CPU).run(feed())).max() < TOLERANCE["fp32"]
    for session in sessions:
        session.close()


@on_tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_answers_as_the_processor_does_on_the_same_file(dense: Path, precision: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(lowered(dense, here("tensorrt"), precision))
    expected = open_session(path, CPU).run(feed())
    tensorrt.keep_engine(path, here("tensorrt"))
    assert (
        engine_path(path).is_file()
        and read_record(path, EngineRecord).compute_capability == FOUND[0].compute_capability
    )
    session = open_session(path, here("tensorrt"))
    assert np.abs(session.run(feed()) - expected).max() < max(TOLERANCE.get(precision, 0.0), 2e-2)
    # More examples than the engine takes at once.
    twice = {name: np.concatenate([value, value]) for name, value in feed().items()}
    assert len(session.run(twice)) == 2 * len(expected)
    session.close()


@on_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_answers_as_the_processor_does_on_the_same_file(
    dense: Path, precision: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(lowered(dense, here("tensorrt-rtx"), precision))
    expected = open_session(path, CPU).run(feed())
    keep_engine(path, here("tensorrt-rtx"))
    assert read_record(path, RtxRecord).compute_capability == FOUND[0].compute_capability
    session = open_session(path, here("tensorrt-rtx"))
    assert np.abs(session.run(feed()) - expected).max() < max(TOLERANCE.get(precision, 0.0), 2e-2)
    session.close()


@on_cuda
def test_a_profile_says_which_gpu_and_driver() -> None:
    described = describe_device(here("onnxruntime-cuda"))
    assert described["gpu"] == FOUND[0].name and described["driver"] == FOUND[0].driver
