"""Standard operators: rewrites graphs for TensorRT, whose parser does not know ONNX Runtime's operators.

An unsupported model is refused before an engine is built, and the message names the operators. TensorRT-RTX's parser
is asked itself where it is installed. ``configs/tensorrt/operators.toml`` lists what TensorRT's parser knows, with the
source, for machines without either.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.core.errors import ExportError
from compress.export import rtx_library
from compress.export.graph import FUSED_DOMAIN, rebuild, size_of

if TYPE_CHECKING:
    from compress.profile.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Added to the scores of padding. ONNX Runtime's attention uses this default (documentation of its contrib operators,
# ``mask_filter_value``). It fits into fp16, and its exponential is 0.
_MASKED = -10000.0
_KEY_PADDING, _BIAS = 4, 5


def expand_attention(model: ModelProto) -> ModelProto:
    """Replace every ``com.microsoft.MultiHeadAttention`` by standard operators.

    The operators have the order whose fusion TensorRT documents: product, scale, mask, softmax, product. Law
    (``tests/export/test_standard_ops.py``): the outputs equal those of the fused operator on every input, padding
    included.

    Args:
        model: from ``export_onnx`` or ``narrow``; not changed.

    Returns:
        The rewritten graph.

    Raises:
        ExportError: an attention has unknown inputs or attributes.
    """
    nodes: list[NodeProto] = []
    weights = list(model.graph.initializer)
    masks: dict[str, str] = {}
    for node in model.graph.node:
        if node.domain != FUSED_DOMAIN or node.op_type != "MultiHeadAttention":
            nodes.append(node)
            continue
        given = [*node.input, *[""] * (_BIAS + 1 - len(node.input))]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if given[3] or any(given[_BIAS + 1 :]) or len(node.output) != 1 or set(attributes) != {"num_heads", "scale"}:
            raise ExportError(f"'{node.name}' is an attention of another form; use a target that runs in ONNX Runtime")
        mask = given[_KEY_PADDING]
        if mask and mask not in masks:
            masks[mask] = f"{mask}_added"
            nodes += _mask_nodes(mask, masks[mask], weights)
        added = [name for name in (masks.get(mask, ""), given[_BIAS]) if name]
        heads, scale = int(attributes["num_heads"]), float(attributes["scale"])
        nodes += _attention_nodes(node, heads, scale, added, weights)
    return rebuild(model, nodes, weights)


def _mask_nodes(mask: str, added: str, weights: list[TensorProto]) -> list[NodeProto]:
    """Nodes from a mask [batch, keys], 0 at padding, to the bias of the scores, [batch, 1, 1, keys]."""
    one, filler, axes = f"{added}.one", f"{added}.filler", f"{added}.axes"
    weights += [
        numpy_helper.from_array(np.array(1.0, np.float32), one),
        numpy_helper.from_array(np.array(_MASKED, np.float32), filler),
        numpy_helper.from_array(np.array([1, 2], np.int64), axes),
    ]
    return [
        helper.make_node("Cast", [mask], [f"{added}.float"], f"{added}.cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", [one, f"{added}.float"], [f"{added}.padding"], f"{added}.sub"),
        helper.make_node("Mul", [f"{added}.padding", filler], [f"{added}.flat"], f"{added}.mul"),
        helper.make_node("Unsqueeze", [f"{added}.flat", axes], [added], f"{added}.unsqueeze"),
    ]


def _attention_nodes(
    node: NodeProto, heads: int, scale: float, added: list[str], weights: list[TensorProto]
) -> list[NodeProto]:
    path, output = node.name or node.output[0], node.output[0]
    split, joined, factor = f"{path}.split", f"{path}.joined", f"{path}.scale"
    weights += [
        # In Reshape, 0 keeps a dimension and -1 takes the rest.
        numpy_helper.from_array(np.array([0, 0, heads, -1], np.int64), split),
        numpy_helper.from_array(np.array([0, 0, -1], np.int64), joined),
        numpy_helper.from_array(np.array(scale, np.float32), factor),
    ]
    nodes: list[NodeProto] = []

    def add(kind: str, inputs: list[str], result: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [result], f"{result}.node", **attributes))
        return result

    parts = []
    for role, name, order in zip("qkv", node.input[:3], ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        apart = add("Reshape", [name, split], f"{path}.{role}.split")
        parts.append(add("Transpose", [apart], f"{path}.{role}.heads", perm=order))
    query, key, value = parts
    scores = add("MatMul", [query, key], f"{path}.products")
    scores = add("Mul", [scores, factor], f"{path}.scores")
    for number, name in enumerate(added):
        scores = add("Add", [scores, name], f"{path}.scores.{number}")
    shares = add("Softmax", [scores], f"{path}.shares", axis=-1)
    context = add("MatMul", [shares, value], f"{path}.context")
    back = add("Transpose", [context], f"{path}.context.tokens", perm=[0, 2, 1, 3])
    add("Reshape", [back, joined], output)
    return nodes


@cache
def supported() -> Mapping[str, Any]:
    """Support of TensorRT's ONNX parser: ``opset`` (least, most), ``types`` by operator, and the source of both."""
    file = files("compress") / "configs" / "tensorrt" / "operators.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def check_supported(model: ModelProto, target: Target, path: Path | None = None) -> None:
    """Check that the parser of a target's library supports a graph.

    TensorRT-RTX's parser is asked where it is installed. Elsewhere, and for TensorRT, ``operators.toml`` says it.

    Args:
        model: any graph; weights beside its file need not be loaded.
        target: decides the parser, and is named in the message.
        path: of the graph's file, for weights beside it; None if it has none.

    Raises:
        ExportError: it does not; the message names the operators.
    """
    library, refused = "TensorRT", unsupported(model)
    source = f"by {supported()['source']}, release {supported()['release']}"
    if target.runtime == "tensorrt-rtx":
        library = rtx_library.PRODUCT
        if rtx_library.load() is not None:
            beside = None if path is None else str(path)
            refused = rtx_library.unsupported(model.SerializeToString(), beside)
            source = f"by the parser of release {rtx_library.release()}"
    if refused:
        raise ExportError(
            f"{library} does not support this graph: {'; '.join(refused)} ({source}); target '{target.name}' needs a "
            'file exported for it, and other models a target with runtime = "onnxruntime-cuda"'
        )


