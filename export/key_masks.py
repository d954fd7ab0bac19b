"""Padding masks that GPU kernels of fused attention take: rewrites the mask of every attention in a graph.

As exported, attention reads a mask of tokens [batch, sequence]. ONNX Runtime's CUDA provider computes that without a
fused kernel: scores are written to memory and read again. Its fused kernels take other masks (``Mask``), which are
computed here once in the graph and shared by all layers. All nodes that compute on tokens are CUDA's too, so that the
graph can be captured (``export/captured.py``).

``lengths``, ``ranges`` and ``onnx`` hold a number of tokens for each example, so padding has to be on the right. That
is what tokenizers of artifacts do. Three ways were open for other inputs. A graph that decides by itself needs ``If``,
which synchronises with the host and forbids CUDA graphs. A check in our session alone would leave wrong answers to
everybody else who loads the file. So the graph marks: answers of an example that is padded elsewhere are NaN, in
every program, for about ten tiny kernels. Our sessions refuse such inputs by name (``export/padding.py``).
``bias`` takes any padding.

Sources, ONNX Runtime 1.31: docs/ContribOperators.md (MultiHeadAttention, Attention); contrib_ops/cuda/bert/
multihead_attention.cc, attention.cc and attention_impl.cu; core/providers/cuda/llm/attention.cc.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.export.graph import FUSED_DOMAIN, rebuild
from compress.export.padding import RIGHT_PADDED

Mask = Literal["tokens", "lengths", "ranges", "bias", "onnx"]
# Those that hold a number of tokens for each example.
COUNTED: tuple[Mask, ...] = ("lengths", "ranges", "onnx")

# Position of the mask among an operator's inputs, and of what is added to its scores.
_MASK_AT = {"MultiHeadAttention": 4, "Attention": 3}
_BIAS_AT = 5
# The first opset whose Attention takes lengths of keys.
_OPSET_OF_LENGTHS = 24
# As ONNX Runtime's attention adds (``mask_filter_value``). It fits into fp16.
_MASKED = -10000.0


@dataclass
class _Graph:
    """Nodes and weights of the graph that is made.

    Attributes:
        nodes: in order.
        weights: initializers.
        counted: for each mask of tokens, names of what was counted from it.
        made: for each mask of tokens, the one made of it.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    counted: dict[str, _Counts] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; returns its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}.node", **attributes))
        return output

    def constant(self, value: Any, name: str, kind: Any = np.int64) -> str:
        """Append a weight, once; returns its name."""
        if all(tensor.name != name for tensor in self.weights):
            self.weights.append(numpy_helper.from_array(np.array(value, kind), name))
        return name


@dataclass(frozen=True)
class _Counts:
    """Names of what is known of a mask.

    Attributes:
        lengths: tokens of each example [batch], at least 1.
        steps: 2 for every place [batch, sequence].
        on_the_right: whether all padding is [batch].
    """

    lengths: str
    steps: str
    on_the_right: str


