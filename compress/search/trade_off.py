"""Trade-off curve: importance kept at other latency budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.errors import BudgetUnreachable
from compress.core.importance import Rankings
from compress.core.plan import Budget
from compress.search.planner import SearchProblem, make_plan

if TYPE_CHECKING:
    from compress.profile.take import Profile

# A curve is looked at: quanta of a budget that are finer than the table's errors, and 40 plans in a second.
BUCKETS = 2_000


def trade_off(rankings: Rankings, profile: Profile, length: float, seed: int = 0) -> list[dict[str, float]]:
    """Importance kept at 40 latencies between the fixed part and the dense model, for ``compress why``.

    Args:
        rankings: order of every sublayer's units, and their loss.
        profile: latency table.
        length: mean tokens of an example, for MACs.
        seed: recorded in the plans.

    Returns:
        ``latency_ms``, ``importance_kept`` and ``macs_fraction`` of each latency that can be reached.
    """
    table = profile.table
    points = []
    for step in range(1, 41):
        budget_ms = table.fixed_ms + (table.dense_ms - table.fixed_ms) * step / 40
        try:
            budget = Budget("latency_ms", budget_ms)
            problem = SearchProblem(profile.shape, budget, "full", length, profile, seed=seed)
            plan = make_plan(problem, rankings, buckets=BUCKETS)
        except BudgetUnreachable:
            continue
        points.append(
            {"latency_ms": budget_ms, "importance_kept": plan.importance_kept, "macs_fraction": plan.macs_fraction}
        )
    return points
