"""Surgery on exported graphs: tidied, cut to other widths without PyTorch, their vocabulary trimmed.

Everything here takes a ``ModelProto`` and gives back another one. Linear layers are found by their parameter names,
which ``export_onnx`` makes those of the PyTorch model (``<layer>.weight`` [in, out], ``<layer>.bias``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from ast import literal_eval
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper, save_model

from compress.core.errors import ExportError
from compress.core.plan import Structure, Widths
from compress.models.encoder import Encoder, EncoderLayer

FUSED_DOMAIN = "com.microsoft"
# A protobuf message ends at 2 GiB; some room is left for the graph itself.
EXTERNAL_DATA_ABOVE_BYTES = 2**31 - 2**26
_ATTENTION = "MultiHeadAttention"
# Among the inputs of that operator.
_POSITION_BIAS = 5


def _live(graph: GraphProto, nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes that an output of the graph depends on, in their order."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def rebuilt(model: ModelProto, nodes: Sequence[NodeProto], initializers: Sequence[TensorProto]) -> ModelProto:
    """A model with other nodes and weights, without what no output depends on, and without the record of its making.

    Shapes of intermediate values are left out. They would be wrong after surgery, and they make the file slower: with
    them ONNX Runtime fuses Add and LayerNormalization to SkipLayerNormalization, and its CPU kernel for that made the
    whole model 7 % slower (MiniLM-L6, one thread, onnxruntime 1.31). The shapes it needs it infers by itself.
    """
    live = _live(model.graph, nodes)
    used = {name for node in live for name in node.input}
    graph = helper.make_graph(
        live,
        "encoder",
        model.graph.input,
        model.graph.output,
        [tensor for tensor in initializers if tensor.name in used],
    )
    for part in (*graph.node, *graph.initializer):
        # The exporter writes source lines and stack traces with the paths of the machine it ran on.
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    domains = {node.domain for node in graph.node} | {""}
    return helper.make_model(
        graph,
        opset_imports=[opset for opset in model.opset_import if opset.domain in domains],
        ir_version=model.ir_version,
        producer_name="compress",
    )


def tidy(model: ModelProto, parameter_prefix: str = "") -> ModelProto:
    """Clean up after the exporter: parameters under their PyTorch names, no dead nodes, no traces of the machine.

    The exporter stores equal tensors once, so that the biases of a fresh model, all zeros, become one; and it calls the
    transposed matrices of linear layers val_17. Here every linear layer gets a weight and a bias of its own again.

    Args:
        model: as the exporter gives it.
        parameter_prefix: what the exporter put before every parameter's name; it is cut off.
    """
    linears = {output: path for node in model.graph.node if (path := _linear_of(node)) for output in node.output}
    tidied = rebuilt(model, model.graph.node, model.graph.initializer)
    graph = tidied.graph
    tensors: dict[str, TensorProto] = {}
    for tensor in graph.initializer:
        tensor.name = tensor.name.removeprefix(parameter_prefix)
        tensors[tensor.name] = tensor
    for node in graph.node:
        node.input[:] = [name.removeprefix(parameter_prefix) for name in node.input]
    uses = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        path = linears.get(node.output[0])
        role = {"MatMul": "weight", "Add": "bias"}.get(node.op_type)
        if path is None or role is None:
            continue
        own = f"{path.removeprefix(parameter_prefix)}.{role}"
        for position, name in enumerate(node.input):
            if name in tensors and name != own:
                if own not in tensors:
                    tensors[own] = tensors[name] if uses[name] == 1 else graph.initializer.add()
                    tensors[own].CopyFrom(tensors[name])
                    tensors[own].name = own
                node.input[position] = own
    used = {name for node in graph.node for name in node.input}
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in used:
            del graph.initializer[position]
    return tidied


def _linear_of(node: NodeProto) -> str | None:
    """Path of the linear layer that a node comes from, as the exporter noted it; None for other nodes."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    try:
        classes = literal_eval(notes["pkg.torch.onnx.class_hierarchy"])
        paths = literal_eval(notes["pkg.torch.onnx.name_scopes"])
        # The last of each is the operator itself.
        return str(paths[-2]) if classes[-2].endswith(".Linear") else None
    except (LookupError, ValueError, SyntaxError):
        return None


