"""Narrowing: cuts a dense exported graph to other widths without PyTorch, for profiling.

Linear layers are found by their parameter names, which ``export_onnx`` makes those of the PyTorch model
(``<layer>.weight`` [in, out], ``<layer>.bias``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.core.errors import ExportError
from compress.core.plan import Structure, Widths
from compress.export.graph import rebuild
from compress.models.encoder import Encoder, EncoderLayer

_ATTENTION = "MultiHeadAttention"
# Of a value projection: the tensor that chooses its heads from the bias of all heads' scores.
KEPT_HEADS = "kept_heads"
# Number of this operator's input that is the bias of the scores.
_POSITION_BIAS = 5


def _copies(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    return copies


@dataclass
class _Cut:
    """A dense graph during narrowing.

    Attributes:
        nodes: copies of the graph's nodes, which may be changed.
        dense: weights of the dense graph, by name.
        changed: weights that differ from the dense ones, by name.
        added: new weights.
    """

    nodes: list[NodeProto]
    dense: dict[str, TensorProto]
    changed: dict[str, TensorProto] = field(default_factory=dict)
    added: list[TensorProto] = field(default_factory=list)

    def weights(self, name: str) -> NDArray[np.float32]:
        """A weight of the dense graph; raises ExportError if there is none of this name."""
        if name not in self.dense:
            raise ExportError(
                f"the graph has no parameter '{name}'; only dense graphs written by export_onnx can be narrowed"
            )
        return numpy_helper.to_array(self.dense[name])

    def check_dense(self, linear: str, outputs: int) -> None:
        """Raise ExportError unless a linear layer has the dense model's number of outputs."""
        found = self.weights(f"{linear}.weight").shape[1]
        if found != outputs:
            raise ExportError(
                f"'{linear}' has {found} outputs in the graph and {outputs} in the dense model; "
                "only dense graphs written by export_onnx can be narrowed"
            )

    def put(self, name: str, values: NDArray[np.float32]) -> None:
        """Change a weight."""
        self.changed[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)

    def keep_outputs(self, linear: str, count: int, matrices: int = 1) -> None:
        """Keep the first output units of a linear layer; if it holds several matrices, of each of them."""
        for name in (f"{linear}.weight", f"{linear}.bias"):
            if name.endswith(".weight") or name in self.dense:
                parts = np.split(self.weights(name), matrices, axis=-1)
                self.put(name, np.concatenate([part[..., :count] for part in parts], axis=-1))
        if matrices > 1:
            self._split_at(linear, count, matrices)

    def _split_at(self, linear: str, count: int, matrices: int) -> None:
        """Set new sizes in the node that splits the outputs of a linear layer with several matrices."""
        output = self.output_of(linear).output[0]
        for node in self.nodes:
            # Some releases of the exporter give the number of equal parts, others their sizes.
            if node.op_type == "Split" and node.input[0] == output and len(node.input) > 1:
                sizes = f"{linear}.sizes"
                self.added.append(numpy_helper.from_array(np.full(matrices, count), sizes))
                node.input[1] = sizes

    def keep_inputs(self, linear: str, count: int) -> None:
        """Keep the first inputs of a linear layer."""
        self.put(f"{linear}.weight", self.weights(f"{linear}.weight")[:count])

    def output_of(self, linear: str) -> NodeProto:
        """The node with a linear layer's output: the addition of its bias, or the product if it has none."""
        weight, bias = f"{linear}.weight", f"{linear}.bias"
        operator, name = ("Add", bias) if bias in self.dense else ("MatMul", weight)
        self.weights(name)
        return next(node for node in self.nodes if node.op_type == operator and name in node.input)

    def give_bias(self, linear: str, outputs: int) -> None:
        """Give a linear layer without a bias one of zeros, as ``removal.remove`` does."""
        bias = f"{linear}.bias"
        if bias in self.dense:
            return
        product = self.output_of(linear)
        summed = f"{product.output[0]}_sum"
        for node in self.nodes:
            node.input[:] = [summed if name == product.output[0] else name for name in node.input]
        add = helper.make_node("Add", [product.output[0], bias], [summed], f"{product.name}_bias")
        self.nodes.insert(self.nodes.index(product) + 1, add)
        self.dense[bias] = numpy_helper.from_array(np.zeros(outputs, dtype=np.float32), bias)
        self.added.append(self.dense[bias])

    def leave_bias_only(self, linear: str) -> None:
        """Replace a linear layer's output by its bias; the nodes before it become dead."""
        output = self.output_of(linear).output[0]
        for node in self.nodes:
            node.input[:] = [f"{linear}.bias" if name == output else name for name in node.input]

    def set_heads(self, value: str, heads: int, *, bias_of_all: bool) -> None:
        """Set the number of heads of the attention that reads a value projection.

        Args:
            value: name of the value projection.
            heads: the number of heads.
            bias_of_all: whether the bias of the scores is computed for all heads of the dense model.
        """
        output = self.output_of(value).output[0]
        node = next(node for node in self.nodes if node.op_type == _ATTENTION and node.input[2] == output)
        for attribute in node.attribute:
            if attribute.name == "num_heads":
                attribute.i = heads
        if bias_of_all:
            kept, chosen = f"{value}.{KEPT_HEADS}", f"{value}.position_bias"
            self.added.append(numpy_helper.from_array(np.arange(heads), kept))
            gather = helper.make_node("Gather", [node.input[_POSITION_BIAS], kept], [chosen], axis=1)
            self.nodes.insert(self.nodes.index(node), gather)
            node.input[_POSITION_BIAS] = chosen