def with_mask(model: ModelProto, mask: Mask) -> ModelProto:
    """Replace the mask of tokens of every attention by another one.

    Laws (``tests/export/test_key_masks.py``): with padding on the right the outputs are the same, with any padding for
    ``bias``; other examples have NaN as all their answers. With ``ranges`` and ``bias``, attentions to whose scores
    something is added stay as they are: the kernel of ``ranges`` needs that aligned and has no other for the rest, and
    the sum of two fillers may be infinite in fp16.

    Args:
        model: from ``export_onnx`` or ``narrow``, packed or fused or not; not changed.
        mask: what attention reads instead.

            - ``lengths``: the number of tokens of each example [batch]. All kernels take it; fused are TensorRT's
              (compute capability 7.5 to 8.9) and cuDNN's (9.0).
            - ``ranges``: [3 x batch + 2], the lengths, where queries start, where keys start. The memory-efficient
              kernel reads it, and *no other reads it right*.
            - ``bias``: added to the scores [batch, 1, sequence, sequence]. Fused kernels (memory-efficient; cuDNN's on
              9.0) take it if the length is a multiple of 8, the unfused one always.
            - ``onnx``: lengths, for ONNX's own Attention of opset 24. Flash attention takes it (8.0 and above), and
              others do.
            - ``tokens``: nothing is changed.

    Returns:
        The rewritten graph; the same one where there is nothing to rewrite.
    """
    if mask == "tokens":
        return model
    made = _Graph(weights=list(model.graph.initializer))
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        tokens = _mask_of(node)
        if tokens is None or (mask in ("ranges", "bias") and _added(node)):
            made.nodes.append(node)
        elif mask == "bias":
            if tokens not in made.made:
                made.made[tokens] = _bias(made, tokens)
            made.nodes.append(_with_input(node, {_MASK_AT[node.op_type]: "", _BIAS_AT: made.made[tokens]}))
        else:
            _count(made, tokens, makers)
            if mask == "onnx" and node.op_type == "MultiHeadAttention":
                made.nodes.append(_of_opset_24(node, made.counted[tokens].lengths))
                continue
            if tokens not in made.made:
                made.made[tokens] = _ranges(made, tokens) if mask == "ranges" else _lengths(made, tokens)
            made.nodes.append(_with_input(node, {_MASK_AT[node.op_type]: made.made[tokens]}))
    if not made.counted and not made.made:
        return model
    result = rebuild(model, _marked(made, model), made.weights)
    if made.counted:
        helper.set_model_props(result, {RIGHT_PADDED: "1"})
    if any(node.op_type == "Attention" and not node.domain for node in result.graph.node):
        _raise_opset(result)
    return result


def _mask_of(node: NodeProto) -> str | None:
    """The mask of an attention of ONNX Runtime; None for other nodes, and without one."""
    position = _MASK_AT.get(node.op_type) if node.domain == FUSED_DOMAIN else None
    if position is None or len(node.input) <= position:
        return None
    name = node.input[position]
    return None if not name or name.endswith(_OURS) else name


_OURS = (".lengths32", ".ranges")


def _added(node: NodeProto) -> bool:
    return len(node.input) > _BIAS_AT and bool(node.input[_BIAS_AT])


