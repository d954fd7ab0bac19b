"""Operations on exported graphs: cleaning up after the exporter, trimming the vocabulary, offline fusion, files.

Functions that change a graph take a ``ModelProto`` and return another one. ``export/narrowing.py`` cuts graphs to other
widths.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import shutil
from ast import literal_eval
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, load_model, numpy_helper, save_model

from compress.core.errors import ExportError

FUSED_DOMAIN = "com.microsoft"
# The limit of a protobuf message is 2 GiB; this leaves some space for the graph itself.
EXTERNAL_DATA_ABOVE_BYTES = 2**31 - 2**26


def _live(graph: GraphProto, nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes that an output of the graph depends on, in their order."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def rebuild(model: ModelProto, nodes: Sequence[NodeProto], initializers: Sequence[TensorProto]) -> ModelProto:
    """Build a model with other nodes and weights, without dead nodes and without the exporter's metadata.

    Shapes of intermediate values are left out. They would be wrong after changes of the graph, and they make it slower:
    with them, ONNX Runtime fuses Add and LayerNormalization to SkipLayerNormalization, whose CPU kernel made the whole
    model 7 % slower (MiniLM-L6, one thread, onnxruntime 1.31). ONNX Runtime infers the shapes that it needs.

    Args:
        model: gives inputs, outputs and versions; not changed.
        nodes: nodes of the new graph, in topological order.
        initializers: weights; unused ones are left out.

    Returns:
        The new model.
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
    built = helper.make_model(
        graph,
        opset_imports=[opset for opset in model.opset_import if opset.domain in domains],
        ir_version=model.ir_version,
        producer_name="compress",
    )
    # What a rewrite has noted of its graph; the exporter's own notes go.
    built.metadata_props.extend(entry for entry in model.metadata_props if entry.key.startswith("compress."))
    return built


def tidy(model: ModelProto, parameter_prefix: str = "") -> ModelProto:
    """Clean up after the exporter: PyTorch names for parameters, no dead nodes, no traces of the machine.

    The exporter stores equal tensors once, so that all zero biases of a fresh model become one tensor, and it calls the
    transposed matrices of linear layers val_17 and the like. Here every linear layer gets its own weight and bias.

    Args:
        model: from the exporter.
        parameter_prefix: prefix of every parameter's name, which is removed.

    Returns:
        The cleaned model.
    """
    linears = {output: path for node in model.graph.node if (path := _linear_of(node)) for output in node.output}
    tidied = rebuild(model, model.graph.node, model.graph.initializer)
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
    """Path of the linear layer that a node comes from, from the exporter's metadata; None for other nodes."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    try:
        classes = literal_eval(notes["pkg.torch.onnx.class_hierarchy"])
        paths = literal_eval(notes["pkg.torch.onnx.name_scopes"])
        # The last entry of each is the operator itself.
        return str(paths[-2]) if classes[-2].endswith(".Linear") else None
    except (LookupError, ValueError, SyntaxError):
        return None


def trim_vocabulary(model: ModelProto, rows: int) -> ModelProto:
    """Keep only the first token embeddings, so that many profiling sessions fit in memory.

    A lookup costs the same in a smaller table. Token ids for the result must be below ``rows``.

    Args:
        model: an exported graph; not changed.
        rows: number of token embeddings to keep.

    Returns:
        The trimmed graph.

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
    return rebuild(model, model.graph.node, [trimmed.get(tensor.name, tensor) for tensor in model.graph.initializer])


def fusions(model: ModelProto) -> dict[str, int]:
    """Number of each fused operator (domain ``com.microsoft``) in a graph, by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node if node.domain == FUSED_DOMAIN).items()))


def fuse_offline(model: ModelProto) -> ModelProto:
    """Fuse a graph by ONNX Runtime's offline transformer optimizer, the alternative to fusion at load.

    It fuses SkipLayerNormalization and BiasGelu. This was slower on the CPUs measured so far, so compare the forms by
    ``choose_fastest`` (``export/measure.py``).

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
    # It warns about unknown producers.
    copy.producer_name = "pytorch"
    # To it, "bert" is any encoder with norms after the sums. Sizes of 0 mean "read them from the graph", since the
    # number of heads differs between layers.
    # Its modules import each other as top-level modules, so their loggers have no package name.
    logger = logging.getLogger("fusion_skiplayernorm")
    level = logger.level
    try:
        # It prints and logs that it could not infer some shapes, and then fuses less.
        logger.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            fused = optimizer.optimize_model(copy, model_type="bert", num_heads=0, hidden_size=0, opt_level=0)
    finally:
        logger.setLevel(level)
    result: ModelProto = fused.model
    return result


def _give_norms_biases(graph: GraphProto) -> None:
    """Give layer norms without a bias one of zeros, in place: the optimizer expects every norm to have one."""
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
    """Path of a model file's external weights."""
    return path.with_name(f"{path.name}.data")


def copy_of(model: ModelProto) -> ModelProto:
    """A deep copy."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def remove(path: Path) -> None:
    """Delete a model file, and the weights beside it if there are any."""
    for file in (path, _data_file(path)):
        file.unlink(missing_ok=True)


def size_bytes(path: Path) -> int:
    """Size of a model file, including weights beside it, in bytes."""
    return sum(file.stat().st_size for file in (path, _data_file(path)) if file.exists())


def move(source: Path, path: Path) -> None:
    """Move a model file to another name, and the weights beside it if there are any.

    Args:
        source: the file.
        path: its new place.
    """
    data = _data_file(path)
    if _data_file(source).exists():
        # The graph names the file of its weights.
        save_model(load_model(str(source)), str(path), save_as_external_data=True, location=data.name)
        remove(source)
    else:
        shutil.move(source, path)


def save(model: ModelProto, path: Path, external_above_bytes: int) -> None:
    """Write a model and check the written file.

    Args:
        model: model to write; it loses its weights if they go to a file of their own.
        path: of the file.
        external_above_bytes: if all weights together are larger than this, they go to ``<name>.data`` beside the file.

    Raises:
        ExportError: ONNX's checker rejects the graph.
    """
    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > external_above_bytes
    data = _data_file(path)
    # The ONNX library would append to an old file.
    data.unlink(missing_ok=True)
    save_model(model, str(path), save_as_external_data=external, location=data.name if external else None)
    try:
        checker.check_model(str(path))
    except checker.ValidationError as error:
        raise ExportError(f"ONNX's checker rejects '{path.name}': {error}") from error
