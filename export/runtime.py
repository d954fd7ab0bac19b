"""Sessions: exported files, loaded and run by the runtime a target names.

Everything above (profiling, validation, accuracy) sees only ``Session``; a new runtime is one more opener in
``_OPENERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import ExportError, TargetError, did_you_mean
from compress.export import openvino, tensorrt
from compress.export.cuda import absence, open_cuda, require_cuda
from compress.export.feed import inputs_of
from compress.profile.target import GPU_RUNTIMES, usable_cores

if TYPE_CHECKING:
    from compress.profile.target import Target


class Session(Protocol):
    """A loaded model, ready to be called.

    Attributes:
        input_names: inputs the graph has, in its order.
    """

    input_names: tuple[str, ...]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Output of the model for one batch; several outputs of one shape are stacked along a last axis.

        Args:
            feed: arrays by input name, integers [batch, sequence] or images; names the graph lacks are ignored, so one
                feed serves a dense model and a pruned one.

        Raises:
            ExportError: an input of the graph is missing from the feed, or the runtime failed.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the session cannot be used afterwards."""
        ...


class OnnxRuntimeSession:
    """``Session`` on ONNX Runtime's CPU provider."""

    def __init__(self, inference: Any) -> None:
        self._inference = inference
        self.input_names: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        if self._inference is None:
            raise ExportError("this session is closed; open another with open_session")
        known = inputs_of(feed, self.input_names)
        try:
            answers = [np.asarray(answer) for answer in self._inference.run(None, known)]
            return answers[0] if len(answers) == 1 else np.stack(answers, axis=-1)
        except runtime_errors() as error:
            shapes = {name: tuple(value.shape) for name, value in known.items()}
            raise ExportError(f"ONNX Runtime could not run the model on inputs {shapes}: {error}") from error

    def close(self) -> None:
        self._inference = None


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: a dozen classes whose only common base is ``Exception``."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _onnxruntime(target: Target) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise TargetError(
            f"target '{target.name}' runs in ONNX Runtime, which is not installed; "
            "install the extra: pip install 'compress[cpu]'"
        ) from None
    return onnxruntime


def require_runtime(target: Target) -> None:
    """Find out before anything is computed for a target.

    Raises:
        TargetError: the target's runtime is not installed, or does not go with its GPU; or the GPU is not here. The
            message says what to do.
    """
    if target.runtime == "onnxruntime-cpu":
        _onnxruntime(target)
    elif target.runtime == "openvino":
        openvino.library(target)
    elif target.runtime == "onnxruntime-cuda":
        require_cuda(target)
    elif target.runtime == "tensorrt":
        tensorrt.usable_gpu(target)


def _open_onnxruntime_cpu(model: Path | bytes, target: Target) -> Session:
    onnxruntime = _onnxruntime(target)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = target.threads or usable_cores()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Without it a session's workers spin on after a call and take the cores from the session it is compared with.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return OnnxRuntimeSession(load_inference(model, options, ["CPUExecutionProvider"]))


def load_inference(model: Path | bytes, options: Any, providers: Sequence[Any]) -> Any:
    """An ``onnxruntime.InferenceSession``.

    Raises:
        ExportError: there is no such file, or the runtime refuses it.
    """
    import onnxruntime

    if isinstance(model, Path) and not model.is_file():
        raise ExportError(f"there is no model file '{model}'; export it with `compress export`")
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=providers
        )
    except runtime_errors() as error:
        what = f"'{model}'" if isinstance(model, Path) else "the graph"
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot load {what}: {error}") from error


_OPENERS: dict[str, Callable[[Path | bytes, Target], Session]] = {
    "onnxruntime-cpu": _open_onnxruntime_cpu,
    "onnxruntime-cuda": open_cuda,
    "openvino": openvino.open_openvino,
    "tensorrt": tensorrt.open_tensorrt,
}


def open_session(model: Path | bytes, target: Target) -> Session:
    """Load an exported model as the target runs it: its runtime, its threads, all graph optimisations.

    Args:
        model: an ONNX file, or its bytes.
        target: names the runtime and the number of threads (None: every usable core).

    Raises:
        TargetError: the target's runtime is unknown here or not installed; the message names the extra to install.
        ExportError: the runtime refuses the model.
    """
    opener = _OPENERS.get(target.runtime)
    if opener is None:
        raise TargetError(
            f"target '{target.name}' asks for runtime '{target.runtime}', which this version cannot run; "
            f"it runs {', '.join(sorted(_OPENERS))}.{did_you_mean(target.runtime, sorted(_OPENERS))}"
        )
    return opener(model, target)


def refuse_absent(target: Target) -> None:
    """Raise TargetError where a target is not this machine, so that nothing can be measured on it."""
    reason = absence(target) if target.runtime in GPU_RUNTIMES else None
    if reason is not None:
        raise TargetError(
            f"target '{target.name}' is not on this machine, so nothing can be measured on it: {reason}. Run the same "
            "command on the device (an artifact directory can be copied there as it is); to plan here, `compress "
            "plan`, `compress run` and `compress profile --estimate` take the target's data sheet"
        )
