"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, with inputs and outputs bound so that each is copied once.

Not run on a GPU by this project's own tests where there is none; ``docs/gpu.md`` says what was. The session itself is
tested with its memory on the processor, which ONNX Runtime's I/O binding treats alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ExportError, TargetError
from compress.export.feed import inputs_of
from compress.profile.gpu import gpus, here

if TYPE_CHECKING:
    from compress.export.runtime import Session
    from compress.profile.target import Target

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip uninstall onnxruntime, then pip install 'compress[gpu]' (the two install over each other)"


class BoundSession:
    """``Session`` with bound inputs and outputs: a call takes arrays of the host and gives one back.

    So latencies have both copies in them, as a caller on the host meets them.
    """

    def __init__(self, inference: Any, device: str = "cuda", number: int = 0) -> None:
        self._inference, self._device, self._number = inference, device, number
        self.input_names: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())
        self._outputs: tuple[str, ...] = tuple(value.name for value in inference.get_outputs())

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        from compress.export.runtime import runtime_errors

        if self._inference is None:
            raise ExportError("this session is closed; open another with open_session")
        known = inputs_of(feed, self.input_names)
        import onnxruntime

        binding = self._inference.io_binding()
        # A bound call has its own, plain kind of error.
        expected: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError)
        try:
            for name, value in known.items():
                array = np.ascontiguousarray(value)
                binding.bind_ortvalue_input(
                    name, onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, self._number)
                )
            for name in self._outputs:
                # Their shapes follow from the inputs': the runtime allocates.
                binding.bind_output(name, self._device, self._number)
            self._inference.run_with_iobinding(binding)
            answers = binding.copy_outputs_to_cpu()
        except expected as error:
            shapes = {name: tuple(value.shape) for name, value in known.items()}
            raise ExportError(f"ONNX Runtime could not run the model on inputs {shapes}: {error}") from error
        return answers[0] if len(answers) == 1 else np.stack(answers, axis=-1)

    def close(self) -> None:
        self._inference = None


def provider_options(number: int = 0) -> list[tuple[str, dict[str, str]]]:
    """Providers and their options, as ``InferenceSession`` takes them; the processor's runs what is about shapes.

    Source: ONNX Runtime's documentation, "CUDA Execution Provider", configuration options.
    """
    cuda = {
        "device_id": str(number),
        # float32 means float32: TF32 would round the baseline's products to 10 bits on GPUs that have it.
        "use_tf32": "0",
        # One stream for copies and kernels: a call is over when its copy back is.
        "do_copy_in_default_stream": "1",
    }
    return [(PROVIDER, cuda), ("CPUExecutionProvider", {})]


def open_cuda(model: Path | bytes, target: Target) -> Session:
    """Load an exported model on the target's GPU.

    Raises:
        TargetError: there is no such GPU, or ONNX Runtime lacks its CUDA provider; the message says what to do.
        ExportError: the runtime refuses the model.
    """
    reason = absence(target)
    if reason is not None:
        raise TargetError(f"target '{target.name}' is not on this machine: {reason}")
    lacking = lacking_provider()
    if lacking is not None:
        raise TargetError(f"target '{target.name}' is here, but cannot be used: {lacking}")
    import onnxruntime

    from compress.export.runtime import load_inference

    number = next(i for i, gpu in enumerate(gpus()) if gpu in here(target.compute_capability))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    inference = load_inference(model, options, provider_options(number))
    if PROVIDER not in inference.get_providers():
        # It falls back to the processor without an error where CUDA's libraries cannot be loaded.
        raise TargetError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its CUDA provider (CUDA 12 and cuDNN 9 have to be "
            "found): pip install 'onnxruntime-gpu[cuda,cudnn]', or use the container; see docs/gpu.md"
        )
    return BoundSession(inference, "cuda", number)


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
