"""OpenVINO, the second runtime for processors: loads exported files, and converts them to int8 with nncf."""

from __future__ import annotations

import contextlib
import io
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.cores import usable_cores
from compress.core.errors import ExportError, TargetError
from compress.export.inputs import select_inputs
from compress.export.openvino_layout import Int8Layout
from compress.export.outputs import answer_names

if TYPE_CHECKING:
    from compress.export.int8 import Feed
    from compress.export.session import Session
    from compress.profile.target import Target

# An intermediate representation (IR) in one piece: this, the length of its graph, the graph, the weights.
_MAGIC = b"OVIR"
IR = Path("engine") / "model.xml"


class OpenVinoSession:
    """``Session`` on OpenVINO's CPU plugin."""

    def __init__(self, compiled: Any) -> None:
        self._request: Any = compiled.create_infer_request()
        self.input_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.inputs)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        if self._request is None:
            raise ExportError("this session is closed; open another with open_session")
        known = select_inputs(feed, self.input_names)
        try:
            outputs = self._request.infer(known)
        except RuntimeError as error:
            shapes = {name: tuple(value.shape) for name, value in known.items()}
            raise ExportError(f"OpenVINO could not run the model on inputs {shapes}: {error}") from error
        # The request's memory is overwritten by the next call.
        return np.array(outputs[0])

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        self._request = None


