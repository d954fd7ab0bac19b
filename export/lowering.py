"""Lowering: brings an exported graph into the number format and form that a runtime gets (``Engine``).

The same engine lowers structures for the profile and the finished model for the artifact, so the plan is made for the
deployed form. The fastest form differs between processors and releases, so it is measured (``choose_fastest`` in
``export/measure.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from compress.core.errors import TargetError
from compress.export import graph
from compress.export.key_masks import COUNTED, Mask, with_mask
from compress.profile.target import ENGINE_RUNTIMES, Precision, Target

if TYPE_CHECKING:
    from compress.export.int8 import Feed

Form = Literal["plain", "packed", "offline", "packed-offline", "standard", "compiled"]
Int8 = Literal["invariant", "fastest"]
Scheme = Literal["float", "dynamic", "invariant", "static", "symmetric", "nncf"]
# Schemes that ``lower`` applies in the graph, layer by layer.
IN_GRAPH: tuple[Scheme, ...] = ("dynamic", "invariant", "static", "symmetric")
# Schemes in which examples of a call share no range of activations.
INVARIANT: tuple[Scheme, ...] = ("invariant", "static", "symmetric")
# Schemes that need calibration data.
CALIBRATED: tuple[Scheme, ...] = ("invariant", "static", "symmetric", "nncf")


@dataclass(frozen=True)
class Engine:
    """Number format and form of a graph for a runtime.

    Attributes:
        precision: number format.
        form: ``plain``, as exported; ``packed``, with each attention and its projections in one operator; ``offline``,
            fused by ONNX Runtime's offline optimizer; ``packed-offline``, both; ``standard``, without operators of ONNX
            Runtime's own; ``compiled``, by AOTInductor from PyTorch's model, beside the graph as exported.
        scheme: int8 scheme: ``invariant`` (``export/int8_invariant.py``); ``dynamic``, ``static`` or ``symmetric`` (by
            ONNX Runtime's library; the last is static with signed activations, for TensorRT); ``nncf`` (by nncf, for
            OpenVINO); ``float`` if not int8.
        reduce_range: 7-bit weights, for processors whose 8-bit kernels saturate.
        left_out: names of what stays in float: in int8 weights, as in ``int8.quantizable``; in fp16 nodes.
        rest: number format of what int8 leaves: ``fp16`` for TensorRT, which fuses attention in half precision alone.
        float32_nodes: in int8 with fp16 around it, names of nodes that stay float32.
        mask: what attention reads for a padding mask (``export/key_masks.py``); other than ``tokens`` on CUDA alone.
    """

    precision: Precision = "fp32"
    form: Form = "plain"
    scheme: Scheme = "float"
    reduce_range: bool = False
    left_out: tuple[str, ...] = ()
    rest: Literal["fp32", "fp16"] = "fp32"
    float32_nodes: tuple[str, ...] = ()
    mask: Mask = "tokens"

    @property
    def name(self) -> str:
        """Name for tables, such as ``fp32`` or ``int8 dynamic, packed``."""
        how = "" if self.scheme == "float" else f" {self.scheme}"
        how += " with fp16" if self.rest == "fp16" else ""
        how += "" if self.form == "plain" else f", {self.form}"
        return f"{self.precision}{how}" + ("" if self.mask == "tokens" else f", mask {self.mask}")

    def to_json(self) -> dict[str, Any]:
        """The engine in plain JSON types."""
        return {**asdict(self), "left_out": list(self.left_out), "float32_nodes": list(self.float32_nodes)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Engine:
        """Read the result of ``to_json``.

        Raises:
            ValueError: it is not an engine.
        """
        import json

        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(json.dumps(raw), strict=True)


def variants(target: Target, precision: Precision, int8: Int8 | None = None) -> tuple[Engine, ...]:
    """Engines to try on a target in a precision; the first is the default.

    Args:
        target: the device.
        precision: number format.
        int8: ``invariant`` for schemes in which examples of a call share no range; ``fastest`` or None for all.

    Returns:
        At least one engine.

    Raises:
        TargetError: the runtime has no invariant int8.
    """
    found = _variants(target, precision)
    if precision != "int8" or int8 != "invariant":
        return found
    found = tuple(engine for engine in found if engine.scheme in INVARIANT)
    if not found:
        raise TargetError(
            f"target '{target.name}' ({target.runtime}) has no int8 whose answers do not depend on what shares a call; "
            "use --int8 fastest, or --precision fp32"
        )
    return found


def usable_variants(target: Target, precision: Precision, int8: Int8 | None, examples: int) -> tuple[Engine, ...]:
    """``variants``, without those that need more calibration examples than there are; all where none is left.

    Args:
        target: the device.
        precision: number format.
        int8: see ``variants``.
        examples: number of calibration examples.
    """
    from compress.export.int8 import LEAST_SAMPLES

    found = variants(target, precision, int8)
    if examples >= LEAST_SAMPLES:
        return found
    return tuple(engine for engine in found if engine.scheme not in CALIBRATED) or found


def _variants(target: Target, precision: Precision) -> tuple[Engine, ...]:
    if target.runtime == "openvino":
        return (Engine(precision, "plain", "float" if precision == "fp32" else "nncf"),)
    if target.runtime == "aotinductor":
        if precision == "int8":
            raise TargetError(
                f"target '{target.name}' is compiled by AOTInductor, for which there is no int8 here; use --precision "
                "fp32, or a target of another runtime"
            )
        return (Engine(precision, "compiled"),)
    if target.runtime in ENGINE_RUNTIMES:
        if precision == "int8":
            return (Engine(precision, "standard", "symmetric", rest="fp16"),)
        return (Engine(precision, "standard"),)
    if target.on_gpu:
        return _cuda_variants(target, precision)
    if precision == "fp32":
        return Engine(form="plain"), Engine(form="packed"), Engine(form="offline")
    saturating = saturates()
    return (
        Engine("int8", "packed", "invariant", saturating),
        Engine("int8", "packed", "dynamic", saturating),
        Engine("int8", "plain", "dynamic", saturating),
        Engine("int8", "plain", "static", saturating),
    )


# Forms and masks on CUDA. Packed without another mask is as slow in attention as plain.
_ON_CUDA: tuple[tuple[Form, Mask], ...] = (
    ("plain", "tokens"),
    ("offline", "tokens"),
    ("offline", "bias"),
    ("packed-offline", "bias"),
    ("offline", "onnx"),
    ("packed-offline", "lengths"),
    ("offline", "ranges"),
    ("packed-offline", "ranges"),
)


def _cuda_variants(target: Target, precision: Precision) -> tuple[Engine, ...]:
    if precision == "int8":
        return (Engine(precision),)
    found = tuple(Engine(precision, form, mask=mask) for form, mask in _ON_CUDA)
    if target.padding == "any":
        found = tuple(engine for engine in found if engine.mask not in COUNTED)
    # In float32 the kernel that reads ranges takes long inputs alone, and the one for the others misreads them.
    return found if precision == "fp16" else tuple(engine for engine in found if engine.mask != "ranges")


def lower(
    model: ModelProto,
    engine: Engine,
    samples: Sequence[Feed] = (),
    *,
    timing_only: bool = False,
    smoothed: Collection[str] | None = None,
) -> ModelProto:
    """Bring a float32 graph into an engine's form and number format.

    Args:
        model: from ``export_onnx`` or ``narrow``; not changed.
        engine: form and number format. ``nncf`` changes nothing here: it runs when OpenVINO reads the graph.
        samples: batches to calibrate ``invariant``, ``static`` and ``symmetric`` on, arrays by input name.
        timing_only: take short cuts that change outputs but not latency.
        smoothed: for ``invariant`` and ``timing_only``, see ``int8_invariant.quantize_invariant``.

    Returns:
        The graph that the runtime gets.

    Raises:
        DataError: there are too few samples for ``invariant``, ``static`` or ``symmetric``.
        ExportError: a library is missing, or cannot convert the graph.
    """
    from compress.export import fp16, int8, int8_invariant, standard_ops

    if engine.form == "standard":
        model = standard_ops.expand_attention(model)
    if engine.form in ("packed", "packed-offline"):
        model = pack_attention(model)
    if engine.form in ("offline", "packed-offline"):
        model = graph.fuse_offline(model)
    if engine.mask != "ranges" or engine.precision == "fp16":
        # See ``_cuda_variants``. A float32 file beside one with ranges keeps its mask of tokens.
        model = with_mask(model, engine.mask)
    if engine.precision == "fp16":
        return fp16.to_half(model, engine.left_out)
    if engine.scheme == "dynamic":
        model = int8.quantize_dynamic(model, engine.left_out, reduce_range=engine.reduce_range, timing_only=timing_only)
    elif engine.scheme == "invariant":
        model = int8_invariant.quantize_invariant(
            model,
            samples,
            engine.left_out,
            reduce_range=engine.reduce_range,
            timing_only=timing_only,
            smoothed=smoothed,
        )
    elif engine.scheme in ("static", "symmetric"):
        model = int8.quantize_static(
            model,
            samples,
            engine.left_out,
            reduce_range=engine.reduce_range,
            signed=engine.scheme == "symmetric",
            timing_only=timing_only,
        )
    if engine.precision == "int8" and engine.rest == "fp16":
        kept = engine.float32_nodes
        model = fp16.to_half(model, (*kept, *int8.pairs_of(model, kept)))
    # TensorRT uses int8 only in matrix products; embedding tables stay float.
    return int8.embeddings_by_row(model) if engine.scheme in ("dynamic", "invariant", "static") else model


def pack_attention(model: ModelProto) -> ModelProto:
    """Join each attention and its three projections to one ``com.microsoft.Attention``.

    This gives one matrix product instead of three, and in int8 one quantization of its input. It takes any number of
    heads. An attention stays as it is if its projections read different inputs or have no bias, or if something is
    added to its scores.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    nodes: list[NodeProto] = []
    weights = list(model.graph.initializer)
    for node in model.graph.node:
        projections = [_projection(name, makers, tensors, readers) for name in node.input[:3]]
        inputs = {found[0] for found in projections if found}
        # Beside the projections, only a padding mask (the fifth input) means the same to both operators.
        more = [name for position, name in enumerate(node.input) if position > 2 and position != 4 and name]
        if node.op_type != "MultiHeadAttention" or None in projections or len(inputs) != 1 or more:
            nodes.append(node)
            continue
        path = projections[0][1].rpartition(".")[0].rpartition(".")[0] or "attention"  # type: ignore[index]
        joined = {}
        for role, position in (("weight", 1), ("bias", 2)):
            parts = [numpy_helper.to_array(tensors[found[position]]) for found in projections if found]
            joined[role] = f"{path}.query_key_value.{role}"
            weights.append(numpy_helper.from_array(np.concatenate(parts, axis=-1), joined[role]))
        packed = helper.make_node(
            "Attention",
            [inputs.pop(), joined["weight"], joined["bias"], *node.input[4:5]],
            list(node.output),
            f"{node.name}_packed",
            domain=graph.FUSED_DOMAIN,
        )
        packed.attribute.extend(a for a in node.attribute if a.name in ("num_heads", "scale"))
        nodes.append(packed)
    return graph.rebuild(model, nodes, weights)


def _projection(
    output: str, makers: Mapping[str, NodeProto], tensors: Mapping[str, Any], readers: Mapping[str, int]
) -> tuple[str, str, str] | None:
    """Input, weight and bias of the linear layer that makes a value with one reader; None for other values."""
    add = makers.get(output)
    if add is None or add.op_type != "Add" or readers[output] != 1:
        return None
    bias = [name for name in add.input if name in tensors]
    product = [makers[name] for name in add.input if name in makers]
    if len(bias) != 1 or len(product) != 1 or product[0].op_type != "MatMul" or product[0].input[1] not in tensors:
        return None
    return product[0].input[0], product[0].input[1], bias[0]


def saturates() -> bool:
    """Whether 8-bit products saturate on this processor: x86 without VNNI adds two of them in 16 bits.

    Source: ONNX Runtime's documentation, "Quantize ONNX models", on ``reduce_range``.
    """
    flags = processor_flags()
    return bool(flags) and not flags & {"avx512_vnni", "avx_vnni"}


def processor_flags() -> set[str]:
    """Features of an x86 processor, as Linux names them; empty elsewhere."""
    from pathlib import Path

    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return set(value.split())
    except OSError:
        pass  # not Linux
    return set()
