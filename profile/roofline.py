"""Estimated profiles, for devices that are not at hand: a roofline per kernel, from the target's data sheet.

A kernel takes the longer of two times, and its launch on top:

- computing: a matrix product is cut into tiles, and the tiles go to the processors in waves, the last of them partly
  empty. What is paid for is whole tiles and whole waves. Of the tile sizes that the device has, the best is taken.
  Source: NVIDIA, "Matrix Multiplication Background User's Guide", sections on tile and wave quantization.
- memory: every operand once, at full bandwidth. Source: Williams, Waterman and Patterson, "Roofline: an insightful
  visual performance model for multicore architectures" (2009).

It is an optimistic model of ideal kernels: caches, clocks below the highest, and what a runtime does between kernels
are not in it. Good for planning before a device is there; what is deployed has to be measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from compress.core.errors import TargetError
from compress.core.plan import EncoderShape
from compress.profile.latency_profile import Profile
from compress.profile.latency_table import LatencyTable, filter_levels, fit_piecewise
from compress.profile.target import Target

# Bytes of a number; int8 products are accumulated and handed on in more, but what they read dominates.
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
# Matrix kernels read inner dimensions in steps of 16 bytes.
_STEP_BYTES = 16
# Runtimes that put bias, activation, residual and norm into the kernels around them, and attention into one.
_FUSING = ("tensorrt",)
# Kernels outside the layers: three lookups, their sum and norm, pooling, two products of a head with their biases.
_FIXED_KERNELS = 10


@dataclass(frozen=True)
class Kernel:
    """One launch on the device.

    Attributes:
        bytes: read and written.
        product: (batch, rows, columns, inner) of a matrix product; None for an elementwise kernel.
    """

    bytes: float
    product: tuple[int, int, int, int] | None = None


def product(batch: int, rows: int, columns: int, inner: int, size: int) -> Kernel:
    """The kernel of ``batch`` products [rows, inner] x [inner, columns], of numbers of so many bytes."""
    step = max(1, _STEP_BYTES // size)
    columns, inner = (step * math.ceil(n / step) for n in (columns, inner))
    moved = rows * inner + inner * columns + rows * columns
    return Kernel(float(size * batch * moved), (batch, rows, columns, inner))


def elementwise(values: int, size: int, passes: int = 2) -> Kernel:
    """A kernel that reads and writes so many numbers, ``passes`` times in all."""
    return Kernel(float(size * values * passes))


def attention_kernels(shape: EncoderShape, heads: int, batch: int, length: int, size: int, fused: bool) -> list[Kernel]:
    """What an attention sublayer with so many heads launches; nothing without any, where only a bias is left."""
    if heads == 0:
        return []
    tokens, hidden, width = batch * length, shape.hidden_size, heads * shape.head_size
    scores = batch * heads * length * length
    output = product(1, tokens, hidden, width, size)
    if fused:
        # One kernel from queries, keys and values to the context: the scores never reach memory.
        inside = product(batch * heads, length, length, 2 * shape.head_size, size)
        context = Kernel(float(4 * size * tokens * width), inside.product)
        return [product(1, tokens, 3 * width, hidden, size), context, output, elementwise(tokens * hidden, size, 3)]
    return [
        *(product(1, tokens, width, hidden, size) for _ in "qkv"),
        *(elementwise(tokens * width, size) for _ in "qkv"),  # biases
        elementwise(3 * tokens * width, size),  # heads side by side
        product(batch * heads, length, length, shape.head_size, size),
        elementwise(scores, size),  # mask and softmax
        product(batch * heads, length, shape.head_size, length, size),
        elementwise(tokens * width, size),  # heads back in place
        output,
        elementwise(tokens * hidden, size, 3),  # bias, residual and norm
    ]


def ffn_kernels(shape: EncoderShape, filters: int, batch: int, length: int, size: int, fused: bool) -> list[Kernel]:
    """What an FFN sublayer with so many filters launches; nothing without any."""
    if filters == 0:
        return []
    tokens, hidden = batch * length, shape.hidden_size
    inputs = 2 * filters if shape.gated else filters
    activation = [] if fused else [elementwise(tokens * filters, size, 3 if shape.gated else 2)]
    return [
        product(1, tokens, inputs, hidden, size),
        *activation,  # and bias, and gate
        product(1, tokens, hidden, filters, size),
        elementwise(tokens * hidden, size, 3),
    ]


@dataclass(frozen=True)
class Roofline:
    """A data sheet in one precision.

    Attributes:
        flops: operations per second.
        bytes_per_second: of the memory.
        launch_s: seconds that every kernel costs on top.
        processors: what tiles are spread over.
        tiles: sizes there are, rows x columns.
    """

    flops: float
    bytes_per_second: float
    launch_s: float
    processors: int
    tiles: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, target: Target, precision: str) -> Roofline:
        """From a target's data sheet.

        Raises:
            TargetError: the sheet lacks something; the message names what.
        """
        missing = target.missing_for(precision)
        sheet = (
            target.peak_flops,
            target.memory_bandwidth_gb_s,
            target.launch_overhead_us,
            target.processors,
            target.tile_sizes,
        )
        if missing or None in sheet:
            raise TargetError(
                f"target '{target.name}' has no complete data sheet for {precision}: its file lacks "
                f"{', '.join(missing)}. Fill it in, or measure with `compress profile MODEL --target {target.name} "
                "--output profile.json` on the device and pass --profile profile.json here"
            )
        peaks, bandwidth, launch, processors, tiles = sheet
        assert peaks is not None and bandwidth is not None and launch is not None
        assert processors is not None and tiles is not None
        flops = next(rate for name, rate in peaks.items() if name == precision)
        return cls(flops, bandwidth * 1e9, launch * 1e-6, processors, tiles)

    def seconds(self, kernel: Kernel) -> float:
        """How long a kernel takes, launch included."""
        return max(self.computing(kernel), kernel.bytes / self.bytes_per_second) + self.launch_s

    def computing(self, kernel: Kernel) -> float:
        """Seconds of a matrix product if operands were at hand; 0 for other kernels, which memory bounds."""
        if kernel.product is None:
            return 0.0
        batch, rows, columns, inner = kernel.product
        rate = self.flops / self.processors
        times = []
        for tall, wide in self.tiles:
            tiles = batch * math.ceil(rows / tall) * math.ceil(columns / wide)
            times.append(math.ceil(tiles / self.processors) * 2 * tall * wide * inner / rate)
        return min(times)

    def ms(self, kernels: Sequence[Kernel]) -> float:
        """Milliseconds of kernels one after the other."""
        return 1e3 * math.fsum(map(self.seconds, kernels))


def estimate_profile(
    shape: EncoderShape, target: Target, precision: str, batch_size: int, seq_len: int, fused: bool | None = None
) -> Profile:
    """A profile from the target's data sheet, marked ``estimated``.

    Args:
        shape: the dense encoder.
        target: with a data sheet.
        precision: number format.
        batch_size, seq_len: of the deployment.
        fused: whether the runtime fuses what lies between products; None is what the target's runtime does.

    Raises:
        TargetError: the data sheet lacks something.
    """
    table = _table(shape, target, precision, batch_size, seq_len, fused)
    baseline = None
    if precision != "fp32":
        # Speed-ups are against the dense float32 model on the same device.
        baseline = _table(shape, target, "fp32", batch_size, seq_len, fused).dense_ms
    return Profile(
        table=table,
        attention_fit=fit_piecewise(table.heads, table.attention_ms),
        ffn_fit=fit_piecewise(table.filters, table.ffn_ms),
        shape=shape,
        batch_size=batch_size,
        seq_len=seq_len,
        precision=precision,
        target=target.name,
        device={"processor": target.device, "runtime": target.runtime, "source": "data sheet, nothing was measured"},
        source="estimated",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        baseline_ms=baseline,
        engine=precision,
    )


def _table(
    shape: EncoderShape, target: Target, precision: str, batch: int, length: int, fused: bool | None
) -> LatencyTable:
    roofline, size = Roofline.of(target, precision), _BYTES[precision]
    fusing = target.runtime in _FUSING if fused is None else fused
    heads, filters = tuple(range(shape.heads + 1)), filter_levels(shape.filters)
    tokens = batch * length
    # A removed sublayer leaves its bias to add and its norm, one kernel: part of what is fixed.
    norm = roofline.ms([elementwise(tokens * shape.hidden_size, size, 3)])
    attention = [roofline.ms(attention_kernels(shape, n, batch, length, size, fusing)) - norm * (n > 0) for n in heads]
    ffn = [roofline.ms(ffn_kernels(shape, n, batch, length, size, fusing)) - norm * (n > 0) for n in filters]
    around = [elementwise(tokens * shape.hidden_size, size) for _ in range(_FIXED_KERNELS - 2)]
    around += [product(1, batch, shape.hidden_size, shape.hidden_size, size)] * 2
    return LatencyTable(
        layers=shape.layers,
        heads=heads,
        attention_ms=_rising(attention),
        filters=filters,
        ffn_ms=_rising(ffn),
        fixed_ms=roofline.ms(around) + 2 * shape.layers * norm,
    )


def _rising(curve: Sequence[float]) -> tuple[float, ...]:
    """A curve that never falls, rounded: a wider sublayer can always be run as a narrower one padded."""
    # From the wide end: where a wider one is faster (a better fit of tiles), a narrower one can be padded to it.
    found = [round(max(0.0, value), 9) for value in curve]
    for i in reversed(range(1, len(found) - 1)):
        found[i] = min(found[i], found[i + 1])
    return tuple(found)
