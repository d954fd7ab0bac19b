"""validation.json: what was measured on the exported file, and the verdict."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.validation import OUTCOMES_FORMAT, combiners
from compress.core.plan import Plan
from compress.core.statistics import Interval, Verdict, drop_interval, score_interval, verdict_at_least, verdict_at_most
from compress.data.batches import Encoded
from compress.profile.target import describe_device
from compress.tasks import Task
from compress.tasks.base import Measured

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.export.measure import GpuComparison, LatencyComparison
    from compress.options.run_config import RunConfig
    from compress.profile.target import Target

# A first measurement this long settles most verdicts; one that straddles the limit is measured longer.
MEASURE_SECONDS = (6.0, 12.0, 24.0)


def metric_section(
    task: Task, data: Encoded, dense: NDArray[np.float64], compressed: NDArray[np.float64]
) -> dict[str, Any]:
    """The metric of both models with its interval, and the paired drop.

    Without labels the metric is fidelity: how far the compressed model predicts what the dense one does.

    Args:
        task: gives the metric.
        data: evaluation examples.
        dense, compressed: outputs of the exported models, in the order of ``data``.
    """
    ours, theirs = task.evaluate(compressed, data, dense), task.evaluate(dense, data, dense)
    own, drop = score_interval(ours.scores, ours.combine), drop_interval(theirs.scores, ours.scores, ours.combine)
    others = {
        mine.name: {"dense": round(their.value, 6), "compressed": round(mine.value, 6)}
        for mine, their in zip(ours.also, theirs.also, strict=True)
    }
    return {
        "name": ours.name,
        "dense": round(theirs.value, 6),
        "compressed": round(ours.value, 6),
        "ci95": [round(v, 6) for v in own.as_list()],
        "drop": {"value": round(drop.value, 6), "ci95": [round(v, 6) for v in drop.as_list()]},
        "examples": len(ours.scores),
        **({"also": others} if others else {}),
        "outcomes": _outcomes(ours, theirs, data),
    }


def _outcomes(compressed: Measured, dense: Measured, data: Encoded) -> dict[str, Any]:
    """What each example contributes to the metric, for comparisons with other artifacts example by example."""
    (how,) = [name for name, combine in combiners().items() if combine is compressed.combine]
    return {
        "format": OUTCOMES_FORMAT,
        "metric": compressed.name,
        "combine": how,
        "evaluation_sha256": data.fingerprint(),
        "compressed": np.round(compressed.scores, 6).tolist(),
        "dense": np.round(dense.scores, 6).tolist(),
    }


def slices_section(
    task: Task, data: Encoded, names: Mapping[int, str], dense: NDArray[np.float64], compressed: NDArray[np.float64]
) -> dict[str, Any]:
    """The metric of both models on parts of the evaluation data, the largest parts first.

    Args:
        task, data, dense, compressed: as for ``metric_section``.
        names: of the model's outputs, by number.

    Returns:
        ``by`` (what the parts are) and ``rows``; empty where the task has no parts.
    """
    theirs = task.slices(dense, data, names, dense)
    rows: list[dict[str, Any]] = []
    for before, after in zip(theirs, task.slices(compressed, data, names, dense), strict=True):
        ours = after.measured
        drop = drop_interval(before.measured.scores, ours.scores, ours.combine)
        rows.append(
            {
                "name": after.name,
                "count": after.count,
                "metric": ours.name,
                "dense": round(before.measured.value, 6),
                "compressed": round(ours.value, 6),
                "ci95": [round(v, 6) for v in score_interval(ours.scores, ours.combine).as_list()],
                "drop": {"value": round(drop.value, 6), "ci95": [round(v, 6) for v in drop.as_list()]},
            }
        )
    rows.sort(key=lambda row: (-row["count"], row["name"]))
    return {"by": task.sliced_by, "rows": rows} if rows else {}


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
    """A verdict on latency or MACs, and the size of the file beside it: too large a file fails whatever its speed."""
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


def document(
    *,
    plan: Plan,
    predicted_ms: float | None,
    comparison: LatencyComparison | None,
    verdict: Verdict,
    reason: str,
    metric: Mapping[str, Any],
    sizes: tuple[int, int],
    size_mb: float | None,
    length: float,
    parity: float,
    deployment: Mapping[str, Any],
    slices: Mapping[str, Any] | None = None,
    on_gpu: GpuComparison | None = None,
) -> dict[str, Any]:
    """validation.json as plain JSON types.

    Args:
        predicted_ms: latency that the profile predicts; None without one.
        comparison: what was timed; None where nothing was: latencies and speed-up are then None, but for predictions.
        sizes: bytes of the dense and the compressed ONNX file.
        size_mb: what the latter was limited to, 10^6 bytes; None for no limit.
        length: mean tokens of an example, at which MACs are counted.
        parity: largest absolute difference between the exported file and PyTorch.
        deployment: device, batch size, length, threads: where the latencies hold.
        slices: see ``slices_section``; None or empty leaves them out.
        on_gpu: what was timed without copies; None on targets that are no GPUs.
    """
    dense_ms = plan.dense_ms if comparison is None else comparison.dense.value
    budget_ms = plan.budget.value if plan.budget.kind == "latency_ms" else None
    if dense_ms is not None:
        budget_ms = plan.budget.latency_ms(dense_ms)
    shape = plan.shape
    return {
        "latency_ms": {
            "dense": None if comparison is None else _short(dense_ms),
            "compressed": None if comparison is None else _short(comparison.compressed.value),
            "budget": _short(budget_ms),
            "predicted": _short(predicted_ms),
            "predicted_by": None if plan.latency_source is None else f"{plan.latency_source} profile",
            "ci95": None if comparison is None else [_short(v) for v in comparison.compressed.as_list()],
            "rounds": 0 if comparison is None else comparison.rounds,
            "source": "measured" if comparison is not None else f"not measured; {plan.latency_source} profile",
            **({} if on_gpu is None else {"without_copies": on_gpu.to_json()}),
        },
        "speedup": {
            "value": None if comparison is None else _short(comparison.speedup.value),
            "ci95": None if comparison is None else [_short(v) for v in comparison.speedup.as_list()],
            **({} if comparison is not None else {"predicted": _ratio(dense_ms, predicted_ms)}),
        },
        "metric": dict(metric),
        "size_bytes": {
            "dense": sizes[0],
            "compressed": sizes[1],
            **({} if size_mb is None else {"budget": round(1e6 * size_mb)}),
        },
        "macs": {
            "dense": round(shape.macs(shape.dense, length)),
            "compressed": round(shape.macs(plan.structure.widths, length)),
            "fraction": plan.macs_fraction,
            "length": round(length, 4),
        },
        "parity": {"max_abs_diff": parity},
        "verdict": verdict,
        "reason": reason,
        "deployment": dict(deployment),
        **({"slices": dict(slices)} if slices else {}),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _ratio(dense_ms: float | None, predicted_ms: float | None) -> float | None:
    return None if dense_ms is None or not predicted_ms else round(dense_ms / predicted_ms, 4)


def deployment_section(config: RunConfig, name: str, engine: Engine, here: Target) -> dict[str, Any]:
    """Where and how a file was run, for validation.json.

    Args:
        config: batch size and length.
        name: of the target that the file is for.
        engine: how it runs.
        here: what the metric was computed on: the target itself, or the processor in its stead.
    """
    return {
        "target": name,
        "batch_size": config.batch_size,
        "seq_len": config.seq_len,
        "precision": engine.precision,
        "engine": engine.to_json(),
        "device": describe_device(here),
    }
