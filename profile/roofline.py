"""Roofline model: estimates a profile from the target's data sheet, for devices that are not at hand.

A kernel takes the longer of two times, plus the time to launch it:

- Compute: a matrix product is cut into tiles, and the tiles go to the processors in waves. Whole tiles and whole waves
  count, also if they are partly empty. The device's best tile size is taken.
  Source: NVIDIA, "Matrix Multiplication Background User's Guide", sections on tile and wave quantization.
- Memory: every operand is moved once, at full bandwidth. Source: Williams, Waterman and Patterson, "Roofline: an
  insightful visual performance model for multicore architectures" (2009).

The model is optimistic: it leaves out caches, clocks below the highest, and the runtime's work between kernels. It is
good for planning before a device is available. Measure on the device before you deploy.
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
from compress.profile.target import ENGINE_RUNTIMES, Target

# Bytes of a number. int8 products are accumulated and passed on in wider numbers, but reading the operands dominates.
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
# Matrix kernels read inner dimensions in steps of 16 bytes.
_STEP_BYTES = 16
# Runtimes that fuse bias, activation, residual and norm into neighbouring kernels, and attention into one kernel.
_FUSING = ENGINE_RUNTIMES
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
    """The kernel of a batch of matrix products [rows, inner] x [inner, columns].

    Args:
        batch: number of products.
        rows: of the left matrices.
        columns: of the right matrices.
        inner: columns of the left matrices, rows of the right ones.
        size: bytes of a number.

    Returns:
        The kernel, with ``columns`` and ``inner`` padded to steps of 16 bytes.
    """
    step = max(1, _STEP_BYTES // size)
    columns, inner = (step * math.ceil(n / step) for n in (columns, inner))
    moved = rows * inner + inner * columns + rows * columns
    return Kernel(float(size * batch * moved), (batch, rows, columns, inner))


def elementwise(values: int, size: int, passes: int = 2) -> Kernel:
    """A kernel that reads and writes numbers.

    Args:
        values: how many numbers.
        size: bytes of a number.
        passes: how often each number is read or written, in all.

    Returns:
        The kernel.
    """
    return Kernel(float(size * values * passes))


def attention_kernels(shape: EncoderShape, heads: int, batch: int, length: int, size: int, fused: bool) -> list[Kernel]:
    """Kernels of an attention sublayer.

    Args:
        shape: the dense encoder.
        heads: heads of the sublayer; 0 leaves only its bias, which costs no kernel.
        batch: examples per call.
        length: tokens per example.
        size: bytes of a number.
        fused: whether the runtime fuses attention and elementwise operations.

    Returns:
        The kernels in their order; empty without heads.
    """
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
    """Kernels of an FFN sublayer.

    Args:
        shape: the dense encoder.
        filters: filters of the sublayer; 0 leaves only its bias, which costs no kernel.
        batch: examples per call.
        length: tokens per example.
        size: bytes of a number.
        fused: whether the runtime fuses elementwise operations into matrix products.

    Returns:
        The kernels in their order; empty without filters.
    """
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
        bytes_per_second: memory bandwidth.
        launch_s: seconds that every kernel takes to launch.
        processors: number of units that compute one tile at a time.
        tiles: available tile sizes, rows x columns.
    """

    flops: float
    bytes_per_second: float
    launch_s: float
    processors: int
    tiles: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, target: Target, precision: str) -> Roofline:
        """Read a target's data sheet.

        Args:
            target: the device.
            precision: number format.

        Returns:
            The data sheet in this precision.

        Raises:
            TargetError: the sheet is incomplete; the message names what is missing.
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
        """Seconds of a kernel, launch included."""
        return max(self.computing(kernel), kernel.bytes / self.bytes_per_second) + self.launch_s

    def computing(self, kernel: Kernel) -> float:
        """Compute time of a matrix product in seconds; 0 for other kernels, which are bound by memory."""
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
        """Milliseconds of kernels that run one after the other."""
        return 1e3 * math.fsum(map(self.seconds, kernels))


def estimate_profile(
    shape: EncoderShape, target: Target, precision: str, batch_size: int, seq_len: int, fused: bool | None = None
) -> Profile:
    """Estimate a profile from the target's data sheet.

    Args:
        shape: the dense encoder.
        target: a target with a data sheet.
        precision: number format.
        batch_size: examples per call.
        seq_len: tokens per example.
        fused: whether the runtime fuses the operations between matrix products; None for the target's runtime's way.

    Returns:
        The profile, marked ``estimated``.

    Raises:
        TargetError: the data sheet is incomplete; the message names what is missing.
    """
    table = _table(shape, target, precision, batch_size, seq_len, fused)
    baseline = None
    if precision != "fp32":
        # The baseline of speed-ups is the dense float32 model on the same device.
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
    # A removed sublayer leaves one kernel, its bias and norm: part of the fixed latency.
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
    """A curve that never falls, rounded: a narrower sublayer can always be padded to a wider one."""
    # From the wide end: if a wider sublayer is faster (its tiles fit better), a narrower one is padded to it.
    found = [round(max(0.0, value), 9) for value in curve]
    for i in reversed(range(1, len(found) - 1)):
        found[i] = min(found[i], found[i + 1])
    return tuple(found)
