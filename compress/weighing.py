"""What every head and filter is worth, by the method asked for, and what that makes of other budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.config import RunConfig
from compress.errors import BudgetUnreachable
from compress.loading import Loaded
from compress.plan import Budget
from compress.planning import Rankings
from compress.planning import make_plan as search_plan

if TYPE_CHECKING:
    from compress.importance import Fisher
    from compress.profile.latency import Profile


@dataclass(frozen=True)
class Importance:
    """What the search goes by.

    Attributes:
        rankings: order of every sublayer's units, and their loss.
        fisher: the paper's importance, for ``kwon``; None for ``full``.
    """

    rankings: Rankings
    fisher: Fisher | None


def weigh(config: RunConfig, loaded: Loaded) -> Importance:
    """``full``: structured OBS on the curvature of the loss. ``kwon``: Fisher information of the gates."""
    encoder, task = loaded.checkpoint.encoder, loaded.checkpoint.task
    if config.method == "full":
        from compress.curvature import curvature

        found = curvature(encoder, task, loaded.calibration, seed=config.seed)
        return Importance(Rankings.from_curvature(encoder, found), None)
    from compress.importance import fisher_information

    fisher = fisher_information(
        encoder, task, loaded.calibration, seed=config.seed, label_free=config.label_free or None, blocks=True
    )
    return Importance(Rankings.from_fisher(fisher), fisher)


def trade_off(config: RunConfig, loaded: Loaded, importance: Importance, profile: Profile) -> list[dict[str, float]]:
    """Importance kept at a row of latencies, for ``compress why``: from little above the least to the dense one."""
    table = profile.table
    points = []
    for step in range(1, 41):
        budget_ms = table.fixed_ms + (table.dense_ms - table.fixed_ms) * step / 40
        try:
            plan = search_plan(
                shape=loaded.shape,
                budget=Budget("latency_ms", budget_ms),
                method="full",
                rankings=importance.rankings,
                length=loaded.length,
                profile=profile,
                seed=config.seed,
            )
        except BudgetUnreachable:
            continue
        points.append(
            {"latency_ms": budget_ms, "importance_kept": plan.importance_kept, "macs_fraction": plan.macs_fraction}
        )
    return points
