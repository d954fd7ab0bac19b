"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, with inputs and outputs bound so that each is copied once.

Not run on a GPU by this project's own tests where there is none; ``docs/gpu.md`` says what was. The session itself is
tested with its memory on the processor, which ONNX Runtime's I/O binding treats alike.
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
from compress.export.inputs import inputs_of
from compress.profile.gpu import gpus, here

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.profile.target import Target

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip uninstall onnxruntime, then pip install 'compress[gpu]' (the two install over each other)"


class BoundSession:
    """``Session`` with bound inputs and outputs: a call takes arrays of the host and gives one back.

    So latencies have both copies in them, as a caller on the host meets them. Memory for inputs stays bound from call
    to call of one shape.

    Args:
        inference: an ``onnxruntime.InferenceSession``.
        device, number: where inputs and outputs lie: ``cuda`` and which, or ``cpu``.
        stream: CUDA stream that the session computes on; None where it has one of its own.
    """

    def __init__(self, inference: Any, device: str = "cuda", number: int = 0, stream: int | None = None) -> None:
        self._inference, self._device, self._number, self._stream = inference, device, number, stream
        self.input_names: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())
        self._outputs: tuple[str, ...] = tuple(value.name for value in inference.get_outputs())
        self._bound: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        binding, known = self._bind(feed)
        with _as_export_error(known):
            self._inference.run_with_iobinding(binding)
            answers = binding.copy_outputs_to_cpu()
        return np.array(answers[0]) if len(answers) == 1 else np.stack(answers, axis=-1)

    def without_copies(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Callable[[], None], int]:
        """What starts a call whose inputs are on the GPU already, and the CUDA stream it starts on.

        Raises:
            ExportError: the session computes on a stream that only the runtime knows.
        """
        if self._stream is None:
            raise ExportError("this session has no CUDA stream to time on")
        import onnxruntime

        binding, known = self._bind(feed)
        options = onnxruntime.RunOptions()
        # A call then ends when all is started; events tell when it is done.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def start() -> None:
            self._inference.run_with_iobinding(binding, options)

        with _as_export_error(known):
            start()
        return start, self._stream

    def close(self) -> None:
        self._inference, self._binding = None, None
        self._bound.clear()
        if self._stream is not None:
            cuda_events.free_stream(self._stream)
            self._stream = None

    def _bind(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Any, dict[str, NDArray[Any]]]:
        """Put inputs where the session computes, into the memory of the last call where shapes are the same."""
        if self._inference is None:
            raise ExportError("this session is closed; open another with open_session")
        known = {name: np.ascontiguousarray(value) for name, value in inputs_of(feed, self.input_names).items()}
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

    # A bound call has its own, plain kind of error.
    expected: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError)
    try:
        yield
    except expected as error:
        shapes = {name: tuple(value.shape) for name, value in known.items()}
        raise ExportError(f"ONNX Runtime could not run the model on inputs {shapes}: {error}") from error


def provider_options(number: int = 0, stream: int | None = None) -> list[tuple[str, dict[str, str]]]:
    """Providers and their options, as ``InferenceSession`` takes them; the processor's runs what is about shapes.

    Args:
        number: of the GPU.
        stream: CUDA stream to compute on; None lets the provider make its own.

    Source: ONNX Runtime's documentation, "CUDA Execution Provider", configuration options.
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
    # Values in the GPU's memory are made outside of any session; each would be met with a warning about plugins.
    onnxruntime.set_default_logger_severity(3)
    # CUDA's libraries as Python packages, where they are installed so, lie where no loader looks.
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    inference = load_inference(model, options, provider_options(number, stream))
    if PROVIDER not in inference.get_providers():
        # It falls back to the processor without an error where CUDA's libraries cannot be loaded.
        raise TargetError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its CUDA provider (CUDA, of the version it was "
            "built for, and cuDNN 9 have to be found): pip install 'onnxruntime-gpu[cuda,cudnn]', or the image; "
            "see docs/gpu.md"
        )
    return BoundSession(inference, "cuda", number, stream)


def require_cuda(target: Target) -> int:
    """The number of the target's GPU, where ONNX Runtime can use it.

    Raises:
        TargetError: it is not here, or ONNX Runtime lacks its CUDA provider; the message says what to do.
    """
    number = device_number(target)
    lacking = lacking_provider()
    if lacking is not None:
        raise TargetError(f"target '{target.name}' is here, but cannot be used: {lacking}")
    return number


def device_number(target: Target) -> int:
    """Which GPU of this machine is the target's: the first of its compute capability.

    Raises:
        TargetError: none is.
    """
    reason = absence(target)
    if reason is not None:
        raise TargetError(f"target '{target.name}' is not on this machine: {reason}")
    return next(i for i, gpu in enumerate(gpus()) if gpu in here(target.compute_capability))


def absence(target: Target) -> str | None:
    """Why a GPU target is not this machine; None where it is."""
    if here(target.compute_capability):
        return None
    wanted = f"{target.device}" + (
        f" (compute capability {target.compute_capability})" if target.compute_capability else ""
    )
    others = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus())
    return f"it needs {wanted}, and nvidia-smi shows {others or 'no GPU'}"


def lacking_provider() -> str | None:
    """Why ONNX Runtime cannot use a GPU; None where it can."""
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
