"""int8 quantization with ``onnxruntime.quantization``: dynamic and static schemes, embeddings, output error.

Weights are symmetric int8 with a scale per output channel; embeddings have a scale per row. Activations are uint8, for
ONNX Runtime's integer kernels. The *dynamic* scheme computes their range in every call. The *static* scheme (Q/DQ)
takes it from calibration data. Pooler and head stay float: they take almost no time, and errors in them change the
output directly.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, load_model, numpy_helper, save_model

from compress.core.errors import DataError, ExportError
from compress.export import graph
from compress.export.graph import rebuild, size_of

Feed = Mapping[str, NDArray[Any]]
Calibration = Literal["minmax", "entropy", "percentile"]

# With fewer examples, one unusual sentence decides the range of activations.
LEAST_SAMPLES = 16
_QUANTIZED = ("MatMul", "Attention")
# Smaller tables are not worth the additional operators.
_TABLE_BYTES = 1_000_000


def quantizable(model: ModelProto) -> dict[str, str]:
    """Operators that can be quantized: their weight (``<layer>.weight`` without the ending), by name of the node."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: node.input[1].removesuffix(".weight")
        for node in model.graph.node
        if node.op_type in _QUANTIZED and node.input[1] in constants
    }


def quantize_dynamic(
    model: ModelProto, left_out: Sequence[str] = (), *, reduce_range: bool = False, timing_only: bool = False
) -> ModelProto:
    """Quantize weights to int8; activations are quantized in every call, by their own range.

    Args:
        model: float32, from ``export_onnx`` or packed; not changed.
        left_out: weights that stay float32, named as ``quantizable`` does.
        reduce_range: use 7 bits for weights, for processors whose 8-bit kernels saturate.
        timing_only: use meaningless per-channel scales, which take a fraction of the time and do not change latency.

    Returns:
        The quantized graph.

    Raises:
        ExportError: ONNX Runtime is not installed, or cannot quantize the model.
    """
    nodes = _nodes(model, left_out)
    if not nodes:
        return model  # every sublayer is removed; to the library an empty list means all
    with _library() as library:
        found = _through_file(
            lambda source, result: library.quantize_dynamic(
                source,
                result,
                op_types_to_quantize=list(_QUANTIZED),
                nodes_to_quantize=nodes,
                per_channel=not timing_only,
                reduce_range=reduce_range,
                weight_type=library.QuantType.QInt8,
                # Fused operators hide types from ONNX's shape inference.
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            ),
            model,
        )
    return _as_if_per_channel(found) if timing_only else found


def quantize_static(
    model: ModelProto,
    samples: Sequence[Feed],
    left_out: Sequence[str] = (),
    *,
    calibration: Calibration = "minmax",
    reduce_range: bool = False,
    signed: bool = False,
    timing_only: bool = False,
) -> ModelProto:
    """Quantize weights and activations to int8, symmetric, as Q/DQ pairs with ranges from calibration data.

    Args:
        model: float32, from ``export_onnx``; attention must not be packed.
        samples: batches to calibrate on, arrays [batch, sequence] by input name.
        left_out: weights that stay float32, named as ``quantizable`` does.
        calibration: method that derives a range from the values.
        reduce_range: use 7 bits for weights, for processors whose 8-bit kernels saturate.
        signed: use int8 activations with zero point 0, which TensorRT requires, instead of uint8.
        timing_only: use one scale per weight instead of one per channel, which does not change latency.

    Returns:
        The quantized graph.

    Raises:
        DataError: there are too few samples.
        ExportError: ONNX Runtime is not installed, or cannot quantize the model.
    """
    count = sum(len(next(iter(sample.values()))) for sample in samples)
    if count < LEAST_SAMPLES and not timing_only:
        raise DataError(
            f"{count} calibration examples are too few for static int8; give at least {LEAST_SAMPLES} "
            "(--samples), or use dynamic int8"
        )
    nodes = _nodes(model, left_out)
    if not nodes:
        return model
    typed = graph.copy_of(model)
    # ONNX's shape inference does not know the types of fused operators, and untyped tensors are not quantized.
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        for node in model.graph.node
        if node.domain
        for output in node.output
    )
    with _library() as library:
        method = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[calibration]

        class Reader(library.CalibrationDataReader):  # type: ignore[name-defined]
            def __init__(self) -> None:
                self._feeds = iter(samples)

            def get_next(self) -> dict[str, NDArray[Any]] | None:
                feed = next(self._feeds, None)
                return None if feed is None else dict(feed)

        return _through_file(
            lambda source, result: library.quantize_static(
                source,
                result,
                Reader(),
                quant_format=library.QuantFormat.QDQ,
                calibrate_method=getattr(library.CalibrationMethod, method),
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=nodes,
                per_channel=not timing_only,
                reduce_range=reduce_range,
                activation_type=library.QuantType.QInt8 if signed else library.QuantType.QUInt8,
                weight_type=library.QuantType.QInt8,
                extra_options={
                    "DefaultTensorType": TensorProto.FLOAT,
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    # Outputs go to float operators (bias, residual, attention), so rounding them gains nothing.
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],
                },
            ),
            typed,
        )


