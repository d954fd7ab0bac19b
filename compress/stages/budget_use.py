"""How much of a latency budget a measured structure uses, and the profile corrected by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compress.core.plan import Budget, Plan
from compress.profile.take import recalibrate

if TYPE_CHECKING:
    from compress.export.measure import LatencyComparison
    from compress.profile.take import Profile

# Part of a latency budget that is planned for: the rest absorbs the error of the prediction and the width of the
# interval. Where the planned structure measures otherwise the profile is corrected and the search repeated.
SHARE = 0.968
ROUNDS = 3
# A measured structure that uses so much of the budget is good: met with room for the interval, and the budget is used.
LEAST_USED, MOST_USED = 0.94, 0.985
# Where a structure uses so much more or less than was planned for, the profile corrected by it predicts its neighbour
# well enough: the next structure is taken without timing it too.
NEAR = 0.025


def used_budget(budget: Budget, timed: LatencyComparison) -> float:
    """Measured latency as a fraction of a latency or speed-up budget.

    Args:
        budget: latency or speed-up.
        timed: the structure beside the dense model.
    """
    if budget.kind == "speedup":
        return budget.value / timed.speedup.value
    return timed.compressed.value / budget.value


def corrected(profile: Profile, plan: Plan, timed: LatencyComparison) -> Profile:
    """The profile, corrected so that it predicts what was measured for a plan's structure and for the dense model.

    Args:
        profile: that the plan was made with.
        plan: with its structure.
        timed: the structure beside the dense model.
    """
    factor = timed.dense.value / profile.dense_ms
    renewed = recalibrate(profile, plan.structure.widths, timed.compressed.value, factor * profile.table.dense_ms)
    return replace(renewed, baseline_ms=None if profile.baseline_ms is None else timed.dense.value)