def _with_input(node: NodeProto, changes: Mapping[int, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    names = [*copy.input, *[""] * (1 + max(changes) - len(copy.input))]
    for position, name in changes.items():
        names[position] = name
    while names and not names[-1]:
        names.pop()
    copy.input[:] = names
    return copy


def _count(made: _Graph, tokens: str, makers: Mapping[str, NodeProto]) -> None:
    """Count a mask's tokens, and see whether all stand before the padding; nothing if that was done."""
    if tokens in made.counted:
        return
    maker = makers.get(tokens)
    source = maker.input[0] if maker is not None and maker.op_type == "Cast" else tokens
    columns, rows = made.constant([1], "mask.axis"), made.constant(1, "mask.columns")
    # Whatever is not 0 counts as a token, as it does to the operators.
    truth = made.add("Cast", [source], f"{tokens}.truth", to=TensorProto.BOOL)
    flags = made.add("Cast", [truth], f"{tokens}.flags", to=TensorProto.INT64)
    count = made.add("ReduceSum", [flags, columns], f"{tokens}.count", keepdims=0)
    # Places 0, 2, 4 and so on, by sums: a range would be computed on the host and copied, which no CUDA graph may.
    shape = made.add("Shape", [flags], f"{tokens}.shape")
    steps = made.add("Expand", [made.constant([[2]], "mask.step"), shape], f"{tokens}.steps")
    places = made.add("CumSum", [steps, rows], f"{tokens}.places", exclusive=1)
    own = made.add("Mul", [flags, places], f"{tokens}.own")
    # The places of n tokens add up to n (n - 1) if they are the first n, and to more if they are not. (Maxima say it
    # in fewer steps, but CUDA's of integers go through cuDNN.)
    total = made.add("ReduceSum", [own, columns], f"{tokens}.total", keepdims=0)
    before = made.add("Sub", [count, made.constant([1], "mask.least")], f"{tokens}.before")
    least = made.add("Mul", [count, before], f"{tokens}.least")
    right = made.add("Equal", [total, least], f"{tokens}.right")
    # An example of padding alone attends to its first token: no kernel has to divide by nothing.
    lengths = made.add("Max", [count, made.constant([1], "mask.least")], f"{tokens}.lengths")
    made.counted[tokens] = _Counts(lengths, steps, right)


def _lengths(made: _Graph, tokens: str) -> str:
    return made.add("Cast", [made.counted[tokens].lengths], f"{tokens}.lengths32", to=TensorProto.INT32)


def _ranges(made: _Graph, tokens: str) -> str:
    """Lengths, then where the queries of each example start and the last ends, then the same of keys."""
    counted = made.counted[tokens]
    twice = made.add("ReduceSum", [counted.steps, made.constant([1], "mask.axis")], f"{tokens}.twice", keepdims=0)
    size = made.add("Div", [twice, made.constant([2], "mask.two")], f"{tokens}.size")
    ends = made.add("CumSum", [size, made.constant(0, "mask.rows")], f"{tokens}.ends")
    starts = made.add("Concat", [made.constant([0], "mask.zero"), ends], f"{tokens}.starts", axis=0)
    ranges = made.add("Concat", [counted.lengths, starts, starts], f"{tokens}.ranges64", axis=0)
    return made.add("Cast", [ranges], f"{tokens}.ranges", to=TensorProto.INT32)


def _bias(made: _Graph, tokens: str) -> str:
    """What is added to the scores [batch, 1, sequence, sequence]: 0 for tokens, the filler for padding."""
    given = made.add("Cast", [tokens], f"{tokens}.float", to=TensorProto.FLOAT)
    padding = made.add("Sub", [made.constant(1, "mask.given", np.float32), given], f"{tokens}.padding")
    filled = made.add("Mul", [padding, made.constant(_MASKED, "mask.filler", np.float32)], f"{tokens}.filled")
    row = made.add("Unsqueeze", [filled, made.constant([1, 2], "mask.inner")], f"{tokens}.row")
    parts = [
        made.add("Shape", [tokens], f"{tokens}.batch", start=0, end=1),
        made.constant([1], "mask.least"),
        *[made.add("Shape", [tokens], f"{tokens}.length", start=1, end=2)] * 2,
    ]
    shape = made.add("Concat", parts, f"{tokens}.square", axis=0)
    return made.add("Expand", [row, shape], f"{tokens}.bias")


def _of_opset_24(node: NodeProto, lengths: str) -> NodeProto:
    """ONNX's own Attention in place of MultiHeadAttention."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    heads = attributes.pop("num_heads")
    added = node.input[_BIAS_AT] if _added(node) else ""
    # Inputs by position: queries, keys, values, what is added, past keys and values, lengths.
    inputs = [*node.input[:3], added, "", "", lengths]
    return helper.make_node(
        "Attention", inputs, list(node.output), node.name, q_num_heads=heads, kv_num_heads=heads, **attributes
    )


def _marked(made: _Graph, model: ModelProto) -> list[NodeProto]:
    """The nodes, with outputs that are NaN for examples that are not padded on the right."""
    if not made.counted:
        return made.nodes
    truths = [counts.on_the_right for counts in made.counted.values()]
    while len(truths) > 1:
        both = [truths.pop(), truths.pop()]
        truths.append(made.add("And", both, f"{both[0]}.and"))
    inner = {value.name: f"{value.name}.unmarked" for value in model.graph.output}
    nodes = []
    for node in made.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [inner.get(name, name) for name in node.input]
        copy.output[:] = [inner.get(name, name) for name in node.output]
        nodes.append(copy)
    made.nodes = nodes
    nothing = made.constant(np.nan, "mask.nothing", np.float32)
    for value in model.graph.output:
        rank = len(value.type.tensor_type.shape.dim)
        axes = made.constant(list(range(1, rank)), f"{value.name}.axes")
        truth = made.add("Unsqueeze", [truths[0], axes], f"{value.name}.right") if rank > 1 else truths[0]
        made.add("Where", [truth, inner[value.name], nothing], value.name)
    return made.nodes


def _raise_opset(model: ModelProto) -> None:
    """Opset 24, in place: of the operators in our graphs, later versions only take more types."""
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, _OPSET_OF_LENGTHS)
            model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([opset]))