def open_openvino(model: Path | bytes, target: Target) -> Session:
    """Compile a model for latency in float32 or int8.

    Args:
        model: an ONNX file or an IR, or the bytes of either.
        target: gives the number of threads.

    Returns:
        A session.

    Raises:
        TargetError: OpenVINO is not installed.
        ExportError: there is no such file, or OpenVINO cannot load it.
    """
    openvino = import_openvino(target)
    if isinstance(model, Path) and not model.is_file():
        raise ExportError(f"there is no model file '{model}'; export it with `compress export`")
    try:
        core = openvino.Core()
        compiled = core.compile_model(
            _read(openvino, core, model),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": target.threads or usable_cores(),
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                # Without it, the plugin rounds float32 to bfloat16 on some processors.
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
    except RuntimeError as error:
        what = f"'{model}'" if isinstance(model, Path) else "the graph"
        raise ExportError(f"OpenVINO {openvino.__version__} cannot load {what}: {error}") from error
    return OpenVinoSession(compiled)


def convert(
    model: Path | bytes, target: Target, samples: Sequence[Feed] | None = None, left_out: Sequence[str] = ()
) -> Any:
    """Convert an exported model to OpenVINO's, and to int8 if there are samples.

    Args:
        model: an ONNX file, or its bytes.
        target: named in messages.
        samples: batches to calibrate int8 on, arrays by input name; None for float32.
        left_out: weights that stay float in int8, named as ``int8.quantizable`` does.

    Returns:
        An ``openvino.Model``.

    Raises:
        TargetError: OpenVINO or nncf is not installed.
        ExportError: one of them cannot convert the model, or has no layer of a weight to leave out.
    """
    openvino = import_openvino(target)
    try:
        found = _read(openvino, openvino.Core(), model)
        if samples is None:
            return found
        return _quantized(found, samples, target, _layers_of(model, found, left_out))
    except RuntimeError as error:
        raise ExportError(f"OpenVINO {openvino.__version__} cannot convert the graph: {error}") from error


def int8_layout(dense: bytes, target: Target, samples: Sequence[Feed]) -> Int8Layout:
    """Quantize a dense model with nncf once, so that ``convert_alike`` can do the same to structures cut from it.

    Steps that change outputs but not latency are left out.

    Args:
        dense: an ONNX file.
        target: named in messages.
        samples: batches to calibrate on, arrays by input name.

    Raises:
        TargetError: OpenVINO or nncf is not installed.
        ExportError: one of them cannot convert the model.
    """
    openvino = import_openvino(target)
    try:
        found = _read(openvino, openvino.Core(), dense)
        names = frozenset(operator.get_friendly_name() for operator in found.get_ops())
        return Int8Layout(_quantized(found, samples, target, quick=True), names)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO {openvino.__version__} cannot convert the graph: {error}") from error


def convert_alike(model: Any, target: Target, layout: Int8Layout) -> Any:
    """Convert a structure to OpenVINO's int8 in a fraction of a second, for timing.

    Law (``test_openvino.py``): once compiled, it has the operators and number formats of what ``convert`` makes of it.

    Args:
        model: an ``onnx.ModelProto`` cut from the dense one.
        target: named in messages.
        layout: of the dense model.

    Returns:
        An ``openvino.Model``.
    """
    openvino = import_openvino(target)
    try:
        found = _read(openvino, openvino.Core(), model.SerializeToString())
        return layout.apply(found, [node.name for node in model.graph.node])
    except RuntimeError as error:
        raise ExportError(f"OpenVINO {openvino.__version__} cannot convert the graph: {error}") from error


def save(model: Any, path: Path) -> None:
    """Write an IR.

    Args:
        model: from ``convert``.
        path: of the graph (.xml); the weights go beside it (.bin).
    """
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def to_bytes(model: Any) -> bytes:
    """An IR as bytes, for ``open_openvino``."""
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "model.xml"
        save(model, path)
        graph, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    return _MAGIC + struct.pack("<Q", len(graph)) + graph + weights


def _read(openvino: Any, core: Any, model: Path | bytes) -> Any:
    if isinstance(model, Path) or not model.startswith(_MAGIC):
        source = str(model) if isinstance(model, Path) else io.BytesIO(model)
        # Models read from ONNX share some constants, and with them their readers, which nncf takes for the model's own.
        return _answers_alone(core.read_model(source).clone())
    start = len(_MAGIC) + 8
    (length,) = struct.unpack("<Q", model[len(_MAGIC) : start])
    weights = openvino.Tensor(np.frombuffer(model[start + length :], dtype=np.uint8))
    return core.read_model(model[start : start + length], weights)


def _answers_alone(model: Any) -> Any:
    """Removes outputs that no session fetches: OpenVINO computes and copies every output."""
    names = answer_names([port.get_any_name() for port in model.outputs])
    for port in list(model.outputs):
        if port.get_any_name() not in names:
            model.remove_result(port.get_node())
    return model


def _layers_of(source: Path | bytes, model: Any, weights: Sequence[str]) -> list[str]:
    """OpenVINO's names of the layers that multiply by some weights of an ONNX file.

    Raises:
        ExportError: OpenVINO has no such layer.
    """
    if not weights:
        return []
    import onnx

    from compress.export.int8 import quantizable

    proto = onnx.load(str(source)) if isinstance(source, Path) else onnx.load_from_string(source)
    nodes = {weight: node for node, weight in quantizable(proto).items()}
    known = {operator.get_friendly_name() for operator in model.get_ops()}
    lacking = [weight for weight in weights if nodes.get(weight) not in known]
    if lacking:
        raise ExportError(f"OpenVINO has no layers of these weights, so they cannot stay float: {', '.join(lacking)}")
    return [nodes[weight] for weight in weights]


def _quantized(
    model: Any, samples: Sequence[Feed], target: Target, ignored: Sequence[str] = (), quick: bool = False
) -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import nncf
    except ImportError:
        raise TargetError(_missing(target, "nncf")) from None
    nncf.set_log_level(40)  # errors
    names = [port.get_any_name() for port in model.inputs]
    dataset = nncf.Dataset([{name: sample[name] for name in names} for sample in samples])
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(samples)}
    if ignored:
        options["ignored_scope"] = nncf.IgnoredScope(names=list(ignored))
    if quick:
        # Smoothing stays: its products by channel are run in every call, and take time.
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    # nncf prints progress bars.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(model, dataset, **options)


def import_openvino(target: Target) -> Any:
    """Import OpenVINO.

    Raises:
        TargetError: it is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise TargetError(_missing(target, "OpenVINO")) from None
    return openvino


def _missing(target: Target, what: str) -> str:
    return (
        f"target '{target.name}' needs {what}, which is not installed; "
        "install the extra: pip install 'compress[openvino]'"
    )
