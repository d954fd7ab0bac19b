"""From profiles and importance to the best plan of every precision in question, checked on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from compress.core.importance import Importance, Rankings
from compress.core.plan import Budget, Plan, Structure
from compress.inputs.load import Loaded
from compress.options.run_config import RunConfig
from compress.profile.target import Precision
from compress.search.planner import SearchProblem, describe_plan, make_plan
from compress.search.size_limit import SizeLimit
from compress.stages import cache_keys
from compress.stages.budget_use import LEAST_USED, MOST_USED, ROUNDS, SHARE, corrected, used_budget
from compress.stages.candidates import in_order
from compress.stages.context import Stages
from compress.stages.device import Device
from compress.stages.results import Proposal
from compress.stages.try_out import refined

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.export.measure import LatencyComparison
    from compress.profile.take import Profile

# Part of a size that is planned for: scales and shapes of the graph are not counted one by one.
SIZE_SHARE = 0.99
BYTES_PER_WEIGHT: dict[Precision, float] = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0}


def propose_all(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profiles: Sequence[tuple[Engine, Profile]],
    device: Device,
    stages: Stages,
) -> list[Proposal]:
    """The best plan for the budget in every precision, most promising first."""
    if config.budget.kind == "macs" and config.size_mb is None:
        # MACs are the same in every precision, and so is what trying out whole structures finds.
        importance = refined(config, loaded, importance, None, stages)
    return in_order([_propose(config, loaded, importance, *pair, device, stages) for pair in profiles])


def _propose(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    engine: Engine,
    profile: Profile,
    device: Device,
    stages: Stages,
) -> Proposal:
    """The best plan for the budget in one precision, with losses mended by trying out whole structures."""
    room = room_of(config, loaded, engine.precision, partial(device.dense_bytes, loaded, engine))
    if config.size_mb is not None or (config.budget.kind != "macs" and not _met_by_dense(config, profile, room)):
        costs = None if config.budget.kind == "macs" else profile
        importance = refined(config, loaded, importance, costs, stages, room)
    plan, profile = search_on_device(config, loaded, importance, profile, device, engine, stages)
    return Proposal(engine, profile, plan, importance)


def search_on_device(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profile: Profile,
    device: Device,
    engine: Engine,
    stages: Stages,
) -> tuple[Plan, Profile]:
    """Search, time the planned structure, and search again with a corrected profile where the two disagree.

    A profile that was given is taken as it is: equal inputs then give equal plans.

    Returns:
        The plan that uses the budget best of those measured within it; where none was, the last, which rests on all
        corrections. And the profile that predicts it.
    """
    budget, room = config.budget, room_of(config, loaded, engine.precision, partial(device.dense_bytes, loaded, engine))
    if budget.kind == "macs":
        # The plan of a MACs budget rests on nothing measured; the profile is there for `compress why`.
        return search(config, loaded, importance, profile if config.profile else None, 1.0, room), profile
    if _met_by_dense(config, profile, room):
        by = " by the estimate" if profile.source == "estimated" else ""
        stages.info(f"the dense model in {engine.precision} already meets {budget}{by}: nothing is pruned")
        return dense_plan(config, loaded, profile), profile
    plan = search(config, loaded, importance, profile, SHARE, room)
    if config.profile is not None or profile.source == "estimated":
        return plan, profile
    within: list[tuple[float, Plan, Profile]] = []
    for number in range(ROUNDS):
        timed = _timed(config, loaded, plan, profile, device, engine, stages)
        used = used_budget(budget, timed)
        stages.info(f"planned {engine.precision} structure measured at {used:.1%} of the budget (round {number + 1})")
        if LEAST_USED <= used <= MOST_USED:
            return plan, profile
        profile = corrected(profile, plan, timed)
        if used <= MOST_USED:
            predicted = round(profile.table.predict(plan.structure.widths), 6)
            within.append((used, replace(plan, predicted_ms=predicted, dense_ms=profile.dense_ms), profile))
        replanned = search(config, loaded, importance, profile, SHARE, room)
        if replanned.structure == plan.structure:
            break
        plan = replanned
    if not within:
        return plan, profile
    _, plan, profile = max(within, key=lambda found: found[0])
    return plan, profile


def _timed(
    config: RunConfig,
    loaded: Loaded,
    plan: Plan,
    profile: Profile,
    device: Device,
    engine: Engine,
    stages: Stages,
) -> LatencyComparison:
    """A planned structure, timed beside the dense model."""
    return stages.result(
        lambda: cache_keys.check(config, loaded, engine, plan, profile),
        lambda: device.compare(loaded, plan.structure.widths, engine),
    )


def search(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profile: Profile | None,
    share: float,
    room: SizeLimit | None = None,
) -> Plan:
    """The structure that loses least within so much of the budget."""
    problem = SearchProblem(
        loaded.shape, config.budget, config.method, loaded.length, profile, share, config.seed, room
    )
    return make_plan(problem, importance.rankings, importance.fisher)


def room_of(
    config: RunConfig, loaded: Loaded, precision: Precision, dense_bytes: Callable[[], float] | None = None
) -> SizeLimit | None:
    """How large the file may be in a number format; None where no size was asked for.

    Args:
        dense_bytes: gives the size of the dense file in that format; None takes it from the number of weights.
    """
    if config.size_mb is None:
        return None
    width = BYTES_PER_WEIGHT[precision]
    if dense_bytes is not None:
        dense = dense_bytes()
    else:
        dense = width * sum(weight.numel() for weight in loaded.checkpoint.model.parameters())
    return SizeLimit.of(config.size_mb * SIZE_SHARE, loaded.shape, dense, width)


def _met_by_dense(config: RunConfig, profile: Profile, room: SizeLimit | None) -> bool:
    """Whether the dense model, in the profile's precision, is within a latency budget and small enough."""
    if room is not None and not room.fits(Structure.dense(profile.shape).widths):
        return False
    return profile.table.dense_ms <= (config.budget.latency_ms(profile.dense_ms) or 0.0)


def dense_plan(config: RunConfig, loaded: Loaded, profile: Profile | None = None) -> Plan:
    """The plan that keeps everything."""
    structure = Structure.dense(loaded.shape)
    budget = config.budget_given or Budget("macs", 1.0)
    problem = SearchProblem(loaded.shape, budget, config.method, loaded.length, profile, seed=config.seed)
    return describe_plan(problem, structure, Rankings.none(), 0.0)
