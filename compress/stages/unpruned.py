"""The dense model in the artifact's number format: what there would be without pruning, and what pruning adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.artifact.validation import Estimate, Unpruned
from compress.core.plan import Budget, Plan, Widths

if TYPE_CHECKING:
    from compress.export.measure import LatencyComparison
    from compress.profile.latency_profile import Profile

# The next budget asks for this part of what the dense model takes in the number format, and no less than so many times
# what the least structure does.
NEXT, LEAST = 0.5, 1.1


def unpruned_section(
    plan: Plan,
    precision: str,
    profile: Profile | None,
    comparison: LatencyComparison | None,
    beside: LatencyComparison | None = None,
) -> Unpruned | None:
    """What validation.json says of the dense model in the artifact's number format.

    Args:
        plan: what the artifact keeps, with its budget.
        precision: the artifact's number format.
        profile: of that number format; None without one.
        comparison: the dense float32 model timed against the artifact; None where nothing was timed.
        beside: the dense model in the number format timed against the artifact; None where that is the float32 model,
            or the artifact itself.

    Returns:
        The section; None where nothing is known.
    """
    dense = plan.structure.widths == plan.shape.dense
    if comparison is None:
        return _predicted(plan, precision, profile)
    if dense:
        latency, speedup, rounds = Estimate.of(comparison.compressed, 4), Estimate(value=1.0, ci95=(1.0, 1.0)), 0
    else:
        timed = comparison if beside is None else beside
        latency, speedup, rounds = Estimate.of(timed.dense, 4), Estimate.of(timed.speedup, 4), timed.rounds
    found = Unpruned(precision=precision, latency_ms=latency, speedup=speedup, rounds=rounds or comparison.rounds)
    return _offering(found, next_budget(plan.budget, profile, latency.value, comparison.dense.value) if dense else None)


def _predicted(plan: Plan, precision: str, profile: Profile | None) -> Unpruned | None:
    if profile is None:
        return None
    dense_ms = profile.table.dense_ms
    pruned_ms = profile.table.predict(plan.structure.widths)
    found = Unpruned(
        precision=precision,
        latency_ms=None,
        speedup=None,
        predicted_ms=round(dense_ms, 4),
        predicted_speedup=round(dense_ms / pruned_ms, 4),
    )
    dense = plan.structure.widths == plan.shape.dense
    return _offering(found, next_budget(plan.budget, profile) if dense else None)


def _offering(found: Unpruned, option: str | None) -> Unpruned:
    return found if option is None else found.model_copy(update={"next_budget": option})


def next_budget(
    budget: Budget, profile: Profile | None, dense_ms: float | None = None, float32_ms: float | None = None
) -> str | None:
    """The option to ask for next where the dense model in a number format meets a latency budget.

    Args:
        budget: that is met.
        profile: of the number format; None gives no option.
        dense_ms: of the dense model in that number format; None takes the profile's.
        float32_ms: of the dense float32 model; None likewise.

    Returns:
        Such as ``--latency-ms 2.1``; None where the budget is not met, or no structure is faster than the dense model.
    """
    if profile is None:
        return None
    dense_ms, float32_ms = dense_ms or profile.table.dense_ms, float32_ms or profile.dense_ms
    limit_ms = budget.latency_ms(float32_ms)
    if limit_ms is None or dense_ms > limit_ms:
        return None
    layers = profile.shape.layers
    least_ms = profile.table.predict(Widths((0,) * layers, (0,) * layers)) * dense_ms / profile.table.dense_ms
    wanted = max(NEXT * dense_ms, LEAST * least_ms)
    if wanted >= dense_ms:
        return None
    return f"--latency-ms {wanted:.2g}" if budget.kind == "latency_ms" else f"--speedup {float32_ms / wanted:.2g}"
