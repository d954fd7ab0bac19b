"""The result of a sweep: a point per measured model, and the front of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compress.stages.results import Finished


@dataclass(frozen=True)
class Point:
    """One measured model of a sweep.

    Attributes:
        budget: what was asked for; ``dense`` where nothing was pruned.
        precision, engine: of the file.
        macs_fraction: of the encoder, kept.
        latency_ms, latency_ci95: median of one call, measured.
        speedup, speedup_ci95: against the dense float32 model.
        metric, metric_ci95: on the evaluation data.
        size_bytes: of the file.
        verdict: whether the budget was met.
        refused: why it must not be used; None where it may.
        front: whether no other usable point is both faster and as accurate.
    """

    budget: str
    precision: str
    engine: str
    macs_fraction: float
    latency_ms: float
    latency_ci95: tuple[float, float]
    speedup: float
    speedup_ci95: tuple[float, float]
    metric: float
    metric_ci95: tuple[float, float]
    size_bytes: int
    verdict: str
    refused: str | None = None
    front: bool = False

    @classmethod
    def of(cls, budget: str, done: Finished) -> Point:
        """The point of a finished candidate.

        Args:
            budget: that was asked for, in words.
            done: the candidate, timed.
        """
        found = done.measured
        latency, speedup, metric = found.latency_ms, found.speedup, found.metric
        assert latency.compressed is not None and latency.ci95 is not None, "a sweep times every model"
        assert speedup.value is not None and speedup.ci95 is not None, "a sweep times every model"
        return cls(
            budget=budget,
            precision=done.exported.engine.precision,
            engine=done.exported.engine.name,
            macs_fraction=done.proposal.plan.macs_fraction,
            latency_ms=latency.compressed,
            latency_ci95=latency.ci95,
            speedup=speedup.value,
            speedup_ci95=speedup.ci95,
            metric=metric.compressed,
            metric_ci95=metric.ci95,
            size_bytes=found.size_bytes.compressed,
            verdict=found.verdict,
            refused=done.refused,
        )


@dataclass(frozen=True)
class Swept:
    """What a sweep ends with.

    Attributes:
        output: the directory with ``sweep.json`` and the picture.
        metric_name: of the evaluation.
        deployment: where the latencies hold.
        points: the dense variants, then every budget in turn.
        provenance: what went in, versions, seconds per stage.
    """

    output: Path
    metric_name: str
    deployment: dict[str, Any]
    points: tuple[Point, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "metric": self.metric_name,
            "deployment": self.deployment,
            "points": [asdict(point) for point in self.points],
            "provenance": self.provenance,
        }


def with_front(points: Sequence[Point]) -> list[Point]:
    """The points, marked where no other usable one is at least as fast and as accurate, and better in one."""

    def beaten(point: Point) -> bool:
        return any(
            other.refused is None
            and other.latency_ms <= point.latency_ms
            and other.metric >= point.metric
            and (other.latency_ms, other.metric) != (point.latency_ms, point.metric)
            for other in points
        )

    return [replace(point, front=point.refused is None and not beaten(point)) for point in points]
