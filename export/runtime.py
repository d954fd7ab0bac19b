"""Runtimes: loads exported files with the runtime of a target.

Profiling, validation and accuracy use only the ``Session`` protocol. A new runtime needs one more entry in
``_OPENERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.cores import usable_cores
from compress.core.errors import TargetError, did_you_mean
from compress.export import openvino, rtx_library, tensorrt, tensorrt_rtx
from compress.export.aotinductor_record import PACKAGE, read_record, record_path
from compress.export.cuda import absence, open_cuda, require_cuda
from compress.export.session import OnnxRuntimeSession, Session, load_inference

if TYPE_CHECKING:
    from compress.profile.target import Target


def _onnxruntime(target: Target) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise TargetError(
            f"target '{target.name}' runs in ONNX Runtime, which is not installed; "
            "install the extra: pip install 'compress[cpu]'"
        ) from None
    return onnxruntime


def _aotinductor() -> Any:
    # It imports torch, which other runtimes do not need.
    from compress.export import aotinductor

    return aotinductor


def require_runtime(target: Target) -> None:
    """Check that a target's runtime can be used here, before any work.

    Raises:
        TargetError: the runtime is not installed, the GPU is not on this machine, or the two do not go together. The
            message says what to do.
    """
    if target.runtime == "onnxruntime-cpu":
        _onnxruntime(target)
    elif target.runtime == "openvino":
        openvino.import_openvino(target)
    elif target.runtime == "aotinductor":
        _aotinductor().require(target)
    elif target.runtime == "onnxruntime-cuda":
        require_cuda(target)
    elif target.runtime == "tensorrt":
        tensorrt.usable_gpu(target)
    elif target.runtime == "tensorrt-rtx":
        tensorrt_rtx.require_gpu(target)


def require_builder(target: Target) -> None:
    """Check that the engine of a target's artifact can be built here, before any work.

    TensorRT's engines and AOTInductor's packages are built on the device, TensorRT-RTX's engines on any machine; other
    runtimes have none.

    Raises:
        TargetError: it cannot; the message says what to install.
    """
    if target.runtime == "tensorrt-rtx":
        rtx_library.require(target)
    if target.runtime == "aotinductor" and not (target.on_gpu and absence(target)):
        _aotinductor().require(target)


@dataclass(frozen=True)
class KeptEngine:
    """The engine of an artifact.

    Attributes:
        files: what was written.
        said: what it is, in words; empty where there is none, or nothing is known of it.
    """

    files: tuple[Path, ...] = ()
    said: str = ""


def keep_engine(model: Path, target: Target) -> KeptEngine:
    """Write the engine of an ONNX file into ``engine/`` beside the file, where the target has one and it is built here.

    Args:
        model: an ONNX file of standard operators.
        target: the deployment's target.

    Raises:
        TargetError: the library is missing here, or does not go with the GPU; or there is an engine of another case.
        ExportError: the engine cannot be built.
    """
    if target.runtime == "tensorrt":
        return KeptEngine(tensorrt.keep_engine(model, target))
    if target.runtime == "aotinductor":
        package = model.parent / PACKAGE
        # It is compiled from PyTorch's model, where that is exported.
        if not package.is_file():
            return KeptEngine()
        return KeptEngine((package, record_path(package)), read_record(package).said)
    if target.runtime != "tensorrt-rtx":
        return KeptEngine()
    record = tensorrt_rtx.keep_engine(model, target)
    return KeptEngine(tensorrt_rtx.files_of(model), record.said)


def _open_onnxruntime_cpu(model: Path | bytes, target: Target) -> Session:
    onnxruntime = _onnxruntime(target)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads or usable_cores()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Without it, a session's workers keep spinning after a call and take the cores from the next session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return OnnxRuntimeSession(load_inference(model, options, ["CPUExecutionProvider"]))


_OPENERS: dict[str, Callable[[Path | bytes, Target], Session]] = {
    "aotinductor": lambda model, target: _aotinductor().open_package(model, target),
    "onnxruntime-cpu": _open_onnxruntime_cpu,
    "onnxruntime-cuda": open_cuda,
    "openvino": openvino.open_openvino,
    "tensorrt": tensorrt.open_tensorrt,
    "tensorrt-rtx": tensorrt_rtx.open_tensorrt_rtx,
}


def open_session(model: Path | bytes, target: Target) -> Session:
    """Load an exported model with the target's runtime and threads, and all graph optimizations.

    Args:
        model: an ONNX file, or its bytes.
        target: gives the runtime and the number of threads (None for all usable cores).

    Returns:
        A session; close it after use.

    Raises:
        TargetError: the target's runtime is unknown or not installed; the message names the extra to install.
        ExportError: the runtime cannot load the model.
    """
    opener = _OPENERS.get(target.runtime)
    if opener is None:
        raise TargetError(
            f"target '{target.name}' asks for runtime '{target.runtime}', which this version cannot run; "
            f"it runs {', '.join(sorted(_OPENERS))}.{did_you_mean(target.runtime, sorted(_OPENERS))}"
        )
    return opener(model, target)


def file_of(model: Path, runtime: str) -> Path:
    """The file of an artifact that a runtime loads.

    Args:
        model: the artifact's ONNX file.
        runtime: of the target.
    """
    own = {"openvino": openvino.IR, "aotinductor": PACKAGE}.get(runtime)
    return model if own is None else model.parent / own


def refuse_absent(target: Target) -> None:
    """Check that a target is this machine, so that it can be measured.

    Raises:
        TargetError: it is not; the message says what to do.
    """
    reason = absence(target) if target.on_gpu else None
    if reason is not None:
        raise TargetError(
            f"target '{target.name}' is not on this machine, so nothing can be measured on it: {reason}. Run the same "
            "command on the device (an artifact directory can be copied there as it is); to plan here, `compress "
            "plan`, `compress run` and `compress profile --estimate` take the target's data sheet"
        )
