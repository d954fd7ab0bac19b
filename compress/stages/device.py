"""`Device`: the target of a run with the dense model on it, whether it is this machine or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from compress.core.plan import Plan, Widths
    from compress.export.lowering import Engine
    from compress.export.measure import LatencyComparison
    from compress.profile.latency_profile import Profile
    from compress.profile.target import Precision
    from compress.stages.results import Evaluated, Exported


class Device(Protocol):
    """What stages ask of a target. ``PresentDevice`` times; ``AbsentDevice`` predicts."""

    def dense_bytes(self, engine: Engine) -> float:
        """Size of the dense model's file as an engine has it, bytes."""
        ...

    def fastest(self, precision: Precision, widths: Widths | None = None) -> Engine:
        """The fastest form of a number format.

        Args:
            precision: number format.
            widths: of the structure to run; None is half of every sublayer, which stands for pruned ones.
        """
        ...

    def take_profile(self, engine: Engine) -> Profile:
        """The latency table of an engine."""
        ...

    def compare(self, widths: Widths, engine: Engine) -> LatencyComparison:
        """Time a structure beside the dense float32 model, before its weights exist.

        Args:
            widths: heads and filters per layer.
            engine: how it runs.

        Raises:
            TargetError: the device is not here.
        """
        ...

    def export(self, model: Any, engine: Engine) -> Exported:
        """Write a model as an engine has it, beside the dense one; layers that int8 harms stay in float.

        Args:
            model: in PyTorch.
            engine: number format and form.
        """
        ...

    def validate(self, plan: Plan, exported: Exported, profile: Profile | None = None) -> Evaluated:
        """Measure the exported file against the dense float32 one.

        Args:
            plan: what the file should be.
            exported: the file.
            profile: what predicted its latency; None takes the plan's prediction.

        Returns:
            For validation.json and outcomes.json, and the timing (None where the device is not here).
        """
        ...

    def close(self) -> None:
        """Free the sessions."""
        ...
