"""The sections of validation.json, and what their values may be.

``validation.py`` puts them together; import them from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from compress.core.statistics import Interval, Verdict

# Context of a validation that reads a file. A run may write what it measured, even NaN; a reader refuses that.
READING = {"reading": True}
# Sums of floats in another order differ by less than this; rounding to int8 by another range differs by far more.
FLOAT_SUMS = 1e-5
# Beyond this a float cannot tell two integers apart.
_MOST = 2**53


def _finite(value: float, info: ValidationInfo) -> float:
    if info.context and not math.isfinite(value):
        raise ValueError("it is not a finite number")
    return value


def _countable(value: int, info: ValidationInfo) -> int:
    if info.context and value > _MOST:
        raise ValueError("it is too large")
    return value


def _not_negative(value: float) -> float:
    # Unlike a bound of the field, this lets NaN through: see READING.
    if value < 0:
        raise ValueError("it is negative")
    return value


Number = Annotated[float, AfterValidator(_finite)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0)]
Difference = Annotated[Number, AfterValidator(_not_negative), Field(json_schema_extra={"minimum": 0})]
Count = Annotated[int, Field(ge=0), AfterValidator(_countable)]
Bounds = Annotated[tuple[Number, Number], Field(strict=False, description="Lower and upper end of a 95 % interval.")]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Counts = Annotated[tuple[Count, ...], Field(strict=False)]


class Part(BaseModel):
    """A part of validation.json.

    A key that is not set is not written. A key that a later version adds is kept.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, ser_json_inf_nan="constants")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, as the file has them."""
        return self.model_dump(mode="json", exclude_unset=True)


class Estimate(Part):
    """A measured value with its 95 % interval."""

    value: Number
    ci95: Bounds

    @classmethod
    def of(cls, found: Interval, decimals: int) -> Estimate:
        """An interval, rounded.

        Args:
            found: value and bounds.
            decimals: of all three.
        """
        return cls(value=round(found.value, decimals), ci95=bounds_of(found, decimals))

    @property
    def interval(self) -> Interval:
        """Value and bounds."""
        return Interval(self.value, *self.ci95)


def bounds_of(found: Interval, decimals: int) -> tuple[float, float]:
    """The ends of an interval, rounded.

    Args:
        found: the interval.
        decimals: of both ends.
    """
    return round(found.low, decimals), round(found.high, decimals)


class GpuLatency(Part):
    """Latency by CUDA events, without the copies to the GPU and back: milliseconds."""

    dense: Estimate
    compressed: Estimate
    speedup: Estimate
    rounds: Count
    clock_mhz: Count
    most_clock_mhz: Count


class Latency(Part):
    """Milliseconds of one call."""

    dense: Positive | None = Field(description="Median, measured; null where nothing was timed.")
    compressed: Positive | None = Field(description="Median, measured; null where nothing was timed.")
    budget: Number | None = None
    predicted: Number | None = Field(None, description="By the profile; null without one.")
    predicted_by: str | None = None
    ci95: Bounds | None = Field(description="95 % interval of the compressed model's median.")
    rounds: Count = Field(0, description="Calls of each model.")
    source: str = ""
    without_copies: GpuLatency | None = Field(None, description="On a GPU: by CUDA events.")


class Speedup(Part):
    """Latency of the dense float32 model over that of the compressed one."""

    value: Positive | None = Field(description="Ratio of medians; null where nothing was timed.")
    ci95: Bounds | None
    predicted: Number | None = Field(None, description="By the profile, where nothing was timed.")


class Unpruned(Part):
    """The dense model in the artifact's number format and form: what there would be without pruning."""

    precision: str
    latency_ms: Estimate | None = Field(description="Median of one call; null where nothing was timed.")
    speedup: Estimate | None = Field(
        description="That latency over the artifact's, both timed in turns: what pruning brings; null likewise."
    )
    rounds: Count = Field(0, description="Calls of each.")
    predicted_ms: Number | None = Field(None, description="By the profile, where nothing was timed.")
    predicted_speedup: Number | None = Field(None, description="By the profile, where nothing was timed.")
    next_budget: str | None = Field(None, description="An option that prunes, where the budget is met without pruning.")

    @property
    def sentence(self) -> str:
        """That the number format alone meets the budget, and the next budget to ask for; empty where it does not."""
        if self.next_budget is None:
            return ""
        ms = self.predicted_ms if self.latency_ms is None else self.latency_ms.value
        takes = "" if ms is None else f" It takes {ms:.3g} ms{' by the profile' if self.latency_ms is None else ''}."
        return (
            f"The dense model in {self.precision} meets the budget alone: nothing is pruned.{takes} To prune, ask for "
            f"{self.next_budget}"
        )


class Both(Part):
    """A further metric, of both models."""

    dense: Number
    compressed: Number


