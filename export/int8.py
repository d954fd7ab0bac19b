"""int8 through ``onnxruntime.quantization``: which operators, in which form, what is left out, and what it costs.

Weights are symmetric int8 with a scale per output channel; embeddings have a scale per row. Activations are uint8,
which is what the integer kernels of ONNX Runtime take: *dynamic* finds their range anew in every call, *static* (Q/DQ)
has it from calibration data. Pooler and head stay float: they take no time, and their errors are the answer's.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, load_model, numpy_helper, save_model

from compress.core.errors import DataError, ExportError
from compress.export import graph
from compress.export.graph import rebuilt, size_of

Feed = Mapping[str, NDArray[Any]]
Calibration = Literal["minmax", "entropy", "percentile"]

# Fewer say little about the range of activations: one unusual sentence then decides it.
LEAST_SAMPLES = 16
_QUANTIZED = ("MatMul", "Attention")
# A smaller table saves nothing worth an operator more.
_TABLE_BYTES = 1_000_000


def quantizable(model: ModelProto) -> dict[str, str]:
    """Operators that int8 takes: their weight (``<layer>.weight`` without the ending) by the name of the node."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: node.input[1].removesuffix(".weight")
        for node in model.graph.node
        if node.op_type in _QUANTIZED and node.input[1] in constants
    }


def quantize_dynamic(
    model: ModelProto, left_out: Sequence[str] = (), *, reduce_range: bool = False, timing_only: bool = False
) -> ModelProto:
    """int8 weights, and activations that are quantized in every call by their own range.

    Args:
        model: float32, as ``export_onnx`` writes it or packed; it is not changed.
        left_out: weights that stay float32, as ``quantizable`` names them.
        reduce_range: 7 bits for weights, for processors whose 8-bit kernels saturate.
        timing_only: per-channel scales of no meaning, made in a fraction of the time: latency does not ask.

    Raises:
        ExportError: ONNX Runtime is not installed, or refuses.
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
    """int8 weights and activations as Q/DQ pairs around each operator, symmetric, ranges from calibration data.

    Args:
        model: float32, as ``export_onnx`` writes it; attention has to be unpacked.
        samples: batches to calibrate on, inputs by name [batch, sequence].
        left_out: see ``quantize_dynamic``.
        calibration: how a range follows from the values seen.
        reduce_range: see ``quantize_dynamic``.
        signed: activations in int8 with zero point 0, which is all that TensorRT takes, instead of uint8.
        timing_only: one scale per weight instead of one per channel.

    Raises:
        DataError: too few samples.
        ExportError: ONNX Runtime is not installed, or refuses.
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
    # ONNX's inference does not know the types of fused operators, and tensors of unknown type are not quantized.
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
                    # Outputs go to float operators (bias, residual, attention): rounding them gains nothing.
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],
                },
            ),
            typed,
        )


def large_tables(model: ModelProto) -> dict[str, TensorProto]:
    """Embedding tables that ``embeddings_by_row`` takes, by name."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather" and node.input}
    return {
        name: table
        for name, table in tensors.items()
        if name in looked_up and len(table.dims) == 2 and size_of(table) >= _TABLE_BYTES and uses[name] == 1
    }


def embeddings_by_row(model: ModelProto) -> ModelProto:
    """Large embedding tables as int8 with a scale per row: a quarter of the bytes, and rows keep their own precision.

    Standard operators only (Gather, Cast, Mul), on the rows looked up: time does not grow with the vocabulary.
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
    return rebuilt(model, nodes, [*kept, *(tensor for pair in added.values() for tensor in pair)])


def _nodes(model: ModelProto, left_out: Sequence[str]) -> list[str]:
    return [name for name, weight in quantizable(model).items() if weight not in set(left_out)]


def _through_file(quantize: Callable[[str, str], object], model: ModelProto) -> ModelProto:
    """The library reads and writes files; shapes that it leaves in the result slow it down (``graph.rebuilt``)."""
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        external = sum(map(size_of, model.graph.initializer)) > graph.EXTERNAL_DATA_ABOVE_BYTES
        # Saving moves external weights out of the model.
        copy = graph.copy_of(model) if external else model
        save_model(copy, str(source), save_as_external_data=external, location="float.data" if external else None)
        try:
            quantize(str(source), str(result))
        except (ValueError, RuntimeError, TypeError) as error:
            raise ExportError(f"ONNX Runtime could not quantize the model: {error}; use --precision fp32") from error
        found = load_model(str(result))
    return rebuilt(found, found.graph.node, found.graph.initializer)


def _as_if_per_channel(model: ModelProto) -> ModelProto:
    """Scales and zero points of weights repeated for every channel: the operators that real per-channel weights get."""
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
    """``onnxruntime.quantization``, without its advice on standard error."""
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
    """Root mean square of what answers differ by, relative to the spread of the expected ones."""
    pairs = [(np.ravel(a), np.ravel(e)) for a, e in zip(answers, expected, strict=True)]
    difference = np.concatenate([a - e for a, e in pairs])
    spread = float(np.std(np.concatenate([e for _, e in pairs])))
    return float(np.sqrt(np.mean(difference**2))) / max(spread, 1e-12)
