"""The result table: dense, compressed, budget and interval of each quantity, worked out once.

The terminal, the report and the card only choose and format rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from compress.artifact.validation import KeptFile, Sections
from compress.core.plan import Plan

Kind = Literal[
    "latency",
    "speedup",
    "latency unpruned",
    "speedup unpruned",
    "metric",
    "change",
    "also",
    "size",
    "macs",
    "macs of one example",
    "drift",
]
How = Literal["measured", "predicted", "estimated"]


@dataclass(frozen=True)
class Row:
    """A quantity of both models; None for what is not known.

    Attributes:
        kind: latency in ms; speed-up; both against the dense model in the same number format; metric, its paired
            change and further metrics; size of the file in bytes; MACs of the encoder as a fraction, and of one example
            as a count; largest difference of answers by batch, order and padding.
        name: of the metric, or of the number format of an unpruned model; empty for other kinds.
        dense, compressed: values, in the kind's unit.
        budget: for the compressed model, where this quantity has one.
        interval: 95 % interval of ``compressed``.
        how: latency and speed-up: measured on the device, predicted by its profile, or estimated from its data sheet.
    """

    kind: Kind
    name: str = ""
    dense: float | None = None
    compressed: float | None = None
    budget: float | None = None
    interval: tuple[float, float] | None = None
    how: How | None = None


def how_timed(validation: Sections, plan: Plan) -> How | None:
    """How latencies are known; None where they are not.

    Args:
        validation: what was measured.
        plan: says which profile it was made with.
    """
    if validation.empty:
        return None
    if validation.latency_ms is not None and validation.latency_ms.compressed is not None:
        return "measured"
    if plan.latency_source is None:
        return None
    return "estimated" if plan.estimated else "predicted"


def rows(validation: Sections, plan: Plan) -> tuple[Row, ...]:
    """Every row; those whose section the document lacks are left out.

    Args:
        validation: what was measured.
        plan: with the budget, and the fraction of MACs that it keeps.
    """
    return (*_timings(validation, plan), *_unpruned(validation, plan), *_metrics(validation), *_sizes(validation, plan))


def row_of(found: Sequence[Row], kind: Kind) -> Row:
    """The first row of a kind; one that knows nothing where there is none.

    Args:
        found: what ``rows`` gave.
        kind: which quantity.
    """
    return next((row for row in found if row.kind == kind), Row(kind))


def timing_of(kept: KeptFile) -> tuple[str, str]:
    """Latency in milliseconds and speed-up of a file beside model.onnx, in words where nothing was timed.

    Args:
        kept: what was measured on it.
    """
    ms, times, how = kept.latency_ms.compressed, kept.speedup.value, ""
    if ms is None:
        ms, times, how = kept.latency_ms.predicted, kept.speedup.predicted, " predicted"
    unknown = "not measured"
    return unknown if ms is None else f"{ms:.2f}{how}", unknown if times is None else f"{times:.2f}{how}"


def _timings(validation: Sections, plan: Plan) -> Iterator[Row]:
    how, latency, speedup = how_timed(validation, plan), validation.latency_ms, validation.speedup
    timed = how in ("measured", None)
    if latency is not None:
        yield Row(
            "latency",
            dense=latency.dense if timed else plan.dense_ms,
            compressed=latency.compressed if timed else latency.predicted,
            budget=latency.budget,
            interval=latency.ci95 if timed else None,
            how=how,
        )
    if speedup is not None:
        yield Row(
            "speedup",
            dense=1.0,
            compressed=speedup.value if timed else speedup.predicted,
            budget=plan.budget.value if plan.budget.kind == "speedup" else None,
            interval=speedup.ci95 if timed else None,
            how=how,
        )


def _unpruned(validation: Sections, plan: Plan) -> Iterator[Row]:
    """The dense model in the artifact's number format, where that is not the float32 one of the rows above."""
    found, how = validation.unpruned, how_timed(validation, plan)
    if found is None or found.precision == "fp32" or how is None:
        return
    format_, timed = found.precision, found.latency_ms is not None and found.speedup is not None
    latency = validation.latency_ms
    yield Row(
        "latency unpruned",
        format_,
        dense=found.latency_ms.value if found.latency_ms else found.predicted_ms,
        compressed=None if latency is None else latency.compressed if timed else latency.predicted,
        how=how,
    )
    yield Row(
        "speedup unpruned",
        format_,
        dense=1.0,
        compressed=found.speedup.value if found.speedup else found.predicted_speedup,
        interval=found.speedup.ci95 if found.speedup else None,
        how=how,
    )


def _metrics(validation: Sections) -> Iterator[Row]:
    metric = validation.metric
    if metric is None:
        return
    yield Row("metric", metric.name, metric.dense, metric.compressed, interval=metric.ci95)
    if metric.drop is not None:
        low, high = metric.drop.ci95
        yield Row("change", metric.name, 0.0, -metric.drop.value, interval=(-high, -low))
    # By name, as a file has them: a report is the same before and after validation.json is written.
    for name, both in sorted((metric.also or {}).items()):
        yield Row("also", name, both.dense, both.compressed)


def _sizes(validation: Sections, plan: Plan) -> Iterator[Row]:
    size, macs = validation.size_bytes, validation.macs
    if size is not None:
        yield Row("size", "", size.dense, size.compressed, size.budget)
    yield Row("macs", "", 1.0, plan.macs_fraction, plan.budget.value if plan.budget.kind == "macs" else None)
    if macs is not None:
        yield Row("macs of one example", "", macs.dense, macs.compressed)
    if validation.invariance is not None:
        yield Row("drift", compressed=validation.invariance.largest)
