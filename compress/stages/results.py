"""Results of stages: plain values that later stages, commands and the artifact read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.artifact.outcomes import Outcomes
    from compress.artifact.validation import Validation
    from compress.core.importance import Importance
    from compress.core.plan import Plan
    from compress.export.lowering import Engine
    from compress.export.measure import LatencyComparison
    from compress.export.onnx import ExportReport
    from compress.profile.latency_profile import Profile
    from compress.reconstruction.closed_form import SublayerFit
    from compress.reconstruction.joint import JointFit


@dataclass(frozen=True)
class ChosenTarget:
    """One of several targets.

    Attributes:
        name: as ``--target`` takes it.
        why: the reason, in words.
    """

    name: str
    why: str


@dataclass(frozen=True)
class Exported:
    """A written model file.

    Attributes:
        path: what the target's runtime loads.
        engine: what was done to the graph on the way.
        report: operators and size.
        parity: largest absolute difference from PyTorch on real examples, padding included.
        float_path: the same weights in float32; ``path`` itself where nothing was quantized.
    """

    path: Path
    engine: Engine
    report: ExportReport
    parity: float
    float_path: Path

    def summary(self) -> str:
        """One line for people: size, opset, fused operators, parity."""
        fused = ", ".join(f"{count} {name}" for name, count in sorted(self.report.fusions.items())) or "none"
        return (
            f"{self.engine.name}, {self.report.size_bytes / 1e6:.1f} MB, opset {self.report.opset}, "
            f"fused operators: {fused}; differs from PyTorch by at most {self.parity:.1e}"
        )


@dataclass(frozen=True)
class FinePruned:
    """What fine-pruning did, for the manifest.

    Attributes:
        recipe: with all its numbers.
        teacher: its name; None without one.
        examples: trained on.
        phases: name, steps, best step, loss on held-out examples before and after, why it stopped early.
        metric_before: of the post-training result, on the evaluation data.
        processes: that trained together; with others dropout draws otherwise.
    """

    recipe: dict[str, Any]
    teacher: str | None
    examples: int
    phases: tuple[dict[str, Any], ...]
    metric_before: float
    processes: int = 1


@dataclass(frozen=True)
class Repairs:
    """What was done about the loss that removal leaves.

    Attributes:
        sublayers: what became of every sublayer; empty where nothing was reconstructed.
        joint: what joint reconstruction did; None where there was none.
        fine_pruned: what fine-pruning did; None where there was none.
    """

    sublayers: tuple[SublayerFit, ...] = ()
    joint: JointFit | None = None
    fine_pruned: FinePruned | None = None


@dataclass(frozen=True)
class Proposal:
    """A plan in a precision.

    Attributes:
        engine: how it runs.
        profile: what it was planned with; None for a plan that was given.
        plan: what it keeps.
        importance: what it was searched with; None for a plan that was given.
    """

    engine: Engine
    profile: Profile | None
    plan: Plan
    importance: Importance | None = None

    @property
    def measured_with(self) -> Profile:
        """``profile``, where it is there."""
        assert self.profile is not None
        return self.profile

    @property
    def weighed(self) -> Importance:
        """``importance``, where it is there."""
        assert self.importance is not None
        return self.importance

    @property
    def loss(self) -> float:
        """What the search expects to lose, as a fraction of the importance."""
        return 1.0 - self.plan.importance_kept


@dataclass(frozen=True)
class Evaluated:
    """What was measured on a model file.

    Attributes:
        validation: for validation.json.
        outcomes: of every evaluation example, for outcomes.json.
        timed: dense against compressed; None where the target was not here to be timed.
    """

    validation: Validation
    outcomes: Outcomes
    timed: LatencyComparison | None = None


@dataclass(frozen=True)
class Kept:
    """A file beside model.onnx: the chosen model in another number format.

    Attributes:
        name: in the artifact.
        exported: the file.
        validation: what was measured on it; None where nothing was.
    """

    name: str
    exported: Exported
    validation: Validation | None = None


@dataclass(frozen=True)
class Finished:
    """A proposal carried out and measured.

    Attributes:
        proposal: with the plan and the profile as they were at the end.
        model, repairs: the pruned model, and what was done about its loss.
        exported: its file.
        validation: what was measured; None where nothing was.
        refused: why it must not be used; None where it may.
        outcomes: of every evaluation example; None where nothing was measured.
        kept: the same model in other number formats; empty where none were asked for.
    """

    proposal: Proposal
    model: Any
    repairs: Repairs
    exported: Exported
    validation: Validation | None
    refused: str | None = None
    outcomes: Outcomes | None = None
    kept: tuple[Kept, ...] = ()

    @property
    def accepted(self) -> bool:
        """Within the budget, and not refused."""
        return self.refused is None and self.measured.verdict == "pass"

    @property
    def measured(self) -> Validation:
        """``validation``, where it is there."""
        assert self.validation is not None
        return self.validation

    @property
    def metric(self) -> float:
        """On the evaluation data."""
        return self.measured.metric.compressed