def count_attention(model: ModelProto) -> int:
    """Number of attentions in a graph of standard operators: softmaxes whose result is multiplied with something."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def reaches_product(name: str) -> bool:
        # Casts stand around a softmax that stays in fp32, and some families mask the shares once more.
        return any(
            node.op_type == "MatMul" or (node.op_type in ("Cast", "Where", "Mul") and reaches_product(node.output[0]))
            for node in readers.get(name, [])
        )

    return sum(node.op_type == "Softmax" and reaches_product(node.output[0]) for node in model.graph.node)


def precision_of(model: ModelProto) -> str:
    """Number format of a graph: ``int8`` with Q/DQ pairs, ``fp16`` with most weights in half precision, or ``fp32``."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    halves = sum(size_of(tensor) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16)
    return "fp16" if 2 * halves > sum(map(size_of, model.graph.initializer)) else "fp32"


def unsupported(model: ModelProto) -> list[str]:
    """Parts of a graph that TensorRT's parser does not support.

    Args:
        model: any graph; weights beside its file need not be loaded.

    Returns:
        One phrase for each part; empty if the graph is supported.
    """
    known = supported()
    least, most = known["opset"]
    found = []
    for opset in model.opset_import:
        if opset.domain == "" and not least <= opset.version <= most:
            found.append(f"opset {opset.version} (it takes {least} to {most})")
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    for domain, name in sorted(operators):
        if domain not in ("", "ai.onnx"):
            found.append(f"operator {domain}.{name}")
        elif name not in known["types"]:
            found.append(f"operator {name}")
    zeros = {t.name: t for t in model.graph.initializer if t.data_type in (TensorProto.INT8, TensorProto.UINT8)}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        point = zeros.get(node.input[2]) if len(node.input) > 2 else None
        if point is not None and (point.data_type != TensorProto.INT8 or numpy_helper.to_array(point).any()):
            found.append(f"{node.op_type} '{node.name}' that is not symmetric int8")
    return found
