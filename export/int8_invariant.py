"""Invariant int8: an example's answer does not depend on what shares its call, nor on padding, order or threads.

Dynamic int8 takes the range of activations from the whole call, so every text changes the rounding of all others. Here
no range is shared between tokens, and integer sums are exact:

- Outputs of norms and of attention get *static* ranges from calibration data. A norm bounds its outputs whatever the
  text, and attention averages them, so these ranges hold. Before the rounding of a norm's output, channels are divided
  by factors that its weights are multiplied by, where this lowers the error (``_smoothing``).
- All other inputs, first of all that of the FFN's second layer, get a scale *by row*: one per token, in every call.

Kernels for float sums do not depend on the batch either, as far as measured: ``validation.json`` has a file's own
figures (``invariance``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.core.errors import DataError
from compress.export import graph
from compress.export.activations import Seen, activations, ranges_of
from compress.export.int8 import LEAST_SAMPLES, Feed, quantizable

# Quantization of blocks, and so of rows, came with this version; other operators of encoders did not change with it.
_OPSET = 21
_NORMS = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
_ATTENTION = frozenset({"MultiHeadAttention", "Attention"})
# How far below zero the outputs of an activation function go.
_LEAST = {"Gelu": 0.1701, "Relu": 0.0}
# Exponent of activations against weights in smoothing factors.
_ALPHA = 0.5
# Smoothing takes a product per value; it has to halve the error of rounding, and so to quarter its square.
_WORTH = 0.25
_SMOOTHING = "_smoothing"
_TINY = 1e-30
# A scale that rounds everything to the zero point: gives each row its zero point in one small operator.
_HUGE = 3e38

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Rounded:
    """An input of linear layers, rounded to uint8.

    Attributes:
        value: name of the rounded tensor.
        scale: name of its scale: a scalar, or one per row.
        zero: name of its zero point, a scalar.
        by_row: whether each row has its own scale.
        factors: what its channels were divided by; None for nothing.
    """

    value: str
    scale: str
    zero: str
    by_row: bool
    factors: Floats | None = None


def quantize_invariant(
    model: ModelProto,
    samples: Sequence[Feed],
    left_out: Sequence[str] = (),
    *,
    reduce_range: bool = False,
    timing_only: bool = False,
    smoothed: Collection[str] | None = None,
) -> ModelProto:
    """Quantize weights to int8 per channel, and activations to uint8 without a range that examples share.

    Args:
        model: float32, from ``export_onnx`` or packed; not changed.
        samples: batches to calibrate on, arrays [batch, sequence] by input name.
        left_out: weights that stay float32, named as ``quantizable`` does.
        reduce_range: use 7 bits for weights, for processors whose 8-bit kernels saturate.
        timing_only: use meaningless ranges, which need no samples.
        smoothed: with ``timing_only`` the tensors to smooth, as ``smoothed_in`` has them; None for every norm's output.

    Returns:
        The quantized graph.

    Raises:
        DataError: there are too few samples.

    Source: scales per token, Yao et al., "ZeroQuant", section 4.1; smoothing, Xiao et al., "SmoothQuant", equation 4.
    """
    chosen = {name for name, weight in quantizable(model).items() if weight not in set(left_out)}
    if not chosen:
        return model
    count = sum(len(next(iter(sample.values()))) for sample in samples)
    if count < LEAST_SAMPLES and not timing_only:
        raise DataError(
            f"{count} calibration examples are too few for invariant int8; give at least {LEAST_SAMPLES} (--samples), "
            "or use --int8 fastest"
        )
    building = _Building(model, chosen, 64 if reduce_range else 127)
    if not timing_only:
        building.seen = ranges_of(model, sorted(building.readers), samples)
    building.smoothed = smoothed
    return building.quantized()


def smoothed_in(quantized: ModelProto) -> frozenset[str]:
    """Names of the tensors whose channels a quantized graph brings to similar ranges, which takes time.

    Args:
        quantized: from ``quantize_invariant``.
    """
    names = (tensor.name for tensor in quantized.graph.initializer)
    return frozenset(name.removesuffix(_SMOOTHING) for name in names if name.endswith(_SMOOTHING))


class _Building:
    """Builds the quantized graph.

    Attributes:
        readers: weights of the layers to quantize that read a tensor, [in, out], by the tensor's name.
        seen: values on calibration data, by the tensor's name; empty for timing.
        smoothed: for timing, what to smooth; see ``quantize_invariant``.
    """

    def __init__(self, model: ModelProto, chosen: set[str], levels: int) -> None:
        self._model, self._chosen, self._levels = model, chosen, levels
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {output: node for node in model.graph.node for output in node.output}
        self._followers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._followers.setdefault(name, []).append(node)
        self._nodes: list[NodeProto] = []
        self._added: dict[str, TensorProto] = {}
        self._rounded: dict[str, _Rounded] = {}
        self._inputs_of: dict[str, list[str]] = {}
        self._joined: set[str] = set()
        self.seen: Mapping[str, Seen] = {}
        self.smoothed: Collection[str] | None = None
        self.readers: dict[str, list[Floats]] = {}
        for node in model.graph.node:
            if node.name in chosen:
                self.readers.setdefault(node.input[0], []).append(self._array(node.input[1]))

    def quantized(self) -> ModelProto:
        """The whole graph."""
        for node in self._model.graph.node:
            if node.name in self._joined:
                continue
            if node.name in self._chosen:
                self._quantize(node)
            else:
                self._nodes.append(node)
        found = graph.rebuild(self._model, self._nodes, [*self._model.graph.initializer, *self._added.values()])
        versions = {opset.domain: opset.version for opset in found.opset_import}
        versions |= {"": max(versions[""], _OPSET), graph.FUSED_DOMAIN: versions.get(graph.FUSED_DOMAIN, 1)}
        del found.opset_import[:]
        found.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
        return found

    def _array(self, name: str) -> Any:
        return numpy_helper.to_array(self._tensors[name])

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._added:
            self._added[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], output, domain=domain, **attributes))
        return output

    def _quantize(self, node: NodeProto) -> None:
        """Add a linear layer, or an attention with its projections, in int8."""
        source, weight = node.input[0], node.input[1]
        rounded = self._rounded.get(source) or self._rounds(source)
        self._rounded[source] = rounded
        values, scales = self._weights(weight, source, rounded.factors)
        if node.op_type == "Attention":
            inputs = [rounded.value, values, node.input[2], rounded.scale, scales, *(node.input[3:4] or [""])]
            found = helper.make_node(
                "QAttention", [*inputs, rounded.zero], node.output, node.name, domain=graph.FUSED_DOMAIN
            )
            found.attribute.extend(node.attribute)
            self._nodes.append(found)
        elif rounded.by_row:
            one = self._constant("int8_one", np.float32(1))
            inputs = [rounded.value, values, one, scales, rounded.zero]
            product = self._node("MatMulIntegerToFloat", inputs, f"{node.output[0]}_int8", graph.FUSED_DOMAIN)
            self._node("Mul", [product, rounded.scale], node.output[0])
        else:
            inputs, output = [rounded.value, values, rounded.scale, scales, rounded.zero], node.output[0]
            sum_ = self._bias_of(node)
            if sum_ is not None:
                self._joined.add(sum_.name)
                bias = next(name for name in sum_.input if name in self._tensors)
                inputs, output = [*inputs, "", bias], sum_.output[0]
            self._node("MatMulIntegerToFloat", inputs, output, graph.FUSED_DOMAIN)

    def _bias_of(self, product: NodeProto) -> NodeProto | None:
        """The sum of a product and its bias, if nothing else reads the product."""
        readers = self._followers.get(product.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        width = self._tensors[product.input[1]].dims[1]
        biases = [name for name in readers[0].input if name in self._tensors and self._tensors[name].dims == [width]]
        return readers[0] if len(biases) == 1 else None

    def _weights(self, name: str, source: str, factors: Floats | None) -> tuple[str, str]:
        """Names of a quantized weight and of its scales, one per output channel.

        Args:
            name: of the weight, which several layers may share.
            source: name of the layer's input.
            factors: what channels of the input were divided by; None for nothing.
        """
        sources = self._inputs_of.setdefault(name, [])
        if source not in sources:
            sources.append(source)
        values = self._array(name)
        if factors is not None:
            values = values * factors[:, None]
        scales = (np.abs(values).max(axis=0).astype(np.float64) / self._levels).astype(np.float32)
        scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)
        quantized = np.clip(np.rint(values / scales), -self._levels, self._levels).astype(np.int8)
        another = f"_{sources.index(source)}" if sources[0] != source else ""
        return (
            self._constant(f"{name}_quantized{another}", quantized),
            self._constant(f"{name}_scale{another}", scales),
        )

    def _rounds(self, source: str) -> _Rounded:
        """Round a tensor, the way that its maker calls for."""
        maker = self._makers.get(source)
        kind = "" if maker is None else maker.op_type
        packed = any(node.op_type == "Attention" and node.input[0] == source for node in self._followers[source])
        if packed or kind in _NORMS:
            return self._static(source, self._smoothing(source))
        return self._static(source, None) if kind in _ATTENTION else self._by_row(source, _LEAST.get(kind))

    def _static(self, source: str, factors: Floats | None) -> _Rounded:
        """Round a tensor with one range for all calls."""
        low, high = self._range(source, factors)
        scale = max(high - low, _TINY) / 255
        zero = int(np.clip(round(-low / scale), 0, 255))
        given = source
        if factors is not None:
            given = self._node(
                "Mul", [source, self._constant(f"{source}{_SMOOTHING}", 1 / factors)], f"{source}_smoothed"
            )
        names = self._constant(f"{source}_scale", np.float32(scale)), self._constant(f"{source}_zero", np.uint8(zero))
        return _Rounded(self._node("QuantizeLinear", [given, *names], f"{source}_uint8"), *names, False, factors)

    def _range(self, source: str, factors: Floats | None) -> tuple[float, float]:
        if not self.seen:
            return -4.0, 4.0
        seen = self.seen[source]
        by = 1.0 if factors is None else factors
        return float(np.min(seen.low / by)), float(np.max(seen.high / by))

    def _smoothing(self, source: str) -> Floats | None:
        """Factors to divide the channels of a tensor by, so that none needs a much larger range than the others.

        Returns:
            The factors; None where they would not halve the error that rounding makes in the layers' outputs.
        """
        weights = self.readers[source]
        if not self.seen:
            wanted = self.smoothed is None or source in self.smoothed
            return np.ones(len(weights[0]), np.float32) if wanted else None
        seen = self.seen[source]
        values = np.maximum(np.maximum(-seen.low, seen.high), 1e-5)
        factors = values**_ALPHA / np.maximum(np.max([np.abs(w).max(axis=1) for w in weights], axis=0), 1e-5) ** (
            1 - _ALPHA
        )
        squares = np.sum([np.square(w).sum(axis=1) for w in weights], axis=0)
        errors = []
        for by in (np.ones_like(factors), factors):
            width = np.max(seen.high / by) - np.min(seen.low / by)
            errors.append(width**2 * float(np.sum(squares * by**2)))
        return factors.astype(np.float32) if errors[1] < _WORTH * errors[0] else None

    def _by_row(self, source: str, least: float | None) -> _Rounded:
        """Round a tensor with a scale for each row.

        Args:
            source: name of the tensor.
            least: how far below zero values can be; None if as far as above.
        """
        zero = 128 if least is None else self._zero_point(source, least)
        kept, axis = source, self._constant("int8_last_axis", np.array([-1], np.int64))
        if least is None:
            kept = self._node("Abs", [source], f"{source}_size")
        most = self._node("ReduceMax", [kept, axis], f"{source}_most", keepdims=1)
        per_level = self._constant(f"int8_per_level_{zero}", np.float32(1 / (127 if least is None else 255 - zero)))
        scale = self._node("Mul", [most, per_level], f"{source}_by_level")
        # Rows of zeros get a scale too; and what is below zero finds its place in every row.
        floor = max((least or 0.0) / max(zero, 1), _TINY)
        scale = self._node("Max", [scale, self._constant(f"{source}_floor", np.float32(floor))], f"{source}_scale")
        point = self._constant(f"int8_zero_{zero}", np.uint8(zero))
        zeros = self._node(
            "QuantizeLinear", [scale, self._constant("int8_huge", np.float32(_HUGE)), point], f"{source}_zeros"
        )
        width = len(self.readers[source][0])
        rounded = self._node("QuantizeLinear", [source, scale, zeros], f"{source}_uint8", axis=-1, block_size=width)
        return _Rounded(rounded, scale, point, True)

    def _zero_point(self, source: str, least: float) -> int:
        """Levels for values below zero, for a row of ordinary size."""
        most = 2.5 if not self.seen else float(np.median(np.concatenate(self.seen[source].largest)))
        return int(np.clip(round(255 * least / (max(most, 0.0) + least)), 8, 128)) if least else 0


def exceeded(model: ModelProto, quantized: ModelProto, samples: Iterable[Feed]) -> dict[str, float]:
    """Shares of values that static ranges cut off, in examples that the ranges were not taken from.

    Args:
        model: the float32 graph that ``quantized`` was made of.
        quantized: from ``quantize_invariant``.
        samples: batches, arrays by input name.

    Returns:
        The share for each layer, named as ``quantizable`` does; layers with scales by row are not among them.
    """
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    ranges: dict[str, tuple[float, float, Any]] = {}
    for node in quantized.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[1] not in tensors or node.output[0].endswith("_zeros"):
            continue
        source = node.output[0].removesuffix("_uint8")
        scale, zero = (float(numpy_helper.to_array(tensors[name])) for name in node.input[1:3])
        smoothing = tensors.get(f"{source}{_SMOOTHING}")
        by = 1.0 if smoothing is None else numpy_helper.to_array(smoothing)
        # The last step to either side is rounded, not cut off.
        ranges[source] = -(zero + 1) * scale, (256 - zero) * scale, by
    outside = dict.fromkeys(ranges, 0)
    seen = dict.fromkeys(ranges, 0)
    for source, values in activations(model, sorted(ranges), samples):
        low, high, by = ranges[source]
        given = values * by
        outside[source] += int(np.count_nonzero((given < low) | (given > high)))
        seen[source] += values.size
    layers = quantizable(model)
    return {
        layers[node.name]: outside[node.input[0]] / max(seen[node.input[0]], 1)
        for node in model.graph.node
        if node.name in layers and node.input[0] in ranges
    }
