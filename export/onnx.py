"""From a PyTorch encoder to an ONNX file with fused attention and dynamic batch and length.

Attention modules are exchanged for fused ones while the exporter runs (``attention.py``). ``check_parity`` catches a
model whose entry in ``models/encoder.py`` is wrong.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.errors import ExportError
from compress.export.attention import PaddingMask, fused_attention
from compress.export.graph import EXTERNAL_DATA_ABOVE_BYTES
from compress.export.inputs import example_inputs
from compress.models.encoder import MASK

if TYPE_CHECKING:
    from compress.export.session import Session

OPSET = 20
Outputs = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        opset: version of the standard operator set.
        fusions: fused operators (domain ``com.microsoft``) in the file, by name.
        nodes: operators in the graph.
        size_bytes: of the file, and of its external data where there is any.
    """

    opset: int
    fusions: dict[str, int]
    nodes: int
    size_bytes: int


class _Exported(nn.Module):
    """The model as the file has it: tensors by position in, tensors by position out."""

    def __init__(self, model: nn.Module, input_names: Sequence[str], outputs: Outputs, mask: PaddingMask) -> None:
        super().__init__()
        self.model = model
        self._input_names, self._outputs, self._mask = tuple(input_names), outputs, mask

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self._input_names, inputs, strict=True))
        mask = named.get(MASK)
        self._mask.value = None if mask is None else mask.to(torch.int32)
        return self._outputs(self.model, named)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter (missing torchvision, renamed axes, deprecations in its insides) off the terminal."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_onnx(
    model: Any,
    path: str | Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str] = ("logits",),
    outputs: Outputs | None = None,
) -> ExportReport:
    """Write a model, dense or pruned, as an ONNX file and check it.

    Batch and length are dynamic. Weights lie in the file itself up to 2 GB, beside it (``<name>.data``) above.
    Parameters keep their PyTorch names, but for the biases of emptied sublayers; matrices of linear layers are stored
    transposed, [in, out].

    Args:
        model: transformers model of a supported family, float32. It is the same again when this returns.
        path: file to write.
        input_names: inputs of the model and of the file, in order: ``input_ids``, ``attention_mask``, and
            ``token_type_ids`` where the tokenizer gives them; or ``pixel_values``. See ``feed.traced``.
        output_names: of the file's outputs.
        outputs: the task's, from the model and its inputs by name to as many tensors; None takes the fields of these
            names from the model's output.

    Returns:
        Sizes and fused operators of what was written.

    Raises:
        ModelError: unsupported family.
        ExportError: the exporter failed, or the graph does not pass ONNX's checker.
    """
    from compress.export import graph

    file = Path(path)
    names = tuple(output_names)

    def fields(module: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        answer = module(**inputs)
        return tuple(answer[name] for name in names)

    proto = graph.tidy(_trace(model, tuple(input_names), names, outputs or fields), parameter_prefix="model.")
    graph.save(proto, file, external_above_bytes=EXTERNAL_DATA_ABOVE_BYTES)
    return read_report(file)


def read_report(path: str | Path) -> ExportReport:
    """What ``export_onnx`` wrote to a file, read from the file.

    Raises:
        ExportError: there is no such file, or it is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from compress.export import graph

    file = Path(path)
    try:
        proto = onnx.load(str(file), load_external_data=False)
    except FileNotFoundError:
        raise ExportError(f"there is no model file '{file}'; export it with `compress export`") from None
    except DecodeError as error:
        raise ExportError(f"'{file}' is no ONNX model: {error}; export it again with `compress export`") from None
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    return ExportReport(opset, graph.fusions(proto), len(proto.graph.node), graph.size_bytes(file))


def _trace(model: Any, input_names: tuple[str, ...], output_names: tuple[str, ...], outputs: Outputs) -> Any:
    """The exporter's ``ModelProto`` of a model; parameters are called ``model.<name>``."""
    inputs, axes = example_inputs(input_names, model.config)
    training = model.training
    try:
        with fused_attention(model) as mask, _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Exported(model, input_names, outputs, mask).eval(),
                inputs,
                input_names=list(input_names),
                output_names=list(output_names),
                opset_version=OPSET,
                dynamic_shapes=(axes,),
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ExportError(
            f"torch {torch.__version__} could not export this {model.config.model_type} model with inputs "
            f"{', '.join(input_names)} and output {', '.join(output_names)}: {error}"
        ) from error
    finally:
        model.train(training)
    assert program is not None  # None is for the exporter of TorchScript, which dynamo=True is not
    return program.model_proto


def check_parity(
    session: Session,
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    forward: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    tolerance: float = 1e-3,
    read: Callable[[NDArray[Any], Mapping[str, NDArray[Any]]], NDArray[Any]] | None = None,
) -> float:
    """Compare an exported model with the PyTorch model it comes from, on real batches.

    Args:
        session: the exported file.
        model: the PyTorch model.
        batches: inputs by name, [batch, sequence]; have padding in some.
        forward: the task's, from a model and its inputs to the output [batch, ...].
        tolerance: largest absolute difference that is accepted.
        read: the task's, from the file's answer and its inputs to what ``forward`` gives; None where they are the same.

    Returns:
        The largest absolute difference met.

    Raises:
        ExportError: a difference is above ``tolerance`` or not a number, or there was no batch to compare on.
    """
    worst = None
    with torch.no_grad():
        for inputs in batches:
            expected = forward(model, dict(inputs)).cpu().numpy()
            feed = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
            actual = session.run(feed)
            if read is not None:
                actual = read(actual, feed)
            if actual.shape != expected.shape:
                raise ExportError(f"the exported model gives shape {actual.shape}, PyTorch gives {expected.shape}")
            # max() of Python would drop a NaN; NumPy's keeps it.
            worst = float(np.max([worst or 0.0, np.max(np.abs(actual - expected))]))
    if worst is None:
        raise ExportError("there is no batch to compare the exported model on; give at least one example")
    if not worst <= tolerance:
        raise ExportError(
            f"the exported model differs from PyTorch by {worst:.3g}, more than {tolerance:g}, so it is not usable; "
            f"please report this with the model and the versions of torch ({torch.__version__}) and transformers"
        )
    return worst
