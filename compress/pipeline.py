"""The stages of a run, in order: load, profile, calibrate, search, remove, reconstruct, export, validate.

Each public function is one command of the command line. The work of a stage is done elsewhere; here is what follows
what.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.absent import here, open_device
from compress.artifact import staged
from compress.candidates import Finished, Proposal, account, best, hopeless, in_order, place
from compress.config import RunConfig
from compress.errors import BudgetUnreachable
from compress.export.runtime import refuse_absent
from compress.loading import Loaded, load, load_model
from compress.manifest import read_manifest
from compress.measuring import Device, corrected, used_budget
from compress.plan import Plan
from compress.planning import Rankings, describe_plan, limit_of
from compress.planning import make_plan as search_plan
from compress.profile.roofline import estimate_profile
from compress.profile.target import of_its_device, offered
from compress.progress import Progress, Silent
from compress.pruning import prune
from compress.sensitivity import refusal_of
from compress.stages import Stages
from compress.weighing import Importance, refine, trade_off, weigh

if TYPE_CHECKING:
    from compress.export.engine import Engine
    from compress.profile.latency import Profile

# Part of a latency budget that is planned for: what it leaves absorbs the error of the prediction and the width of the
# interval. Where the planned structure measures otherwise the profile is corrected and the search repeated.
SHARE = 0.968
ROUNDS = 3
# Times that a structure is built, for the case that the finished file misses a budget that its check met.
ATTEMPTS = 2
# A measured structure that uses so much of the budget is good: met with room for the interval, and the budget is used.
LEAST_USED, MOST_USED = 0.95, 0.985


@dataclass(frozen=True)
class RunResult:
    """What a run ends with.

    Attributes:
        output: the artifact; None where none was written.
        plan: what was kept.
        validation: what ``validation.json`` holds.
        verdict: pass, fail or inconclusive.
        exit_code: of the verdict: 0, 1 or 2.
        seconds: per stage.
    """

    output: Path | None
    plan: Plan
    validation: dict[str, Any]
    verdict: str
    exit_code: int
    seconds: dict[str, float] = field(default_factory=dict)


def run(config: RunConfig, *, progress: Progress | None = None) -> RunResult:
    """Compress a model to its budget and write the artifact.

    Args:
        config: resolved options; data and exactly one budget are needed.
        progress: told about stages as they begin; None says nothing.

    Raises:
        CompressError: see ``errors.py``; nothing is written then.
    """
    from compress.writing import write_artifact

    stages = Stages(progress or Silent())
    with staged(config.output) as output, tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        # Read and check everything the user gave before the first second of computing.
        with stages.stage("load"):
            loaded = load(config, stages)
        # The dense model, exported as the compressed one will be: baseline and pattern of every structure to time.
        with stages.stage("export dense"):
            device = open_device(config, loaded, Path(scratch), stages)
        try:
            # How long heads and filters take on the target, in every precision in question.
            with stages.stage("profile"):
                profiles = reachable(config, loaded, profiles_of(config, loaded, device, stages), stages)
            # Which heads and filters the loss cares for.
            with stages.stage("calibrate"):
                importance = weigh(config, loaded)
            # Which of them to keep within the budget, checked on the device before anything expensive rests on it.
            with stages.stage("search"):
                proposals = propose_all(config, loaded, importance, profiles, device, stages)
            # Carry out what is promising, and keep the most accurate.
            finished, set_aside = finish_promising(config, loaded, proposals, device, stages)
            chosen = best(finished)
            rows, why_chosen = account(proposals, finished, chosen, set_aside)
            stages.info(why_chosen)
            validation = {**chosen.measured, "candidates": rows, "chosen_because": why_chosen}
            curve = trade_off(config, loaded, chosen.proposal.weighed, chosen.proposal.measured_with)
            place(chosen.exported, output)
            write_artifact(output, config, loaded, replace(chosen, validation=validation), curve, stages)
        finally:
            device.close()
    return _result(config.output, chosen.proposal.plan, validation, stages)


def propose_all(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profiles: Sequence[tuple[Engine, Profile]],
    device: Device,
    stages: Stages,
) -> list[Proposal]:
    """The best plan for the budget in every precision, most promising first."""
    if config.budget.kind == "macs":
        # MACs are the same in every precision, and so is what trying out whole structures finds.
        importance = refine(config, loaded, importance, None, SHARE, stages)
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
    if config.budget.kind != "macs" and not _met_by_dense(config, profile):
        importance = refine(config, loaded, importance, profile, SHARE, stages)
    plan, profile = _search_on_device(config, loaded, importance, profile, device, engine, stages)
    return Proposal(engine, profile, plan, importance)


def finish_promising(
    config: RunConfig, loaded: Loaded, proposals: Sequence[Proposal], device: Device, stages: Stages
) -> tuple[list[Finished], dict[str, str]]:
    """Carry out proposals, most promising first; and why others were not, by precision."""
    finished: list[Finished] = []
    set_aside: dict[str, str] = {}
    for proposal in proposals:
        reason = hopeless(proposal, finished)
        if reason is None:
            finished.append(finish(config, loaded, proposal, device, stages))
        else:
            set_aside[proposal.engine.precision] = reason
    return finished, set_aside


def finish(config: RunConfig, loaded: Loaded, proposal: Proposal, device: Device, stages: Stages) -> Finished:
    """Carry a proposal out: prune, reconstruct, export, measure; once more where the file misses the budget."""
    engine, plan, profile, importance = proposal.engine, proposal.plan, proposal.measured_with, proposal.weighed
    for attempt in range(1, ATTEMPTS + 1):
        # Take out what the plan does not keep, and fit what is left to the dense model.
        with stages.stage("reconstruct"):
            model, repairs = prune(config, loaded, plan, stages)
        # Write the file and measure it.
        with stages.stage("export"):
            exported = device.export(model, loaded, engine, config.int8_drop, stages)
        stages.info(exported.summary())
        with stages.stage("validate"):
            timed, validation = device.validate(plan, exported, loaded, profile)
        stages.info(validation["reason"])
        refused = refusal_of(validation, exported, loaded, config.int8_drop)
        done = validation["verdict"] == "pass" or config.budget.kind == "macs" or config.profile or refused
        if done or timed is None or attempt == ATTEMPTS:
            break
        # The device has become slower, or the check was lucky: what the file itself shows counts.
        profile = corrected(profile, plan, timed)
        with stages.stage("search"):
            plan, profile = _search_on_device(config, loaded, importance, profile, device, engine, stages)
    return Finished(replace(proposal, profile=profile, plan=plan), model, repairs, exported, validation, refused)


def make_plan(config: RunConfig, *, progress: Progress | None = None) -> tuple[Plan, Profile | None]:
    """Search only: no weights are changed or written.

    A latency budget needs a profile: the one given, or one measured now. A MACs budget uses a given profile for its
    prediction and measures none, so that equal inputs give equal plans.
    """
    stages = Stages(progress or Silent())
    with stages.stage("load"):
        loaded = load(config, stages, evaluation=False)
    profile: Profile | None = None
    if config.profile is not None or config.budget.kind != "macs":
        profile = _profile_without_run(config, loaded, stages)
        limit_of(config.budget, loaded.shape, profile, loaded.length)
    with stages.stage("calibrate"):
        importance = weigh(config, loaded)
    with stages.stage("search"):
        importance = refine(config, loaded, importance, profile, SHARE, stages)
        plan = _search(config, loaded, importance, profile, SHARE)
    return plan, profile


def profile_model(config: RunConfig, *, estimate: bool = False, progress: Progress | None = None) -> Profile:
    """Measure the model's latency table on the target; data is optional, latency does not depend on it.

    Args:
        config: options.
        estimate: take the target's data sheet instead of measuring.
        progress: told about stages as they begin.

    Raises:
        TargetError: the target is not here, or lacks a data sheet.
    """
    stages = Stages(progress or Silent())
    with stages.stage("load"):
        loaded = load_model(config)
    if estimate:
        precision = offered(loaded.target, config.precision)[-1]
        return estimate_profile(loaded.shape, loaded.target, precision, config.batch_size, config.seq_len)
    refuse_absent(loaded.target)
    return _profile_without_run(config, loaded, stages)


def export_plan(config: RunConfig, plan: Plan | None, *, progress: Progress | None = None) -> Path:
    """Export the dense model, or a plan applied to it, reconstructed where data is given; measures nothing.

    Returns:
        The directory written.

    Raises:
        PlanError: the plan was made for another model.
    """
    from compress.writing import write_artifact

    stages = Stages(progress or Silent())
    with staged(config.output) as output:
        with stages.stage("load"):
            loaded = load(config, stages, evaluation=False) if config.data else load_model(config)
            chosen = plan or dense_plan(config, loaded)
            chosen_for(loaded, chosen)
        with stages.stage("reconstruct"):
            model, repairs = prune(config, loaded, chosen, stages)
        with stages.stage("export"):
            from compress.export.engine import variants
            from compress.measuring import export_checked, export_half

            precision = offered(loaded.target, config.precision)[0]
            engine = variants(loaded.target, precision)[0]
            if engine.precision == "fp16":
                with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
                    unquantized = Path(scratch) / "float.onnx"
                    exported = export_half(model, output / "model.onnx", here(loaded), engine, unquantized, stages)
            else:
                exported = export_checked(model, output / "model.onnx", here(loaded), engine)
        done = Finished(Proposal(engine, None, chosen), model, repairs, exported, None)
        write_artifact(output, config, loaded, done, [], stages)
    return config.output


def validate_artifact(
    artifact: Path, overrides: Mapping[str, Any] | None = None, *, progress: Progress | None = None
) -> RunResult:
    """Measure an artifact again, here and now, and renew its validation.json.

    Args:
        artifact: directory that ``run`` or ``export`` wrote.
        overrides: options that replace the artifact's own (``eval_data``, ``target``, ``batch_size``, ...).
        progress: told about stages as they begin.
    """
    from compress.artifact import load as load_artifact
    from compress.export.engine import Engine
    from compress.export.onnx import report_of
    from compress.export.openvino import IR
    from compress.measuring import Exported, parity_of
    from compress.writing import renew_validation

    stages = Stages(progress or Silent())
    manifest = read_manifest(artifact)
    plan = Plan.read(artifact)
    config = RunConfig(**{**manifest["configuration"], "output": artifact, "profile": None, **(overrides or {})})
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with stages.stage("load"):
            loaded = load(config, stages)
            chosen_for(loaded, plan)
            model = load_artifact(artifact)
        with stages.stage("export dense"):
            device = Device.open(config, loaded, Path(scratch))
        try:
            with stages.stage("validate"):
                file = artifact / (IR if loaded.target.runtime == "openvino" else "model.onnx")
                engine = Engine.from_json(manifest["engine"]) if "engine" in manifest else Engine()
                tolerance = 1e-3 if engine.precision == "fp32" else math.inf
                parity = parity_of(file, model, loaded, tolerance)
                exported = Exported(file, engine, report_of(artifact / "model.onnx"), parity, file)
                _, validation = device.validate(plan, exported, loaded)
        finally:
            device.close()
        renew_validation(artifact, manifest, validation, config, plan)
    return _result(artifact, plan, validation, stages)


def why(artifact: Path) -> dict[str, Any]:
    """Where an artifact's time goes by its profile, and what one millisecond more or less would have bought.

    Returns:
        ``sublayers`` (layer, kind, width, of, ms, share), ``fixed_ms``, ``total_ms``, ``one_more_ms``, ``one_less_ms``.
    """
    from compress.explaining import explain

    return explain(artifact)


def _given_profile(config: RunConfig, loaded: Loaded) -> Profile | None:
    """The profile of ``--profile``, checked against this model and deployment; None where none was given."""
    if config.profile is None:
        return None
    from compress.profile.latency import Profile

    profile = Profile.read(config.profile)
    profile.matches(
        loaded.shape,
        config.batch_size,
        config.seq_len,
        loaded.target,
        None if config.precision == "auto" else config.precision,
    )
    of_its_device(profile.device, loaded.target)
    return profile


def profiles_of(config: RunConfig, loaded: Loaded, device: Device, stages: Stages) -> list[tuple[Engine, Profile]]:
    """Engine and profile of every precision in question."""
    given = _given_profile(config, loaded)
    found = []
    for precision in offered(loaded.target, config.precision if given is None else given.precision):
        engine = device.settle(precision, loaded)
        found.append((engine, given or device.take_profile(config, loaded, engine, stages)))
    return found


def reachable(
    config: RunConfig, loaded: Loaded, profiles: Sequence[tuple[Engine, Profile]], stages: Stages
) -> list[tuple[Engine, Profile]]:
    """Those that can meet the budget at all.

    Raises:
        BudgetUnreachable: none can.
    """
    found: list[tuple[Engine, Profile]] = []
    unreachable: BudgetUnreachable | None = None
    for engine, profile in profiles:
        try:
            limit_of(config.budget, loaded.shape, profile, loaded.length)
            found.append((engine, profile))
        except BudgetUnreachable as error:
            stages.info(f"{engine.precision}: {error}")
            unreachable = error
    if not found and unreachable is not None:
        raise unreachable
    return found


def _profile_without_run(config: RunConfig, loaded: Loaded, stages: Stages) -> Profile:
    given = _given_profile(config, loaded)
    if given is not None:
        return given
    # Of several precisions the fastest: what a plan without a run is for is to see what can be reached.
    precision = offered(loaded.target, config.precision)[-1]
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with stages.stage("export dense"):
            device = open_device(config, loaded, Path(scratch), stages)
        try:
            with stages.stage("profile"):
                return device.take_profile(config, loaded, device.settle(precision, loaded), stages)
        finally:
            device.close()


def _search(config: RunConfig, loaded: Loaded, importance: Importance, profile: Profile | None, share: float) -> Plan:
    return search_plan(
        shape=loaded.shape,
        budget=config.budget,
        method=config.method,
        rankings=importance.rankings,
        length=loaded.length,
        profile=profile,
        fisher=importance.fisher,
        share=share,
        seed=config.seed,
    )


def _search_on_device(
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
    budget = config.budget
    if budget.kind == "macs":
        # The plan of a MACs budget rests on nothing measured; the profile is there for `compress why`.
        return _search(config, loaded, importance, profile if config.profile else None, 1.0), profile
    if _met_by_dense(config, profile):
        by = " by the estimate" if profile.source == "estimated" else ""
        stages.info(f"the dense model in {engine.precision} already meets {budget}{by}: nothing is pruned")
        return dense_plan(config, loaded, profile), profile
    plan = _search(config, loaded, importance, profile, SHARE)
    if config.profile is not None or profile.source == "estimated":
        return plan, profile
    within: list[tuple[float, Plan, Profile]] = []
    for number in range(ROUNDS):
        timed = device.compare(loaded, plan.structure.widths, engine)
        used = used_budget(budget, timed)
        stages.info(f"planned {engine.precision} structure measured at {used:.1%} of the budget (round {number + 1})")
        if LEAST_USED <= used <= MOST_USED:
            return plan, profile
        profile = corrected(profile, plan, timed)
        if used <= MOST_USED:
            predicted = round(profile.table.predict(plan.structure.widths), 6)
            within.append((used, replace(plan, predicted_ms=predicted, dense_ms=profile.dense_ms), profile))
        replanned = _search(config, loaded, importance, profile, SHARE)
        if replanned.structure == plan.structure:
            break
        plan = replanned
    if not within:
        return plan, profile
    _, plan, profile = max(within, key=lambda found: found[0])
    return plan, profile


def _met_by_dense(config: RunConfig, profile: Profile) -> bool:
    """Whether the dense model, in the profile's precision, is within a latency budget."""
    return profile.table.dense_ms <= (config.budget.latency_ms(profile.dense_ms) or 0.0)


def dense_plan(config: RunConfig, loaded: Loaded, profile: Profile | None = None) -> Plan:
    from compress.plan import Budget, Structure

    structure = Structure.dense(loaded.shape)
    budget = config.budget_given or Budget("macs", 1.0)
    return describe_plan(
        loaded.shape, structure, budget, config.method, Rankings.none(), loaded.length, profile, 0.0, config.seed
    )


def chosen_for(loaded: Loaded, plan: Plan) -> None:
    """Raise PlanError unless the plan was made for this model's shape."""
    from compress.errors import PlanError

    if plan.shape != loaded.shape:
        raise PlanError(f"the plan was made for {plan.shape}, this model is {loaded.shape}; make a plan for it")


def _result(output: Path, plan: Plan, validation: dict[str, Any], stages: Stages) -> RunResult:
    from compress.validation import EXIT_CODES

    verdict = validation["verdict"]
    return RunResult(output, plan, validation, verdict, EXIT_CODES[verdict], dict(stages.seconds))
