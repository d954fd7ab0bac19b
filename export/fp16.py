"""fp16: half-precision graphs, and what half precision does to their values on real inputs.

Sums inside norms and products are accumulated in fp32 by the kernels themselves: ``LayerNormalization`` by definition
(its ``stash_type`` is 1), softmax and matrix products on every GPU kernel in question. What can go wrong is what lies
between operators: it is rounded to 11 bits, and above 65504 it is infinite. Which values do is found on real inputs
(``endangered``), and the operators concerned stay in fp32.

The processor computes fp16 graphs in fp32 and rounds little. So the numerics of a GPU are shown by ``emulated``: the
fp32 graph with every value rounded to fp16 and back where the fp16 graph has one. Inside an operator it computes in
fp32, so scores between the kernels of an unfused attention are the one thing that it does not round.
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

LARGEST = 65504.0
# Values on other inputs may be larger than on those looked at.
HEADROOM = 4.0
# Change of the answers, relative to their spread, above which norms are kept in fp32 too.
DRIFT = 0.02

_TYPE_OF_RESULT = {"Shape": TensorProto.INT64, "Size": TensorProto.INT64, "NonZero": TensorProto.INT64}
_TRUTH = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "IsNaN", "IsInf")
Feed = Mapping[str, NDArray[Any]]


def to_half(model: ModelProto, kept: Collection[str] = ()) -> ModelProto:
    """A float32 graph in half precision; inputs and outputs keep their types.

    Args:
        model: as ``export_onnx`` writes it; not changed.
        kept: names of nodes that stay in fp32, with casts around them.

    Raises:
        ExportError: ONNX Runtime, whose converter it is, is not installed; or a name is of no node.
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
        raise ExportError(f"the graph has no node {', '.join(sorted(unknown))}, which should stay in fp32")
    copy = graph.copy_of(model)
    # The converter puts casts where it knows types; it cannot infer those of fused operators.
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
    # It appends casts at the end.
    OnnxModel.graph_topological_sort(half.graph)
    return graph.rebuilt(half, half.graph.node, half.graph.initializer)


def emulated(model: ModelProto, kept: Collection[str] = ()) -> ModelProto:
    """A float32 graph that answers what ``to_half`` of it does on a device that rounds every value to fp16."""
    wide = {value.name for value in model.graph.output}
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
    return graph.rebuilt(model, nodes, weights)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # As the converter does: what is too large becomes the largest, not infinite.
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16).astype(np.float32)


def endangered(model: ModelProto, feeds: Sequence[Feed], headroom: float = HEADROOM) -> dict[str, float]:
    """Nodes with a value that fp16 cannot hold, and the largest it had.

    Args:
        model: float32.
        feeds: real inputs.
        headroom: how many times larger values on other inputs may be.

    Returns:
        By name of the node, its largest absolute input or output above 65504 / headroom. A node that reads such a value
        counts too: the value has to reach it in fp32.
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
class Kept:
    """Nodes that stay in fp32.

    Attributes:
        nodes: their names, in the graph's order.
        reason: why, in words; empty where none do.
        error: root mean square by which the answers of the emulated fp16 graph differ, relative to their spread.
    """

    nodes: tuple[str, ...]
    reason: str
    error: float


def hold(model: ModelProto, feeds: Sequence[Feed], allowed: float = DRIFT) -> Kept:
    """What has to stay in fp32: what fp16 cannot hold, and norms and softmax where answers drift nevertheless.

    Args:
        model: float32.
        feeds: real inputs; without any nothing is known, and norms and softmax stay in fp32.
        allowed: relative root mean square of the answers' change.
    """
    order = {node.name: number for number, node in enumerate(model.graph.node)}

    def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(set(names), key=lambda name: order[name]))

    if not feeds:
        return Kept(sorted_names(norms(model)), "norms, since there is no data to try fp16 on", float("nan"))
    large = endangered(model, feeds)
    kept = sorted_names(large)
    reason = f"values up to {max(large.values()):.3g} (fp16 ends at 65504)" if large else ""
    exact = _answers(model, feeds)
    error = output_error(_answers(emulated(model, kept), feeds), exact)
    if error <= allowed:
        return Kept(kept, reason, error)
    wider = sorted_names([*kept, *norms(model)])
    better = output_error(_answers(emulated(model, wider), feeds), exact)
    if not (better < error or math.isnan(error)):
        return Kept(kept, reason, error)
    drifted = f"norms, since fp16 changes the answers by {error:.1%} of their spread"
    return Kept(wider, f"{reason} and {drifted}" if reason else drifted, better)


def _answers(model: ModelProto, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
    names = [value.name for value in model.graph.output]
    return [np.stack([found[name] for name in names], axis=-1) for found in _values(model, names, feeds)]


def norms(model: ModelProto) -> list[str]:
    """Names of the norms, the softmaxes and the sums that these read: what stays in fp32 where fp16 drifts."""
    makers = {output: node for node in model.graph.node for output in node.output}
    kept = []
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "SkipLayerNormalization", "Softmax"):
            before = makers.get(node.input[0])
            kept += [before.name] if before is not None and before.op_type == "Add" else []
            kept.append(node.name)
    return list(dict.fromkeys(kept))


def float_values(model: ModelProto) -> list[str]:
    """Names of the float32 values that nodes make, in order.

    An operator's result has the type of its first input, but for a few that say otherwise.
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
            source = node.input[1] if node.op_type == "Where" else next(iter(node.input), "")
            made = _TYPE_OF_RESULT.get(node.op_type, types.get(source, TensorProto.UNDEFINED))
        types |= dict.fromkeys(node.output, made)
        found += [name for name in node.output if name and made == TensorProto.FLOAT]
    return found


def _values(model: ModelProto, names: Sequence[str], feeds: Sequence[Feed]) -> Iterable[dict[str, NDArray[Any]]]:
    """Values inside a graph, by name, for one feed after the other; computed on the processor."""
    import onnxruntime

    copy = graph.copy_of(model)
    outputs = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in outputs
    )
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "model.onnx"
        # Not graph.save: outputs without a shape are beneath the checker.
        save_model(copy, str(path), save_as_external_data=True, location="weights", size_threshold=1 << 20)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs = [value.name for value in session.get_inputs()]
        for feed in feeds:
            answers = session.run(list(names), {name: feed[name] for name in inputs})
            yield dict(zip(names, answers, strict=True))