def _copies(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    return copies


@dataclass
class _Cut:
    """A dense graph being narrowed: nodes that may be changed, and the weights that differ from the dense ones."""

    nodes: list[NodeProto]
    dense: dict[str, TensorProto]
    changed: dict[str, TensorProto] = field(default_factory=dict)
    added: list[TensorProto] = field(default_factory=list)

    def weights(self, name: str) -> NDArray[np.float32]:
        if name not in self.dense:
            raise ExportError(
                f"the graph has no parameter '{name}'; only dense graphs written by export_onnx can be narrowed"
            )
        return numpy_helper.to_array(self.dense[name])

    def check_dense(self, linear: str, outputs: int) -> None:
        found = self.weights(f"{linear}.weight").shape[1]
        if found != outputs:
            raise ExportError(
                f"'{linear}' has {found} outputs in the graph and {outputs} in the dense model; "
                "only dense graphs written by export_onnx can be narrowed"
            )

    def put(self, name: str, values: NDArray[np.float32]) -> None:
        self.changed[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)

    def keep_outputs(self, linear: str, count: int, matrices: int = 1) -> None:
        """Keep the first output units of a linear layer; of each of its matrices where it holds several."""
        for name in (f"{linear}.weight", f"{linear}.bias"):
            if name.endswith(".weight") or name in self.dense:
                parts = np.split(self.weights(name), matrices, axis=-1)
                self.put(name, np.concatenate([part[..., :count] for part in parts], axis=-1))
        if matrices > 1:
            self._split_at(linear, count, matrices)

    def _split_at(self, linear: str, count: int, matrices: int) -> None:
        """Let what takes a linear layer's outputs apart find them at their new places."""
        output = self.output_of(linear).output[0]
        for node in self.nodes:
            # Equal parts are a number of parts in some releases of the exporter, sizes in others.
            if node.op_type == "Split" and node.input[0] == output and len(node.input) > 1:
                sizes = f"{linear}.sizes"
                self.added.append(numpy_helper.from_array(np.full(matrices, count), sizes))
                node.input[1] = sizes

    def keep_inputs(self, linear: str, count: int) -> None:
        """Keep the first inputs of a linear layer."""
        self.put(f"{linear}.weight", self.weights(f"{linear}.weight")[:count])

    def output_of(self, linear: str) -> NodeProto:
        """The node that a linear layer's output comes from: the addition of its bias, the product where it has none."""
        weight, bias = f"{linear}.weight", f"{linear}.bias"
        operator, name = ("Add", bias) if bias in self.dense else ("MatMul", weight)
        self.weights(name)
        return next(node for node in self.nodes if node.op_type == operator and name in node.input)

    def give_bias(self, linear: str, outputs: int) -> None:
        """A bias of zeros for a linear layer that has none, as ``removal.remove`` gives it one."""
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
        """Let whatever reads a linear layer's output read its bias; the nodes before become dead."""
        output = self.output_of(linear).output[0]
        for node in self.nodes:
            node.input[:] = [f"{linear}.bias" if name == output else name for name in node.input]

    def set_heads(self, value: str, heads: int, *, bias_of_all: bool) -> None:
        """Set the number of heads of the attention that reads a value projection.

        Args:
            value: the projection.
            heads: their number.
            bias_of_all: whether what is added to the scores is made for all heads of the dense model.
        """
        output = self.output_of(value).output[0]
        node = next(node for node in self.nodes if node.op_type == _ATTENTION and node.input[2] == output)
        for attribute in node.attribute:
            if attribute.name == "num_heads":
                attribute.i = heads
        if bias_of_all:
            kept, chosen = f"{value}.kept_heads", f"{value}.position_bias"
            self.added.append(numpy_helper.from_array(np.arange(heads), kept))
            gather = helper.make_node("Gather", [node.input[_POSITION_BIAS], kept], [chosen], axis=1)
            self.nodes.insert(self.nodes.index(node), gather)
            node.input[_POSITION_BIAS] = chosen


def narrow(model: ModelProto, encoder: Encoder, widths: Widths) -> ModelProto:
    """Cut a dense exported graph to other widths, without PyTorch: milliseconds where an export takes seconds.

    The first heads and filters of every layer stay; this is for profiling, and latency does not ask which. Law: equal
    to ``removal.remove`` with those units, followed by an export (``tests/export/test_graph.py``).

    Args:
        model: a dense encoder of a family with an ``attention_kind``, as ``export_onnx`` wrote it.
        encoder: of the model it was exported from; gives names and dense sizes.
        widths: heads and filters per layer; 0 leaves the bias of the sublayer.

    Raises:
        PlanError: the widths do not fit the encoder.
        ExportError: the graph is no dense one of ``export_onnx``.
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
    return rebuilt(model, cut.nodes, [*weights, *cut.added])


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


def trim_vocabulary(model: ModelProto, rows: int) -> ModelProto:
    """Keep the first ``rows`` token embeddings, so that many profiling sessions fit in memory.

    A lookup costs the same in a smaller table; token ids fed to the result must be below ``rows``.

    Raises:
        ExportError: no table is looked up by ``input_ids``.
    """
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input[1] == "input_ids"}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in tables]
    if not tensors:
        raise ExportError("the graph looks up no table by 'input_ids', so there is no vocabulary to trim")
    trimmed = {
        tensor.name: numpy_helper.from_array(numpy_helper.to_array(tensor)[:rows].copy(), tensor.name)
        for tensor in tensors
    }
    return rebuilt(model, model.graph.node, [trimmed.get(tensor.name, tensor) for tensor in model.graph.initializer])


def fusions(model: ModelProto) -> dict[str, int]:
    """How many fused operators (domain ``com.microsoft``) a graph has, by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node if node.domain == FUSED_DOMAIN).items()))