def pairs_of(model: ModelProto, nodes: Collection[str]) -> list[str]:
    """Names of the Q/DQ nodes of a quantized graph that only some nodes read; they share the number format of these.

    Args:
        model: from ``quantize_static``.
        nodes: names of those nodes.
    """
    found, readers = set(nodes), _readers(model)
    for node in reversed(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and readers.get(node.output[0], {""}) <= found:
            found.add(node.name)
    return [node.name for node in model.graph.node if node.name in found and node.name not in nodes]


def _readers(model: ModelProto) -> dict[str, set[str]]:
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    return readers


def large_tables(model: ModelProto) -> dict[str, TensorProto]:
    """Embedding tables that ``embeddings_by_row`` quantizes, by name."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input}
    return {
        name: table
        for name, table in tensors.items()
        if name in looked_up and len(table.dims) == 2 and size_of(table) >= _TABLE_BYTES and uses[name] == 1
    }


def embeddings_by_row(model: ModelProto) -> ModelProto:
    """Quantize large embedding tables to int8 with a scale per row: a quarter of the bytes.

    It uses standard operators (Gather, Cast, Mul) on the rows that are looked up, so the time does not grow with the
    vocabulary.
    """
    tables = large_tables(model)
    nodes: list[NodeProto] = []
    added: dict[str, list[TensorProto]] = {}
    for node in model.graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" and node.input else None
        if table is None:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(table)
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-30).astype(np.float32) / 127
        added[table.name] = [
            numpy_helper.from_array(np.rint(values / scales).astype(np.int8), f"{table.name}_int8"),
            numpy_helper.from_array(scales, f"{table.name}_scale"),
        ]
        ids, rows = node.input[1], node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{table.name}_int8", ids], [f"{rows}_int8"], f"{node.name}_int8"),
            helper.make_node("Cast", [f"{rows}_int8"], [f"{rows}_cast"], f"{node.name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table.name}_scale", ids], [f"{rows}_scale"], f"{node.name}_scale"),
            helper.make_node("Mul", [f"{rows}_cast", f"{rows}_scale"], [rows], f"{node.name}_scaled"),
        ]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in added]
    return rebuild(model, nodes, [*kept, *(tensor for pair in added.values() for tensor in pair)])


def _nodes(model: ModelProto, left_out: Sequence[str]) -> list[str]:
    return [name for name, weight in quantizable(model).items() if weight not in set(left_out)]


def _through_file(quantize: Callable[[str, str], object], model: ModelProto) -> ModelProto:
    """Quantize by way of files, as the library works; removes the shapes that it adds, see ``graph.rebuild``."""
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        external = sum(map(size_of, model.graph.initializer)) > graph.EXTERNAL_DATA_ABOVE_BYTES
        # Saving with external data removes the weights from the model, so save a copy.
        copy = graph.copy_of(model) if external else model
        save_model(copy, str(source), save_as_external_data=external, location="float.data" if external else None)
        try:
            quantize(str(source), str(result))
        except (ValueError, RuntimeError, TypeError) as error:
            raise ExportError(f"ONNX Runtime could not quantize the model: {error}; use --precision fp32") from error
        found = load_model(str(result))
    return rebuild(found, found.graph.node, found.graph.initializer)


def _as_if_per_channel(model: ModelProto) -> ModelProto:
    """Repeat scales and zero points of weights for every channel, to get the operators of per-channel weights."""
    widths = {
        tensor.name.removesuffix("_quantized"): tensor.dims[1]
        for tensor in model.graph.initializer
        if tensor.name.endswith("_quantized") and len(tensor.dims) == 2
    }
    for tensor in model.graph.initializer:
        for ending in ("_scale", "_zero_point"):
            width = widths.get(tensor.name.removesuffix(ending)) if tensor.name.endswith(ending) else None
            if width is not None:
                repeated = np.repeat(numpy_helper.to_array(tensor).reshape(-1)[:1], width)
                tensor.CopyFrom(numpy_helper.from_array(repeated, tensor.name))
    return model


@contextmanager
def _library() -> Iterator[Any]:
    """Import ``onnxruntime.quantization`` and silence its log while the block runs."""
    try:
        from onnxruntime import quantization
    except ImportError:
        raise ExportError("int8 is made by ONNX Runtime, which is not installed; pip install 'compress[cpu]'") from None
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield quantization
    finally:
        logging.disable(before)


def output_error(answers: Iterable[NDArray[Any]], expected: Iterable[NDArray[Any]]) -> float:
    """Root mean square error of outputs, relative to the spread of the expected ones.

    Args:
        answers: outputs, one array per batch.
        expected: reference outputs of the same shapes.

    Returns:
        RMS of the differences / standard deviation of the expected outputs.
    """
    pairs = [(np.ravel(a), np.ravel(e)) for a, e in zip(answers, expected, strict=True)]
    difference = np.concatenate([a - e for a, e in pairs])
    spread = float(np.std(np.concatenate([e for _, e in pairs])))
    return float(np.sqrt(np.mean(difference**2))) / max(spread, 1e-12)