def narrow(model: ModelProto, encoder: Encoder, widths: Widths) -> ModelProto:
    """Cut a dense exported graph to other widths, in milliseconds; an export takes seconds.

    The first heads and filters of every layer stay. This is for profiling, since latency does not depend on which units
    stay. Law (``test_export_graph.py``): the result equals an export after ``removal.remove`` with those units.

    Args:
        model: a dense encoder of a family with an ``attention_kind``, from ``export_onnx``; not changed.
        encoder: the encoder of the model that was exported; gives names and dense sizes.
        widths: heads and filters per layer; 0 leaves the bias of the sublayer.

    Returns:
        The narrowed graph.

    Raises:
        PlanError: the widths do not fit the encoder.
        ExportError: the graph is not a dense one from ``export_onnx``.
    """
    Structure(
        heads=tuple(tuple(range(width)) for width in widths.heads),
        filters=tuple(tuple(range(width)) for width in widths.filters),
    ).check(encoder.shape)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    cut = _Cut(_copies(model.graph.node), dict(tensors))
    for layer in encoder:
        cut.check_dense(layer.exported_name("query"), encoder.shape.heads * encoder.shape.head_size)
        cut.check_dense(layer.name("ffn_input"), encoder.shape.filters * layer.inputs("ffn")["ffn_input"])
        if widths != encoder.shape.dense:
            cut.give_bias(layer.name("attention_output"), encoder.shape.hidden_size)
            cut.give_bias(layer.name("ffn_output"), encoder.shape.hidden_size)
    for layer, heads, filters in zip(encoder, widths.heads, widths.filters, strict=True):
        _narrow_attention(cut, layer, heads, encoder)
        _narrow_ffn(cut, layer, filters, encoder)
    weights = [cut.changed.get(name, tensor) for name, tensor in tensors.items()]
    return rebuild(model, cut.nodes, [*weights, *cut.added])


def _narrow_attention(cut: _Cut, layer: EncoderLayer, heads: int, encoder: Encoder) -> None:
    output = layer.name("attention_output")
    if heads == 0:
        cut.leave_bias_only(output)
    elif heads < encoder.shape.heads:
        for name in (*map(layer.exported_name, ("query", "key", "value")), *layer.further_by_head()):
            cut.keep_outputs(name, heads * encoder.shape.head_size)
        cut.keep_inputs(output, heads * encoder.shape.head_size)
        cut.set_heads(layer.exported_name("value"), heads, bias_of_all=layer.family.position_bias is not None)


def _narrow_ffn(cut: _Cut, layer: EncoderLayer, filters: int, encoder: Encoder) -> None:
    if filters == 0:
        cut.leave_bias_only(layer.name("ffn_output"))
    elif filters < encoder.shape.filters:
        for role, matrices in layer.inputs("ffn").items():
            cut.keep_outputs(layer.name(role), filters, matrices)
        cut.keep_inputs(layer.name("ffn_output"), filters)