class Metric(Part):
    """The task's metric on the evaluation data."""

    name: str
    dense: Number
    compressed: Number
    ci95: Bounds = Field(description="95 % interval of the compressed model's metric.")
    drop: Estimate | None = Field(None, description="Dense minus compressed, paired by example.")
    examples: Count | None = None
    also: Mapping[str, Both] | None = Field(None, description="Further metrics, by name.")
    drop_of_int8: Estimate | None = Field(None, description="What int8 alone costs, against float32.")
    drop_of_fp16: Estimate | None = Field(None, description="What fp16 alone costs.")
    drop_of_fp16_emulated: Estimate | None = Field(
        None, description="What fp16 costs where every value between operators is rounded to it, as on a GPU."
    )

    def with_drop_of(self, precision: str, drop: Interval) -> Metric:
        """The same with what a number format alone costs.

        Args:
            precision: ``int8``, ``fp16`` or ``fp16_emulated``.
            drop: of the metric, against the same model in float32.
        """
        return self.model_copy(update={f"drop_of_{precision}": Estimate.of(drop, 6)})


class Size(Part):
    """Bytes of the model file."""

    dense: Annotated[Count, Field(gt=0)]
    compressed: Annotated[Count, Field(gt=0)]
    budget: Count | None = None


class Macs(Part):
    """Multiply-accumulates of the encoder for one example."""

    dense: Count
    compressed: Count
    fraction: Fraction = Field(description="That are kept.")
    length: Number = Field(description="Tokens of that example: the mean of the evaluation data.")


class Parity(Part):
    """The exported file against the same model in PyTorch."""

    max_abs_diff: Difference


class Invariance(Part):
    """Answers of each example alone against the same in other calls: the largest absolute differences."""

    batch: Difference | None = Field(description="In batches; null where only one example fits in a call.")
    order: Difference | None = Field(description="In batches of others, in random order; null likewise.")
    padding: Difference | None = Field(description="In batches padded further; null where there is no room.")
    largest: Difference = Field(description="Of the three.")
    changed: Fraction | None = Field(description="Share of examples with another decision; null without decisions.")
    examples: Count
    batch_size: Count
    padded_by: Count = Field(description="Tokens added to each batch.")

    @property
    def said(self) -> str:
        """How decisions change, in words."""
        if self.changed is None:
            return f"{self.examples} examples"
        return f"{round(self.changed * self.examples)} of {self.examples} decisions change"


class EngineForm(Part):
    """How the file runs; see ``export.lowering.Engine``."""

    precision: str
    form: str = "plain"
    scheme: str = "float"
    reduce_range: bool = False
    left_out: Names = Field((), description="Weights that int8 leaves, or nodes that stay float32 in fp16.")
    rest: str = Field("fp32", description="Number format of what int8 leaves.")
    float32_nodes: Names = Field((), description="Nodes that stay float32 where that is fp16.")
    mask: str = Field("tokens", description="What attention reads for a padding mask.")


class Deployment(Part):
    """Where the figures hold."""

    target: str
    batch_size: Annotated[int, Field(ge=1, le=10**6)]
    seq_len: Annotated[int, Field(ge=1, le=10**6)]
    precision: str | None = None
    engine: EngineForm | None = None
    device: Mapping[str, str | int] = Field(description="What the file was run on.")
    latency: str | None = Field(None, description="Source of the profile, where the target was elsewhere.")


class SliceRow(Part):
    """The metric on a part of the evaluation data."""

    name: str
    count: Count
    metric: str
    dense: Number
    compressed: Number
    ci95: Bounds
    drop: Estimate


class Slices(Part):
    """The metric on parts of the evaluation data, the largest first."""

    by: str = Field(description="What the parts are.")
    rows: Annotated[tuple[SliceRow, ...], Field(strict=False)]


class Candidate(Part):
    """A number format that the run looked at; figures are null where it was not finished."""

    precision: str
    engine: str
    macs_fraction: Fraction
    heads: Counts = Field(description="Kept in each layer.")
    filters: Counts = Field(description="Kept in each layer.")
    predicted_ms: Number | None
    left_out: Names = ()
    latency_ms: Number | None
    speedup: Number | None = None
    metric: Number | None
    drop_of_int8: Estimate | None = None
    size_bytes: Count | None
    verdict: Verdict | None = None
    outcome: str = Field(description="`chosen`, or why it was not.")


class FinePrunedFrom(Part):
    """What fine-pruning started from."""

    recipe: str
    before: Metric


class WeightsMetric(Part):
    """The metric of the dense model, the masked checkpoint and the compact file."""

    name: str
    dense: Number
    masked: Number
    compact: Number


class CompactSize(Part):
    """Bytes, dense in float32 and in the compact file."""

    dense: Count
    compact: Count


class StoredTensors(Part):
    """Tensors that the compact file stores in one way."""

    tensors: Count
    bytes: Count


class LayerWeights(Part):
    """What remains of a layer's weights."""

    layer: Count
    elements: Count
    remaining: Fraction


class Weights(Part):
    """Single weights of the encoder's linear layers, for a run with ``--unstructured``."""

    asked: Fraction = Field(description="Fraction that was to stay.")
    elements: Count
    remaining: Fraction
    remaining_compact: Fraction
    metric: WeightsMetric
    encoder_bytes: CompactSize
    file_bytes: CompactSize
    forms: Mapping[str, Count] = Field(description="Matrices by how the compact file stores them.")
    others: Mapping[str, StoredTensors] = Field(description="What is not a matrix of the encoder.")
    layers: Annotated[tuple[LayerWeights, ...], Field(strict=False)]
