"""fp16: converts graphs to half precision, and finds the operators that have to stay in fp32.

Kernels accumulate sums inside norms and products in fp32: ``LayerNormalization`` by definition (its ``stash_type`` is
1), softmax and matrix products in all GPU kernels concerned. The risk is in the values between operators: they are
rounded to 11 bits, and infinite above 65504. ``nodes_near_overflow`` finds such values on real inputs, and the
operators that make or read them stay in fp32.

Processors compute fp16 graphs in fp32 and round little. ``emulate_fp16`` shows the numerics of a GPU: it rounds every
value of the fp32 graph to fp16 and back that the fp16 graph has in fp16. It does not round the scores between the
kernels of an unfused attention, since they are inside one operator.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save_model

from compress.core.errors import ExportError
from compress.export import graph
from compress.export.int8 import output_error
from compress.export.outputs import answer_names

LARGEST = 65504.0
# Values on other inputs may be this many times larger than on the inputs that were tried.
HEADROOM = 4.0
# Change of the outputs, relative to their spread, above which norms stay in fp32 too.
DRIFT = 0.02

_TYPE_OF_RESULT = {
    "Shape": TensorProto.INT64,
    "Size": TensorProto.INT64,
    "NonZero": TensorProto.INT64,
    "QuantizeLinear": TensorProto.INT8,
}
_TRUTH = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "IsNaN", "IsInf")
Feed = Mapping[str, NDArray[Any]]


def to_half(model: ModelProto, kept: Collection[str] = ()) -> ModelProto:
    """Convert a float32 graph to half precision; inputs and outputs keep their types.

    The scales of Q/DQ pairs are converted too: what is between the quantized products is then fp16.

    Args:
        model: float32, from ``export_onnx``, or with Q/DQ pairs; not changed.
        kept: names of nodes that stay in fp32, with casts around them.

    Returns:
        The fp16 graph.

    Raises:
        ExportError: ONNX Runtime, which has the converter, is not installed; or there is no node of a name.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    except ImportError:
        raise ExportError(
            "the fp16 converter comes with ONNX Runtime, which is not installed; pip install 'compress[cpu]'"
        ) from None
    unknown = set(kept) - {node.name for node in model.graph.node}
    if unknown:
        raise ExportError(
            f"cannot keep {', '.join(sorted(unknown))} in fp32: the graph has no such node; export the model again"
        )
    copy = graph.copy_of(model)
    # The converter adds casts where it knows types; it cannot infer those of fused operators.
    del copy.graph.value_info[:]
    inputs = {value.name for value in (*copy.graph.input, *copy.graph.output)}
    copy.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in float_values(model)
        if name not in inputs
    )
    half = convert_float_to_float16(
        copy, keep_io_types=True, disable_shape_infer=True, node_block_list=sorted(kept), op_block_list=[]
    )
    _mend_casts(half)
    # The converter appends casts at the end.
    OnnxModel.graph_topological_sort(half.graph)
    return graph.rebuild(half, half.graph.node, half.graph.initializer)


def _mend_casts(half: ModelProto) -> None:
    """Mend what the converter does around nodes that stay in fp32.

    A value between two of them is rounded to fp16 and back: here it passes as it is. A value that several of them read
    is cast once for each, under one name, which no graph may have: here it is cast once.
    """
    once: dict[str, NodeProto] = {}
    exact: dict[str, str] = {}
    back: dict[str, str] = {}
    for node in half.graph.node:
        once.setdefault(node.output[0], node)
        if node.name.endswith("_cast_to_fp16_node"):
            exact[node.output[0]] = node.input[0]
    for node in once.values():
        if node.name.endswith("_cast_to_fp32_node") and node.input[0] in exact:
            back[node.output[0]] = exact[node.input[0]]
    nodes = list(once.values())
    for node in nodes:
        node.input[:] = [back.get(name, name) for name in node.input]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del half.graph.node[:]
    half.graph.node.extend(kept)


def emulate_fp16(model: ModelProto, kept: Collection[str] = ()) -> ModelProto:
    """A float32 graph with the outputs that ``to_half`` gives on a device that rounds every value to fp16.

    Args:
        model: float32; not changed.
        kept: names of nodes that stay in fp32.

    Returns:
        The graph with casts to fp16 and back.
    """
    wide = set(answer_names([value.name for value in model.graph.output]))
    names = set(float_values(model))
    nodes: list[NodeProto] = []
    weights = []
    half_readers = {name for node in model.graph.node if node.name not in kept for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in half_readers:
            rounded = _rounded(numpy_helper.to_array(tensor))
            tensor = numpy_helper.from_array(rounded, tensor.name)
        weights.append(tensor)
    for node in model.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        for position, name in enumerate(node.output):
            if name not in names or name in wide or node.name in kept:
                continue
            copy.output[position] = f"{name}_exact"
            nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    return graph.rebuild(model, nodes, weights)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # As the converter does: values that are too large become the largest, not infinite.
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16).astype(np.float32)


