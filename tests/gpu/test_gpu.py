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
from compress.profile.target import Target, describe_device
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