def fuse_offline(model: ModelProto) -> ModelProto:
    """Pass a graph through ONNX Runtime's offline transformer optimizer, the alternative to fusion at load.

    It fuses SkipLayerNormalization and BiasGelu. That is the slower graph on the CPUs measured so far: compare with
    ``validate.choose`` before using it.

    Raises:
        ExportError: ONNX Runtime is not installed.
    """
    try:
        from onnxruntime.transformers import optimizer
    except ImportError:
        raise ExportError(
            "the offline optimizer comes with ONNX Runtime, which is not installed; pip install 'compress[cpu]'"
        ) from None
    copy = copy_of(model)
    _give_norms_biases(copy.graph)
    # It warns about any producer that it does not know.
    copy.producer_name = "pytorch"
    # To it, "bert" is any encoder with norms after the sums. Sizes are 0, "read them from the graph": the number of
    # heads differs from layer to layer.
    # Its modules import each other as if they were no package, and name their loggers so.
    logger = logging.getLogger("fusion_skiplayernorm")
    level = logger.level
    try:
        # It prints and logs that it could not infer shapes: it then fuses less.
        logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            fused = optimizer.optimize_model(copy, model_type="bert", num_heads=0, hidden_size=0, opt_level=0)
    finally:
        logger.setLevel(level)
    result: ModelProto = fused.model
    return result


def _give_norms_biases(graph: GraphProto) -> None:
    """Biases of zeros for layer norms without, in place: the optimizer takes every norm to have one."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "LayerNormalization" and len(node.input) == 2:
            bias = f"{node.input[1]}_no_bias"
            if bias not in tensors:
                zeros = np.zeros_like(numpy_helper.to_array(tensors[node.input[1]]))
                tensors[bias] = numpy_helper.from_array(zeros, bias)
                graph.initializer.append(tensors[bias])
            node.input.append(bias)


def size_of(tensor: TensorProto) -> int:
    """Bytes of a tensor's values."""
    return math.prod(tensor.dims) * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _data_file(path: Path) -> Path:
    """Where the weights of a model file lie when they do not fit into it."""
    return path.with_name(f"{path.name}.data")


def copy_of(model: ModelProto) -> ModelProto:
    """A copy that may be changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def remove(path: Path) -> None:
    """Delete a model file, and the weights beside it where there are any."""
    for file in (path, _data_file(path)):
        file.unlink(missing_ok=True)


def size_bytes(path: Path) -> int:
    """Size of a model file, and of the weights beside it where there are any."""
    return sum(file.stat().st_size for file in (path, _data_file(path)) if file.exists())


def save(model: ModelProto, path: Path, external_above_bytes: int) -> None:
    """Write a model and check what was written.

    Args:
        model: what to write; its weights move out of it when they go to a file of their own.
        path: of the file.
        external_above_bytes: weights larger than this together go to ``<name>.data`` beside the file.

    Raises:
        ExportError: ONNX's checker rejects the graph.
    """
    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > external_above_bytes
    data = _data_file(path)
    # The ONNX library would append to a leftover.
    data.unlink(missing_ok=True)
    save_model(model, str(path), save_as_external_data=external, location=data.name if external else None)
    try:
        checker.check_model(str(path))
    except checker.ValidationError as error:
        raise ExportError(f"ONNX's checker rejects '{path.name}': {error}") from error