def nodes_near_overflow(model: ModelProto, feeds: Sequence[Feed], headroom: float = HEADROOM) -> dict[str, float]:
    """Find the nodes with inputs or outputs that may overflow in fp16.

    Args:
        model: float32.
        feeds: real inputs, arrays by name.
        headroom: how many times larger values on other inputs may be.

    Returns:
        For each node, by name, its largest absolute input or output, if above 65504 / headroom. Nodes that only read
        such a value count too, since it has to reach them in fp32.
    """
    largest = dict.fromkeys(float_values(model), 0.0)
    for values in _values(model, sorted(largest), feeds):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.max(np.abs(value), initial=0.0)))
    limit = LARGEST / headroom
    found = {}
    for node in model.graph.node:
        most = max((largest[name] for name in (*node.input, *node.output) if name in largest), default=0.0)
        if not most <= limit:
            found[node.name] = most
    return found


@dataclass(frozen=True)
class Float32Nodes:
    """Nodes that stay in fp32.

    Attributes:
        nodes: their names, in the graph's order.
        reason: why they stay, in words; empty without nodes.
        error: root mean square error of the outputs of the emulated fp16 graph, relative to their spread; NaN without
            data.
    """

    nodes: tuple[str, ...]
    reason: str
    error: float


def choose_float32_nodes(model: ModelProto, feeds: Sequence[Feed], allowed: float = DRIFT) -> Float32Nodes:
    """Choose the nodes that stay in fp32: those that may overflow, and norms and softmax if the outputs still drift.

    Args:
        model: float32.
        feeds: real inputs, arrays by name; without any, norms and softmax stay in fp32.
        allowed: largest root mean square error of the outputs, relative to their spread.

    Returns:
        Names of the nodes, the reason, and the remaining error.
    """
    order = {node.name: number for number, node in enumerate(model.graph.node)}

    def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(set(names), key=lambda name: order[name]))

    if not feeds:
        return Float32Nodes(
            sorted_names(norm_nodes(model)), "norms, since there is no data to try fp16 on", float("nan")
        )
    large = nodes_near_overflow(model, feeds)
    kept = sorted_names(large)
    reason = f"values up to {max(large.values()):.3g} (fp16 ends at 65504)" if large else ""
    exact = _answers(model, feeds)
    error = output_error(_answers(emulate_fp16(model, kept), feeds), exact)
    if error <= allowed:
        return Float32Nodes(kept, reason, error)
    wider = sorted_names([*kept, *norm_nodes(model)])
    better = output_error(_answers(emulate_fp16(model, wider), feeds), exact)
    if not (better < error or math.isnan(error)):
        return Float32Nodes(kept, reason, error)
    drifted = f"norms, since fp16 changes the answers by {error:.1%} of their spread"
    return Float32Nodes(wider, f"{reason} and {drifted}" if reason else drifted, better)


def _answers(model: ModelProto, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
    names = answer_names([value.name for value in model.graph.output])
    return [np.stack([found[name] for name in names], axis=-1) for found in _values(model, names, feeds)]


def norm_nodes(model: ModelProto) -> list[str]:
    """Names of the norms and softmaxes, and of the sums that they read; they stay in fp32 if the outputs drift."""
    makers = {output: node for node in model.graph.node for output in node.output}
    kept = []
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "SkipLayerNormalization", "Softmax"):
            before = makers.get(node.input[0])
            kept += [before.name] if before is not None and before.op_type == "Add" else []
            kept.append(node.name)
    return list(dict.fromkeys(kept))


def float_values(model: ModelProto) -> list[str]:
    """Names of the float32 outputs of nodes, in order.

    The type of an operator's output is that of its first input, with a few exceptions.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Cast":
            made = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        elif node.op_type in ("Constant", "ConstantOfShape"):
            made = next((a.t.data_type for a in node.attribute if a.name == "value"), TensorProto.FLOAT)
        elif node.op_type in _TRUTH:
            made = TensorProto.BOOL
        else:
            # Values of Where, and the scale of DequantizeLinear, are the second input.
            second = node.op_type in ("Where", "DequantizeLinear")
            source = node.input[1] if second else next(iter(node.input), "")
            made = _TYPE_OF_RESULT.get(node.op_type, types.get(source, TensorProto.UNDEFINED))
        types |= dict.fromkeys(node.output, made)
        found += [name for name in node.output if name and made == TensorProto.FLOAT]
    return found


def _values(model: ModelProto, names: Sequence[str], feeds: Sequence[Feed]) -> Iterable[dict[str, NDArray[Any]]]:
    """Values inside a graph, by name, for each feed in turn; computed on the processor."""
    import onnxruntime

    copy = graph.copy_of(model)
    outputs = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in outputs
    )
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "model.onnx"
        # Not graph.save: ONNX's checker rejects outputs without a shape.
        save_model(copy, str(path), save_as_external_data=True, location="weights", size_threshold=1 << 20)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs = [value.name for value in session.get_inputs()]
        for feed in feeds:
            answers = session.run(list(names), {name: feed[name] for name in inputs})
            yield dict(zip(names, answers, strict=True))
