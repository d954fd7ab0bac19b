"""Export: writes a PyTorch encoder as an ONNX file with fused attention and dynamic batch and length.

Attention modules are replaced by fused ones while the exporter runs (``export/attention.py``). ``check_parity`` finds
models whose entry in ``models/families.py`` is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from compress.export.quiet import quiet
from compress.models.encoder import MASK

if TYPE_CHECKING:
    from compress.export.session import Session

OPSET = 20
# They warn of missing torchvision, renamed axes and deprecations.
_LOGGERS = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript")
Outputs = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class ExportReport:
    """Properties of an exported file.

    Attributes:
        opset: version of the standard operator set.
        fusions: number of each fused operator (domain ``com.microsoft``), by name.
        nodes: number of operators in the graph.
        size_bytes: size of the file and of its external data.
    """

    opset: int
    fusions: dict[str, int]
    nodes: int
    size_bytes: int


class _Exported(nn.Module):
    """The model with positional tensors as inputs and outputs, as in the file."""

    def __init__(self, model: nn.Module, input_names: Sequence[str], outputs: Outputs, mask: PaddingMask) -> None:
        super().__init__()
        self.model = model
        self._input_names, self._outputs, self._mask = tuple(input_names), outputs, mask

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the task for inputs in the order of their names."""
        named = dict(zip(self._input_names, inputs, strict=True))
        mask = named.get(MASK)
        self._mask.value = None if mask is None else mask.to(torch.int32)
        return self._outputs(self.model, named)


def export_onnx(
    model: Any,
    path: str | Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str] = ("logits",),
    outputs: Outputs | None = None,
) -> ExportReport:
    """Write a dense or pruned model as an ONNX file and check it.

    Batch and length are dynamic. Up to 2 GB, weights are in the file itself; above, beside it (``<name>.data``).
    Parameters keep their PyTorch names, except the biases of emptied sublayers. Matrices of linear layers are stored
    transposed, [in, out].

    Args:
        model: transformers model of a supported family, float32. It is unchanged when this returns.
        path: file to write.
        input_names: inputs of the model and of the file, in order: ``input_ids``, ``attention_mask``, and
            ``token_type_ids`` if the tokenizer gives them; or ``pixel_values``. See ``example_inputs``.
        output_names: names of the file's outputs.
        outputs: the task's function from the model and its inputs by name to one tensor per output; None takes the
            fields of these names from the model's output.

    Returns:
        Sizes and fused operators of the file.

    Raises:
        ModelError: unsupported family.
        ExportError: the exporter failed, the graph does not pass ONNX's checker, or it has a fixed batch or length.
    """
    from compress.export import graph

    file = Path(path)
    names = tuple(output_names)

    def fields(module: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        answer = module(**inputs)
        return tuple(answer[name] for name in names)

    proto = graph.tidy(_trace(model, tuple(input_names), names, outputs or fields), parameter_prefix="model.")
    _check_dynamic(proto, tuple(input_names), model.config)
    graph.save(proto, file, external_above_bytes=EXTERNAL_DATA_ABOVE_BYTES)
    return read_report(file)


def _check_dynamic(proto: Any, input_names: tuple[str, ...], config: Any) -> None:
    """Raise ExportError where the exporter has made a constant of a batch size or a length that it was told is free."""
    _, axes = example_inputs(input_names, config)
    sizes = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.input}
    for name, free in zip(input_names, axes, strict=True):
        # An input that nothing reads is not in the graph.
        fixed = [axis for axis in free if name in sizes and not sizes[name][axis].dim_param]
        if fixed:
            what = "batch size" if fixed[0] == 0 else "length"
            raise ExportError(
                f"torch {torch.__version__} exports this {config.model_type} model with one fixed {what}, "
                f"{sizes[name][fixed[0]].dim_value}, for '{name}': something in the model computes with that size as a "
                "constant; set the option that does so in its config.json back to its default"
            )


def read_report(path: str | Path) -> ExportReport:
    """Read the properties of an exported file.

    Raises:
        ExportError: there is no such file, or it is not an ONNX model.
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
        raise ExportError(f"'{file}' is not an ONNX model: {error}; export it again with `compress export`") from None
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    return ExportReport(opset, graph.fusions(proto), len(proto.graph.node), graph.size_bytes(file))


def _trace(model: Any, input_names: tuple[str, ...], output_names: tuple[str, ...], outputs: Outputs) -> Any:
    """The exporter's ``ModelProto`` of a model; parameters are called ``model.<name>``."""
    inputs, axes = example_inputs(input_names, model.config)
    training = model.training
    try:
        with fused_attention(model) as mask, quiet(_LOGGERS), torch.no_grad():
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
    assert program is not None  # only the exporter of TorchScript gives None, not dynamo=True
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
        batches: inputs by name, [batch, sequence]; some should have padding.
        forward: the task's function from a model and its inputs to the output [batch, ...].
        tolerance: largest accepted absolute difference.
        read: the task's function from the file's answer and inputs to the output of ``forward``; None if the answer is
            that output.

    Returns:
        The largest absolute difference.

    Raises:
        ExportError: a difference is above ``tolerance`` or not a number, or there is no batch to compare on.
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
            # Python's max() would drop a NaN; NumPy's keeps it.
            worst = float(np.max([worst or 0.0, np.max(np.abs(actual - expected))]))
    if worst is None:
        raise ExportError("there is no batch to compare the exported model on; give at least one example")
    if not worst <= tolerance:
        raise ExportError(
            f"the exported model differs from PyTorch by {worst:.3g}, more than {tolerance:g}, so it is not usable; "
            f"please report this with the model and the versions of torch ({torch.__version__}) and transformers"
        )
    return worst
