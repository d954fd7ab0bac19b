"""From profiles and importance to the best plan of every precision in question, checked on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.core.importance import Importance, Rankings
from compress.core.plan import Budget, Plan, Structure
from compress.profile.target import Precision
from compress.search.planner import SearchProblem, describe_plan, make_plan
from compress.search.size_limit import SizeLimit
from compress.stages import cache_codecs
from compress.stages.budget_use import LEAST_USED, MOST_USED, NEAR, ROUNDS, SHARE, corrected, used_budget
from compress.stages.cache_keys import deployment_inputs, digest
from compress.stages.candidates import in_order
from compress.stages.context import Run
from compress.stages.present_device import RUNTIMES
from compress.stages.results import Proposal
from compress.stages.stage import Stage, stage
from compress.stages.try_out import refined
from compress.stages.unpruned import next_budget

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.export.measure import LatencyComparison
    from compress.profile.take import Profile

# Part of a size that is planned for: scales and shapes of the graph are not counted one by one.
SIZE_SHARE = 0.99
BYTES_PER_WEIGHT: dict[Precision, float] = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0}


def propose_all(run: Run, importance: Importance, profiles: Sequence[tuple[Engine, Profile]]) -> list[Proposal]:
    """The best plan for the budget in every precision, most promising first.

    Args:
        run: with its device.
        importance: of heads and filters.
        profiles: engine and profile of every precision in question.
    """
    if run.config.budget.kind == "macs" and run.config.size_mb is None:
        # MACs are the same in every precision, and so is what trying out whole structures finds.
        importance = refined(run, importance, None)
    return in_order([_propose(run, importance, engine, profile) for engine, profile in profiles])


def _propose(run: Run, importance: Importance, engine: Engine, profile: Profile) -> Proposal:
    """The best plan for the budget in one precision, with losses mended by trying out whole structures."""
    config, size_limit = run.config, size_limit_of(run, engine)
    if config.size_mb is not None or (config.budget.kind != "macs" and not _met_by_dense(run, profile, size_limit)):
        importance = refined(run, importance, None if config.budget.kind == "macs" else profile, size_limit)
    plan, profile = search_on_device(run, importance, engine, profile)
    return Proposal(engine, profile, plan, importance)


def search_again(
    run: Run, importance: Importance, engine: Engine, plan: Plan, profile: Profile, timed: LatencyComparison
) -> tuple[Plan, Profile]:
    """Search once more, after the finished file of a plan was timed.

    Args:
        run: with its device.
        importance: of heads and filters.
        engine: number format and form.
        plan: what the file keeps.
        profile: predicted its latency.
        timed: the file beside the dense model.

    Returns:
        As for ``search_on_device``. The next structure is not timed where the file was nearly as planned.
    """
    profile = corrected(profile, plan, timed)
    if abs(used_budget(run.config.budget, timed) - SHARE) <= NEAR:
        return search(run, importance, profile, SHARE, size_limit_of(run, engine)), profile
    return search_on_device(run, importance, engine, profile)


def search_on_device(run: Run, importance: Importance, engine: Engine, profile: Profile) -> tuple[Plan, Profile]:
    """Search, time the planned structure, and search again with a corrected profile where the two disagree.

    A profile that was given is taken as it is: equal inputs then give equal plans.

    Args:
        run: with its device.
        importance: of heads and filters.
        engine: number format and form.
        profile: the engine's.

    Returns:
        The plan that uses the budget best of those measured within it; where none was, or the last is hardly another
        than the one measured before, the last, which rests on all corrections. And the profile that predicts it.
    """
    config, budget, size_limit = run.config, run.config.budget, size_limit_of(run, engine)
    if budget.kind == "macs":
        # The plan of a MACs budget rests on nothing measured; the profile is there for `compress why`.
        return search(run, importance, profile if config.profile else None, 1.0, size_limit), profile
    if _met_by_dense(run, profile, size_limit):
        by = " by the estimate" if profile.source == "estimated" else ""
        following = next_budget(budget, profile)
        run.info(
            f"the dense model in {engine.precision} already meets {budget}{by}: nothing is pruned"
            + (f"; to prune, ask for {following}" if following else "")
        )
        return dense_plan(run, profile), profile
    plan = search(run, importance, profile, SHARE, size_limit)
    if config.profile is not None or profile.source == "estimated":
        return plan, profile
    within: list[tuple[float, Plan, Profile]] = []
    for number in range(ROUNDS):
        timed = _time_plan(run, engine, plan, profile)
        used = used_budget(budget, timed)
        run.info(f"planned {engine.precision} structure measured at {used:.1%} of the budget (round {number + 1})")
        if LEAST_USED <= used <= MOST_USED:
            return plan, profile
        profile = corrected(profile, plan, timed)
        if used <= MOST_USED:
            predicted = round(profile.table.predict(plan.structure.widths), 6)
            within.append((used, replace(plan, predicted_ms=predicted, dense_ms=profile.dense_ms), profile))
        replanned = search(run, importance, profile, SHARE, size_limit)
        if replanned.structure == plan.structure:
            break
        plan = replanned
        if abs(used - SHARE) <= NEAR:
            return plan, profile
    if not within:
        return plan, profile
    _, plan, profile = max(within, key=lambda found: found[0])
    return plan, profile


@stage(
    Stage("check", version=5, after="try-out", depends_on=("form",), libraries=RUNTIMES, measured=True, optional=True),
    # The profile that a structure was planned with tells one check from the next.
    inputs=lambda run, engine, plan, profile: {
        "deployment": deployment_inputs(run),
        "engine": engine.to_json(),
        "plan": digest(plan.to_json()),
        "profile": digest(profile.to_json()),
    },
    codec=cache_codecs.TIMED,
    of=lambda run, engine, plan, profile: engine.precision,
)
def _time_plan(run: Run, engine: Engine, plan: Plan, profile: Profile) -> LatencyComparison:
    """A planned structure, timed beside the dense model."""
    return run.device.compare(plan.structure.widths, engine)


def search(
    run: Run, importance: Importance, profile: Profile | None, share: float, size_limit: SizeLimit | None = None
) -> Plan:
    """The structure that loses least within a part of the budget.

    Args:
        run: budget, method, seed.
        importance: of heads and filters.
        profile: predicts latencies; None is enough for a MACs budget.
        share: part of a latency budget to plan for.
        size_limit: how large the file may be; None for any size.

    Raises:
        BudgetUnreachable: no structure is within the budget.
    """
    config, loaded = run.config, run.loaded
    problem = SearchProblem(
        loaded.shape, config.budget, config.method, loaded.length, profile, share, config.seed, size_limit
    )
    return make_plan(problem, importance.rankings, importance.fisher)


def size_limit_of(run: Run, engine: Engine) -> SizeLimit | None:
    """How large the file may be; None where no size was asked for.

    Args:
        run: with its device, which knows the size of the dense file.
        engine: number format and form.
    """
    if run.config.size_mb is None:
        return None
    return _size_limit(run, engine.precision, run.device.dense_bytes(engine))


def size_limit_by_weights(run: Run, precision: Precision) -> SizeLimit | None:
    """The same without a device: the dense file's size is taken from the number of weights.

    Args:
        run: the limit and the model.
        precision: number format of the file.
    """
    weights = sum(weight.numel() for weight in run.loaded.checkpoint.model.parameters())
    return None if run.config.size_mb is None else _size_limit(run, precision, BYTES_PER_WEIGHT[precision] * weights)


def _size_limit(run: Run, precision: Precision, dense_bytes: float) -> SizeLimit:
    assert run.config.size_mb is not None
    return SizeLimit.of(run.config.size_mb * SIZE_SHARE, run.loaded.shape, dense_bytes, BYTES_PER_WEIGHT[precision])


def _met_by_dense(run: Run, profile: Profile, size_limit: SizeLimit | None) -> bool:
    """Whether the dense model, in the profile's precision, is within a latency budget and small enough."""
    if size_limit is not None and not size_limit.fits(Structure.dense(profile.shape).widths):
        return False
    return profile.table.dense_ms <= (run.config.budget.latency_ms(profile.dense_ms) or 0.0)


def dense_plan(run: Run, profile: Profile | None = None) -> Plan:
    """The plan that keeps everything.

    Args:
        run: model and options; without a budget the plan is for all MACs.
        profile: predicts its latency; None predicts none.
    """
    config, loaded = run.config, run.loaded
    structure = Structure.dense(loaded.shape)
    budget = config.budget_given or Budget("macs", 1.0)
    problem = SearchProblem(loaded.shape, budget, config.method, loaded.length, profile, seed=config.seed)
    return describe_plan(problem, structure, Rankings.none(), 0.0)
