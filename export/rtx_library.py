"""The package ``tensorrt_rtx``: whether it is here, which GPUs it builds for, what its parser takes, what it says.

TensorRT for RTX has TensorRT's interface under another name, and builds engines on machines without a GPU. Everything
that ``export/tensorrt_rtx.py`` asks of it goes through this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from compress.core.errors import ExportError, TargetError

if TYPE_CHECKING:
    from compress.profile.target import Target

MODULE, PRODUCT = "tensorrt_rtx", "TensorRT-RTX"
INSTALL = (
    "pip install -c constraints.txt 'compress[rtx]' (tensorrt-rtx-cu13, about 96 MB, under NVIDIA's own licence); see "
    "docs/gpu.md"
)


def load() -> Any | None:
    """The module; None if it is not installed, or its libraries cannot be loaded."""
    try:
        return import_module(MODULE)
    except (ImportError, OSError):
        return None


def release() -> str:
    """Version of TensorRT-RTX.

    Raises:
        TargetError: it is not installed.
    """
    return str(_loaded().__version__)


def capabilities() -> tuple[str, ...]:
    """Compute capabilities that this release builds for, such as ``8.9``; empty if it is not installed."""
    module = load()
    if module is None:
        return ()
    found = [name.removeprefix("SM") for name in module.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(f"{digits[:-1]}.{digits[-1]}" for digits in found)


def lacking(compute_capability: str | None) -> str | None:
    """Reason why engines for a compute capability cannot be built here; None if they can."""
    module = load()
    if module is None:
        return f"{PRODUCT}, which builds its engines, is not installed; {INSTALL}"
    if compute_capability is None:
        return "its file gives no compute_capability, which an engine is built for"
    if compute_capability not in capabilities():
        return (
            f"{PRODUCT} {module.__version__} does not build for compute capability {compute_capability}; it builds for "
            f"{', '.join(capabilities())}. Use a target that runs in ONNX Runtime or TensorRT"
        )
    return None


def require(target: Target) -> None:
    """Check that engines of a target can be built here, before any work.

    Args:
        target: a target that runs in TensorRT-RTX.

    Raises:
        TargetError: they cannot; the message says what to install, or what to use instead.
    """
    reason = lacking(target.compute_capability)
    if reason is not None:
        raise TargetError(f"target '{target.name}' cannot be built for here: {reason}")


def unsupported(model: bytes, path: str | None = None) -> list[str]:
    """Nodes of a model that the parser does not take, asked of the parser itself.

    Args:
        model: the serialized ONNX model.
        path: of its file, for weights beside it; None if it has none.

    Returns:
        One phrase for each; empty if the model is supported.

    Raises:
        TargetError: TensorRT-RTX is not installed.
    """
    module = _loaded()
    log = listener(module)
    builder = module.Builder(log)
    # The parser does not keep its network alive.
    network = strong_network(module, builder)
    parser = module.OnnxParser(network, log)
    if parser.supports_model_v2(model, path) if path else parser.supports_model_v2(model):
        return []
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    return [said_of(error) for error in errors] or ["; ".join(log.errors) or "it gives no reason"]


def said_of(error: Any) -> str:
    """One of the parser's errors in a phrase: the operator, the node's name, the reason."""
    if not error.node_operator():
        return str(error.desc())
    return f"operator {error.node_operator()} ('{error.node_name()}': {error.desc()})"


def strong_network(module: Any, builder: Any) -> Any:
    """An empty network whose types are those of the ONNX file.

    Args:
        module: ``tensorrt_rtx``.
        builder: of the network; has to live as long.
    """
    return builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def listener(module: Any) -> Any:
    """A logger that prints nothing and keeps ``errors`` and ``layers``, the builder's list of an engine's layers.

    The list has what the engine inspector shows. The inspector itself needs a GPU, to load the engine.
    """

    class Listener(module.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())
            elif message.startswith("Layers:"):
                self.layers = message

    return Listener()


def check_valid(engine: bytes, where: str) -> None:
    """Check that this release runs an engine on this machine's GPU, without loading it.

    Args:
        engine: the serialized engine.
        where: what the engine is called in messages.

    Raises:
        TargetError: it does not; the message has the library's own reasons and the remedy.
    """
    module = _loaded()
    log = listener(module)
    validity, reasons = module.Runtime(log).get_engine_validity(engine)
    if validity != module.EngineValidity.INVALID:
        return
    named = [name for name, flag in module.EngineInvalidityDiagnostics.__members__.items() if int(reasons) & int(flag)]
    said = "; ".join([*(f"{name} ({_REASONS[name]})" if name in _REASONS else name for name in named), *log.errors])
    again = "; remove it to have it built again here" if {*named} & {*_BUILT_ELSEWHERE} else ""
    raise TargetError(
        f"{PRODUCT} {module.__version__} does not run {where} here: {said or 'it gives no reason'}{again}"
    )


_BUILT_ELSEWHERE = {
    "VERSION_MISMATCH": "built by another release",
    "UNSUPPORTED_CC": "built for another compute capability",
    "MALFORMED_ENGINE": "the file is damaged",
}
_REASONS = {
    **_BUILT_ELSEWHERE,
    "OLD_CUDA_DRIVER": "the driver is too old: update it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old: update it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU's memory is too small",
    "CUDA_ERROR": "CUDA does not work: see nvidia-smi",
}


def capability_of(module: Any, compute_capability: str) -> Any:
    """The library's name of a compute capability.

    Args:
        module: ``tensorrt_rtx``.
        compute_capability: such as ``8.9``; one of ``capabilities``.
    """
    return module.ComputeCapability.__members__[f"SM{compute_capability.replace('.', '')}"]


def failure(log: Any, what: str, errors: Sequence[str] = ()) -> ExportError:
    """The error of a build that failed, in the library's own words.

    Args:
        log: from ``listener``.
        what: what was being done.
        errors: what else it says.
    """
    said = "; ".join([*errors, *log.errors]) or "it gives no reason"
    return ExportError(f"{PRODUCT} {release()} failed {what}: {said}")


def _loaded() -> Any:
    module = load()
    if module is None:
        raise TargetError(f"{PRODUCT} is not installed; {INSTALL}")
    return module
