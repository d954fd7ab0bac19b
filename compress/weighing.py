"""What every head and filter is worth, by the method asked for, and what that makes of other budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.broadcast import calibrating
from compress.config import RunConfig
from compress.effort import EFFORT
from compress.errors import BudgetUnreachable
from compress.importance import Importance, Rankings
from compress.loading import Loaded
from compress.plan import Budget
from compress.planning import Costs
from compress.planning import make_plan as search_plan
from compress.surgeon import rank_by_curvature

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint
    from compress.curvature import Curvature
    from compress.data import Encoded
    from compress.importance import Fisher
    from compress.layerwise import Kind
    from compress.profile.latency import Profile
    from compress.ranks import Group
    from compress.sizing import Room
    from compress.stages import Stages

# Fewer cannot be divided into some to sketch with and some to compare on.
LEAST_EXAMPLES = 40


def weigh(config: RunConfig, loaded: Loaded, stages: Stages | None = None) -> Importance:
    """``full``: structured OBS on the curvature of the loss. ``kwon``: Fisher information of the gates.

    Other processes that a launcher started do their part of the examples.

    Args:
        config: method and seed.
        loaded: model and calibration examples.
        stages: told where memory runs short.
    """
    with calibrating(config, loaded.checkpoint.fingerprint, loaded.calibration) as group:
        found = observe(config, loaded.checkpoint, loaded.calibration, group, None if stages is None else stages.info)
    if isinstance(found, dict):
        return Importance(rank_by_curvature(loaded.checkpoint.encoder, found), None)
    return Importance(Rankings.from_fisher(found), found)


def observe(
    config: RunConfig,
    checkpoint: Checkpoint,
    data: Encoded,
    group: Group | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[tuple[int, Kind], Curvature] | Fisher:
    """The sums over examples that weighing rests on: curvature for ``full``, Fisher information for ``kwon``.

    Args:
        config: method and seed.
        checkpoint: dense model and task.
        data: calibration examples.
        group: processes that share them.
        say: told where memory runs short.
    """
    encoder, task, seed = checkpoint.encoder, checkpoint.task, config.seed
    if config.method == "full":
        from compress.curvature import curvature

        return curvature(encoder, task, data, seed=seed, say=say, group=group)
    from compress.fisher import fisher_information

    free = config.label_free or None
    return fisher_information(encoder, task, data, seed=seed, label_free=free, blocks=True, say=say, group=group)


def tries_out(config: RunConfig, loaded: Loaded) -> bool:
    """Whether ``refine`` has anything to do."""
    seconds, candidates = config.search_seconds, EFFORT[config.effort].candidates
    asked = candidates > 0 if seconds is None else seconds > 0
    return config.method == "full" and asked and len(loaded.calibration) >= LEAST_EXAMPLES


def refine(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profile: Profile | None,
    share: float,
    stages: Stages,
    room: Room | None = None,
) -> Importance:
    """Losses of the sublayers mended so that the search's structure is the best of those tried out as a whole.

    Only for ``full``. As many structures are tried as the effort says, or as fit into ``search_seconds``.
    """
    seconds, candidates = config.search_seconds, EFFORT[config.effort].candidates
    if not tries_out(config, loaded):
        return importance
    from compress.allocation import improve
    from compress.sketch import Sketch

    checkpoint, budget = loaded.checkpoint, config.budget
    sketch = Sketch(checkpoint.encoder, checkpoint.task, loaded.calibration, seed=config.seed)
    found = improve(
        importance.rankings,
        Costs.of(budget, loaded.shape, profile, loaded.length, share, room),
        sketch.score,
        candidates=candidates if seconds is None else None,
        seconds=seconds,
        seed=config.seed,
    )
    stages.info(
        f"{found.tried} structures tried out in {found.seconds:.0f} s: divergence of a sketch from the dense model "
        f"{found.first:.4f}, best {found.score:.4f}"
    )
    return replace(importance, rankings=found.rankings)


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
