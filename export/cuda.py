"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, with bound inputs and outputs, so that each is copied once.

The tests need no GPU: they test the session with its memory on the processor, which ONNX Runtime's I/O binding treats
alike. ``docs/gpu.md`` lists the runs on GPUs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError, TargetError
from compress.export import cuda_events
from compress.export.inputs import select_inputs
from compress.export.outputs import answer_names
from compress.profile.gpu import gpus, matching_gpus

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.profile.target import Target

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip uninstall onnxruntime, then pip install 'compress[gpu]' (the two install over each other)"


class BoundSession:
    """``Session`` with bound inputs and outputs: a call takes arrays of the host and returns one.

    So its latency includes both copies, as for a caller on the host. The memory of the inputs stays bound between calls
    of one shape.

    Args:
        inference: an ``onnxruntime.InferenceSession``.
        device: device of inputs and outputs, ``cuda`` or ``cpu``.
        number: number of that device.
        stream: CUDA stream that the session computes on; None if the session has its own.
    """

    def __init__(self, inference: Any, device: str = "cuda", number: int = 0, stream: int | None = None) -> None:
        self._inference, self._device, self._number, self._stream = inference, device, number, stream
        self.input_names: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())
        self._outputs = answer_names([value.name for value in inference.get_outputs()])
        self._bound: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        binding, known = self._bind(feed)
        with _as_export_error(known):
            self._inference.run_with_iobinding(binding)
            answers = binding.copy_outputs_to_cpu()
        return np.array(answers[0]) if len(answers) == 1 else np.stack(answers, axis=-1)

    def without_copies(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Callable[[], None], int]:
        """Prepare calls whose inputs are already on the GPU.

        Args:
            feed: one batch, arrays by input name.

        Returns:
            A function that starts a call, and the CUDA stream that it starts on.

        Raises:
            ExportError: the session computes on a stream that only the runtime knows.
        """
        if self._stream is None:
            raise ExportError("this session has no CUDA stream to time on; install cuda-bindings (the extra 'gpu')")
        import onnxruntime

        binding, known = self._bind(feed)
        options = onnxruntime.RunOptions()
        # With this a call returns as soon as everything has started; events tell when it is done.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def start() -> None:
            self._inference.run_with_iobinding(binding, options)

        with _as_export_error(known):
            start()
        return start, self._stream

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        self._inference, self._binding = None, None
        self._bound.clear()
        if self._stream is not None:
            cuda_events.free_stream(self._stream)
            self._stream = None

    def _bind(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Any, dict[str, NDArray[Any]]]:
        """Copy inputs to the session's device, into the memory of the last call if the shapes are the same."""
        if self._inference is None:
            raise ExportError("this session is closed; open another with open_session")
        known = {name: np.ascontiguousarray(value) for name, value in select_inputs(feed, self.input_names).items()}
        import onnxruntime

        shapes = {name: tuple(value.shape()) for name, value in self._bound.items()}
        with _as_export_error(known):
            if shapes == {name: value.shape for name, value in known.items()}:
                for name, value in known.items():
                    self._bound[name].update_inplace(value)
                return self._binding, known
            binding = self._inference.io_binding()
            self._bound = {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(value, self._device, self._number)
                for name, value in known.items()
            }
            for name, value in self._bound.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                # Their shapes follow from the inputs': the runtime allocates.
                binding.bind_output(name, self._device, self._number)
        self._binding = binding
        return binding, known


@contextmanager
def _as_export_error(known: Mapping[str, NDArray[Any]]) -> Iterator[None]:
    from compress.export.session import runtime_errors

    # Bound calls raise a plain RuntimeError.
    expected: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError)
    try:
        yield
    except expected as error:
        shapes = {name: tuple(value.shape) for name, value in known.items()}
        raise ExportError(f"ONNX Runtime could not run the model on inputs {shapes}: {error}") from error


def provider_options(number: int = 0, stream: int | None = None) -> list[tuple[str, dict[str, str]]]:
    """Execution providers with their options: CUDA, then the processor for operations on shapes.

    Source: ONNX Runtime's documentation, "CUDA Execution Provider", configuration options.

    Args:
        number: number of the GPU.
        stream: CUDA stream to compute on; None lets the provider create its own.

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
    return [(PROVIDER, cuda), ("CPUExecutionProvider", {})]


def open_cuda(model: Path | bytes, target: Target) -> Session:
    """Load an exported model on the target's GPU.

    Args:
        model: an ONNX file, or its bytes.
        target: a target that runs in ONNX Runtime on an NVIDIA GPU.

    Returns:
        A session with bound inputs and outputs.

    Raises:
        TargetError: there is no such GPU, or ONNX Runtime lacks its CUDA provider; the message says what to do.
        ExportError: the runtime refuses the model.
    """
    number = require_cuda(target)
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
    inference = load_inference(model, options, provider_options(number, stream))
    if PROVIDER not in inference.get_providers():
        # Without CUDA's libraries it falls back to the processor without an error.
        raise TargetError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its CUDA provider (CUDA, of the version it was "
            "built for, and cuDNN 9 have to be found): pip install 'onnxruntime-gpu[cuda,cudnn]', or the image; "
            "see docs/gpu.md"
        )
    return BoundSession(inference, "cuda", number, stream)


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
