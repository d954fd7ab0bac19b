"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, with bound inputs and outputs, so that each is copied once.

The tests need no GPU: they test the session with its memory on the processor, which ONNX Runtime's I/O binding treats
alike. ``docs/gpu.md`` lists the runs on GPUs.
"""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ExportError, TargetError
from compress.export import captured, cuda_events
from compress.export.bound import BoundSession
from compress.profile.gpu import gpus, matching_gpus

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.profile.target import Target

PROVIDER = "CUDAExecutionProvider"
_logger = logging.getLogger(__name__)
INSTALL = "pip uninstall onnxruntime, then pip install 'compress[gpu]' (the two install over each other)"


def provider_options(
    number: int = 0, stream: int | None = None, *, graphs: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """Execution providers with their options: CUDA, then the processor for operations on shapes.

    Source: ONNX Runtime's documentation, "CUDA Execution Provider", configuration options.

    Args:
        number: number of the GPU.
        stream: CUDA stream to compute on; None lets the provider create its own.
        graphs: capture calls as CUDA graphs.

    Returns:
        Names and options, as ``InferenceSession`` takes them.
    """
    cuda = {
        "device_id": str(number),
        # float32 means float32: TF32 would round the baseline's products to 10 bits on GPUs that have it.
        "use_tf32": "0",
        # One stream for copies and kernels: a call is over when its copy back is.
        "do_copy_in_default_stream": "1",
    }
    if stream is not None:
        cuda["user_compute_stream"] = str(stream)
    if graphs:
        cuda["enable_cuda_graph"] = "1"
    return [(PROVIDER, cuda), ("CPUExecutionProvider", {})]


def open_cuda(model: Path | bytes, target: Target) -> Session:
    """Load an exported model on the target's GPU.

    Args:
        model: an ONNX file, or its bytes.
        target: a target that runs in ONNX Runtime on an NVIDIA GPU.

    Returns:
        A session with bound inputs and outputs; with CUDA graphs where the target's file has them.

    Raises:
        TargetError: there is no such GPU, or ONNX Runtime lacks its CUDA provider; the message says what to do.
        ExportError: the runtime refuses the model.
    """
    number = require_cuda(target)

    def without() -> BoundSession:
        inference, stream = _inference(model, number)
        return BoundSession(inference, "cuda", number, stream)

    if target.cuda_graphs is None:
        return without()
    found = captured.obstacles(model)
    if found:
        _logger.warning(f"no CUDA graphs, and calls run without them: {', '.join(found[:5])} cannot be captured")
        return without()
    try:
        inference, stream = _inference(model, number, graphs=True)
    except ExportError as error:
        if not captured.refused(error):
            raise
        _logger.warning(f"no CUDA graphs, and calls run without them: {error}")
        return without()
    return captured.CapturedSession(inference, target.cuda_graphs, without, "cuda", number, stream)


def _inference(model: Path | bytes, number: int, *, graphs: bool = False) -> tuple[Any, int | None]:
    """An ``onnxruntime.InferenceSession`` on a GPU, and its stream."""
    import onnxruntime

    from compress.export.session import load_inference

    stream = cuda_events.new_stream(number)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Values in the GPU's memory are created outside of sessions; each would log a warning about plugins.
    onnxruntime.set_default_logger_severity(3)
    # If CUDA's libraries are installed as Python packages, the system's loader does not find them.
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    inference = load_inference(model, options, provider_options(number, stream, graphs=graphs))
    if PROVIDER not in inference.get_providers():
        # Without CUDA's libraries it falls back to the processor without an error.
        raise TargetError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its CUDA provider (CUDA, of the version it was "
            "built for, and cuDNN 9 have to be found): pip install 'onnxruntime-gpu[cuda,cudnn]', or the image; "
            "see docs/gpu.md"
        )
    return inference, stream


def require_cuda(target: Target) -> int:
    """The number of the target's GPU; checks that ONNX Runtime can use it.

    Raises:
        TargetError: the GPU is not here, or ONNX Runtime lacks its CUDA provider; the message says what to do.
    """
    number = device_number(target)
    lacking = lacking_provider()
    if lacking is not None:
        raise TargetError(f"target '{target.name}' is here, but cannot be used: {lacking}")
    return number


def device_number(target: Target) -> int:
    """Number of the target's GPU: the first GPU of this machine with its compute capability.

    Raises:
        TargetError: there is none.
    """
    reason = absence(target)
    if reason is not None:
        raise TargetError(f"target '{target.name}' is not on this machine: {reason}")
    return next(i for i, gpu in enumerate(gpus()) if gpu in matching_gpus(target.compute_capability))


def absence(target: Target) -> str | None:
    """Reason why a GPU target is not this machine; None if it is."""
    if matching_gpus(target.compute_capability):
        return None
    wanted = f"{target.device}" + (
        f" (compute capability {target.compute_capability})" if target.compute_capability else ""
    )
    others = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus())
    return f"it needs {wanted}, and nvidia-smi shows {others or 'no GPU'}"


def lacking_provider() -> str | None:
    """Reason why ONNX Runtime cannot use a GPU; None if it can."""
    try:
        import onnxruntime
    except ImportError:
        return f"ONNX Runtime is not installed; {INSTALL}"
    if PROVIDER in onnxruntime.get_available_providers():
        return None
    return (
        f"ONNX Runtime {onnxruntime.__version__} has {', '.join(onnxruntime.get_available_providers())} and no "
        f"{PROVIDER}; {INSTALL}"
    )
