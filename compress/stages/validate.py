"""validation.json: what was measured on the exported file, and the verdict."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.outcomes import Outcomes, combiners
from compress.artifact.validation import (
    Both,
    Deployment,
    EngineForm,
    Estimate,
    GpuLatency,
    Invariance,
    Latency,
    Macs,
    Metric,
    Parity,
    Size,
    SliceRow,
    Slices,
    Speedup,
    Unpruned,
    Validation,
    bounds_of,
)
from compress.core.plan import Plan
from compress.core.statistics import Interval, Verdict, drop_interval, score_interval, verdict_at_least, verdict_at_most
from compress.data.batches import Encoded
from compress.profile.device import describe_device
from compress.tasks import Task
from compress.tasks.measured import Measured

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.export.measure import GpuComparison, LatencyComparison
    from compress.options.run_config import RunConfig
    from compress.profile.target import Target

# A first measurement this long settles most verdicts; one that straddles the limit is measured longer.
MEASURE_SECONDS = (4.0, 8.0, 24.0)


def metric_section(
    task: Task, data: Encoded, dense: NDArray[np.float64], compressed: NDArray[np.float64]
) -> tuple[Metric, Outcomes]:
    """The metric of both models with its interval and the paired drop, and the outcome of every example.

    Without labels the metric is fidelity: how far the compressed model predicts what the dense one does.

    Args:
        task: gives the metric.
        data: evaluation examples.
        dense: outputs of the dense model's file, in the order of ``data``.
        compressed: outputs of the compressed model's file.
    """
    ours, theirs = task.evaluate(compressed, data, dense), task.evaluate(dense, data, dense)
    others = {
        mine.name: Both(dense=round(their.value, 6), compressed=round(mine.value, 6))
        for mine, their in zip(ours.also, theirs.also, strict=True)
    }
    metric = Metric(
        name=ours.name,
        dense=round(theirs.value, 6),
        compressed=round(ours.value, 6),
        ci95=bounds_of(score_interval(ours.scores, ours.combine), 6),
        drop=_drop(theirs, ours),
        examples=len(ours.scores),
    )
    if others:
        metric = metric.model_copy(update={"also": others})
    return metric, _outcomes(ours, theirs, data)


def _drop(before: Measured, after: Measured) -> Estimate:
    return Estimate.of(drop_interval(before.scores, after.scores, after.combine), 6)


def _outcomes(compressed: Measured, dense: Measured, data: Encoded) -> Outcomes:
    (how,) = [name for name, combine in combiners().items() if combine is compressed.combine]
    return Outcomes(
        metric=compressed.name,
        combine=how,
        data=data.fingerprint(),
        rows=np.round(compressed.scores, 6),
        dense=np.round(dense.scores, 6),
    )


def slices_section(
    task: Task, data: Encoded, names: Mapping[int, str], dense: NDArray[np.float64], compressed: NDArray[np.float64]
) -> Slices | None:
    """The metric of both models on parts of the evaluation data, the largest parts first.

    Args:
        task: gives the parts.
        data: evaluation examples.
        names: of the model's outputs, by number.
        dense: outputs of the dense model's file, in the order of ``data``.
        compressed: outputs of the compressed model's file.

    Returns:
        The parts; None where the task has none.
    """
    theirs = task.slices(dense, data, names, dense)
    rows = [
        SliceRow(
            name=after.name,
            count=after.count,
            metric=after.measured.name,
            dense=round(before.measured.value, 6),
            compressed=round(after.measured.value, 6),
            ci95=bounds_of(score_interval(after.measured.scores, after.measured.combine), 6),
            drop=_drop(before.measured, after.measured),
        )
        for before, after in zip(theirs, task.slices(compressed, data, names, dense), strict=True)
    ]
    rows.sort(key=lambda row: (-row.count, row.name))
    return Slices(by=task.sliced_by, rows=tuple(rows)) if rows else None


def verdict_of(plan: Plan, comparison: LatencyComparison | None) -> tuple[Verdict, str]:
    """Is the budget met? Returns the verdict and the reason in words.

    Args:
        plan: has the budget.
        comparison: what was measured; None where the target is not at hand, which settles a MACs budget alone.
    """
    budget, widths = plan.budget, plan.structure.widths
    if budget.kind == "macs":
        kept = f"{plan.macs_fraction:.4f} of the MACs kept, budget {budget.value:g}"
        return ("pass" if plan.macs_fraction <= budget.value + 1e-9 else "fail"), kept
    if comparison is None:
        how = "estimated from a data sheet" if plan.estimated else "predicted by a measured profile"
        how += ", interpolated between lengths" if "interpolated" in (plan.latency_source or "") else ""
        pruned = "" if widths != plan.shape.dense else "; nothing is pruned"
        return "inconclusive", (
            f"{_milliseconds(plan.predicted_ms)} (dense fp32 {_milliseconds(plan.dense_ms)}) are {how}, the file was "
            f"not timed{pruned}; run `compress validate` on the device"
        )
    if budget.kind == "speedup":
        if budget.value <= 1 and widths == plan.shape.dense:
            return "pass", "nothing had to be pruned: no speed-up was asked for"
        verdict = verdict_at_least(comparison.speedup, budget.value)
        return verdict, f"speed-up {_text(comparison.speedup)}, budget {budget.value:g}"
    verdict = verdict_at_most(comparison.compressed, budget.value)
    return verdict, f"latency {_text(comparison.compressed)} ms, budget {budget.value:g} ms"


def _milliseconds(value: float | None) -> str:
    return "unknown ms" if value is None else f"{value:.3f} ms"


def _text(interval: Interval) -> str:
    return f"{interval.value:.3f} (95 % interval {interval.low:.3f} to {interval.high:.3f})"


def with_size(verdict: Verdict, reason: str, size_bytes: int, limit_mb: float | None) -> tuple[Verdict, str]:
    """A verdict on latency or MACs, and the size of the file beside it: too large a file fails whatever its speed.

    Args:
        verdict: on latency or MACs.
        reason: in words.
        size_bytes: of the file.
        limit_mb: 10^6 bytes; None for no limit.
    """
    if limit_mb is None:
        return verdict, reason
    size = f"{size_bytes / 1e6:.2f} MB, limit {limit_mb:g} MB"
    return ("fail" if size_bytes > 1e6 * limit_mb else verdict), f"{reason}; {size}"


def measured_verdict(
    plan: Plan, compare: Callable[[float], LatencyComparison]
) -> tuple[LatencyComparison, Verdict, str]:
    """Measure, and measure longer while the interval straddles the limit.

    Args:
        plan: has the budget.
        compare: measures dense against compressed for so many seconds.
    """
    for seconds in MEASURE_SECONDS:
        comparison = compare(seconds)
        verdict, reason = verdict_of(plan, comparison)
        if verdict != "inconclusive":
            break
    return comparison, verdict, reason


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured on a file; ``document`` makes validation.json of it.

    Attributes:
        plan: what the file should be, with its budget.
        predicted_ms: latency that the profile predicts; None without one.
        comparison: the timing; None where nothing was timed: latencies and speed-up are then predictions.
        verdict: whether the budget is met.
        reason: why, in words.
        metric: of both models.
        sizes: bytes of the dense and the compressed ONNX file.
        size_mb: limit of the latter, 10^6 bytes; None for no limit.
        length: mean tokens of an example, at which MACs are counted.
        parity: largest absolute difference between the exported file and PyTorch.
        deployment: device, batch size, length, threads: where the latencies hold.
        unpruned: the dense model in the file's number format; None where nothing is known of it.
        slices: the metric on parts of the data; None leaves them out.
        on_gpu: the timing without copies; None on targets that are not GPUs.
        invariance: differences of answers by batch, order and padding; None where the file was not run on its target.
    """

    plan: Plan
    predicted_ms: float | None
    comparison: LatencyComparison | None
    verdict: Verdict
    reason: str
    metric: Metric
    sizes: tuple[int, int]
    size_mb: float | None
    length: float
    parity: float
    deployment: Deployment
    unpruned: Unpruned | None = None
    slices: Slices | None = None
    on_gpu: GpuComparison | None = None
    invariance: Invariance | None = None

    def document(self) -> Validation:
        """What validation.json holds."""
        dense_ms = self.plan.dense_ms if self.comparison is None else self.comparison.dense.value
        budget_ms = self.plan.budget.value if self.plan.budget.kind == "latency_ms" else None
        if dense_ms is not None:
            budget_ms = self.plan.budget.latency_ms(dense_ms)
        shape, timed = self.plan.shape, self.comparison
        parts: dict[str, Any] = {} if self.slices is None else {"slices": self.slices}
        if self.invariance is not None:
            parts["invariance"] = self.invariance
        if self.unpruned is not None:
            parts["unpruned"] = self.unpruned
        return Validation(
            latency_ms=Latency(
                dense=None if timed is None else _short(dense_ms),
                compressed=None if timed is None else _short(timed.compressed.value),
                budget=_short(budget_ms),
                predicted=_short(self.predicted_ms),
                predicted_by=None if self.plan.latency_source is None else f"{self.plan.latency_source} profile",
                ci95=None if timed is None else bounds_of(timed.compressed, 4),
                rounds=0 if timed is None else timed.rounds,
                source="measured" if timed is not None else f"not measured; {self.plan.latency_source} profile",
                **({} if self.on_gpu is None else {"without_copies": GpuLatency.model_validate(self.on_gpu.to_json())}),
            ),
            speedup=Speedup(
                value=None if timed is None else _short(timed.speedup.value),
                ci95=None if timed is None else bounds_of(timed.speedup, 4),
                **({} if timed is not None else {"predicted": _ratio(dense_ms, self.predicted_ms)}),
            ),
            metric=self.metric,
            size_bytes=Size(
                dense=self.sizes[0],
                compressed=self.sizes[1],
                **({} if self.size_mb is None else {"budget": round(1e6 * self.size_mb)}),
            ),
            macs=Macs(
                dense=round(shape.macs(shape.dense, self.length)),
                compressed=round(shape.macs(self.plan.structure.widths, self.length)),
                fraction=self.plan.macs_fraction,
                length=round(self.length, 4),
            ),
            parity=Parity(max_abs_diff=self.parity),
            verdict=self.verdict,
            reason=self.reason,
            deployment=self.deployment,
            **parts,
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ratio(dense_ms: float | None, predicted_ms: float | None) -> float | None:
    return None if dense_ms is None or not predicted_ms else round(dense_ms / predicted_ms, 4)


def deployment_section(config: RunConfig, name: str, engine: Engine, here: Target) -> Deployment:
    """Where and how a file was run, for validation.json.

    Args:
        config: batch size and length.
        name: of the target that the file is for.
        engine: how it runs.
        here: what the metric was computed on: the target itself, or the processor in its stead.
    """
    return Deployment(
        target=name,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        precision=engine.precision,
        engine=EngineForm.model_validate(engine.to_json()),
        device=describe_device(here),
    )
