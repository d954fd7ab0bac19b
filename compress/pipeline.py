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
from compress.artifact import scratch_beside, staged
from compress.candidates import account, best, place
from compress.config import RunConfig, make_config
from compress.errors import ArtifactError
from compress.export.runtime import refuse_absent
from compress.fineprune.stage import fine_prune, prepare
from compress.finishing import finish_promising
from compress.loading import Loaded, deployed, load, load_model
from compress.manifest import read_manifest
from compress.measuring import Device
from compress.memory import Memory
from compress.plan import Plan
from compress.planning import limit_of
from compress.profile.roofline import estimate_profile
from compress.profile.target import Precision, offered
from compress.progress import Progress, Silent
from compress.proposing import (
    SHARE,
    dense_plan,
    given_profile,
    profiles_of,
    propose_all,
    reachable,
    refined,
    room_of,
    search,
    weighed,
)
from compress.pruning import prune
from compress.results import Finished, Proposal
from compress.sparsity.summary import artifact_is_sparse
from compress.stages import Stages
from compress.store import Store
from compress.verifying import refuse_damage
from compress.weighing import trade_off

if TYPE_CHECKING:
    from compress.memory import Foreseen
    from compress.profile.latency import Profile
    from compress.profile.shapes import Profiles


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


def run(
    config: RunConfig,
    *,
    origins: Mapping[str, str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Compress a model to its budget and write the artifact.

    Args:
        config: resolved options; data and exactly one budget are needed.
        origins: per option where its value came from, for the manifest; None leaves it out.
        resume: use again what earlier runs have stored; what this one finds is stored either way.
        progress: told about stages as they begin; None says nothing.

    Raises:
        CompressError: see ``errors.py``; nothing is written then.
    """
    from compress.writing import write_artifact

    if config.unstructured is not None:
        return _run_unstructured(config, origins, resume, progress or Silent())
    store = Store.default()
    with staged(config.output) as output, scratch_beside(output) as scratch:
        stages = Stages(progress or Silent(), Memory(store, scratch, reading=resume))
        # Read and check everything the user gave before the first second of computing.
        with stages.stage("load"):
            loaded = load(config, stages)
            config = deployed(config, loaded)
            training = prepare(config, loaded, stages)
        # The dense model, exported as the compressed one will be: baseline and pattern of every structure to time.
        with stages.stage("export dense"):
            device = open_device(config, loaded, scratch, stages)
        try:
            # How long heads and filters take on the target, in every precision in question.
            with stages.stage("profile"):
                profiles = reachable(config, loaded, profiles_of(config, loaded, device, stages), device, stages)
            # Which heads and filters the loss cares for.
            with stages.stage("calibrate"):
                importance = weighed(config, loaded, stages)
            # Which of them to keep within the budget, checked on the device before anything expensive rests on it.
            with stages.stage("search"):
                proposals = propose_all(config, loaded, importance, profiles, device, stages)
            # Carry out what is promising, and keep the most accurate.
            finished, set_aside = finish_promising(config, loaded, proposals, device, stages)
            chosen = best(finished)
            rows, why_chosen = account(proposals, finished, chosen, set_aside)
            stages.info(why_chosen)
            # Train it, if that was asked for, and measure it again.
            if training is not None:
                chosen = fine_prune(config, loaded, training, chosen, device, output, stages)
            validation = {**chosen.measured, "candidates": rows, "chosen_because": why_chosen}
            curve = trade_off(config, loaded, chosen.proposal.weighed, chosen.proposal.measured_with)
            place(chosen.exported, output)
            write_artifact(output, config, loaded, replace(chosen, validation=validation), curve, stages, origins)
        finally:
            device.close()
    return _result(config.output, chosen.proposal.plan, validation, stages)


def make_plan(config: RunConfig, *, progress: Progress | None = None) -> tuple[Plan, Profile | None]:
    """Search only: no weights are changed or written.

    A latency budget needs a profile: the one given, or one measured now. A MACs budget uses a given profile for its
    prediction and measures none, so that equal inputs give equal plans.
    """
    stages, budget = Stages(progress or Silent()), config.budget
    with stages.stage("load"):
        loaded = load(config, stages, evaluation=False)
        config = deployed(config, loaded)
    profile: Profile | None = None
    if config.profile is not None or budget.kind != "macs":
        profile = _profile_without_run(config, loaded, stages)
        limit_of(budget, loaded.shape, profile, loaded.length)
    with stages.stage("calibrate"):
        importance = weighed(config, loaded, stages)
    with stages.stage("search"):
        room = room_of(config, loaded, _planned_precision(config, loaded))
        importance = refined(config, loaded, importance, profile, stages, room)
        plan = search(config, loaded, importance, profile, SHARE, room)
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
        config = deployed(config, loaded)
    if estimate:
        precision = offered(loaded.target, config.precision)[-1]
        return estimate_profile(loaded.shape, loaded.target, precision, config.batch_size, config.seq_len)
    refuse_absent(loaded.target)
    return _profile_without_run(config, loaded, stages)


def profile_shapes(
    config: RunConfig, shapes: Sequence[tuple[int, int]], *, estimate: bool = False, progress: Progress | None = None
) -> Profiles:
    """``profile_model`` for several batch sizes and lengths, one after the other.

    Args:
        config: options; its own batch size and length are not used.
        shapes: batch sizes and lengths.
        estimate, progress: see ``profile_model``.
    """
    from compress.profile.shapes import Profiles

    each = [config.model_copy(update={"batch_size": batch, "seq_len": length}) for batch, length in shapes]
    # A length that the model does not have is said before the first one is measured.
    load_model(max(each, key=lambda one: one.seq_len))
    return Profiles(tuple(profile_model(one, estimate=estimate, progress=progress) for one in each))


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
            config = deployed(config, loaded)
            chosen = plan or dense_plan(config, loaded)
            chosen_for(loaded, chosen)
        with stages.stage("reconstruct"):
            model, repairs = prune(config, loaded, chosen, stages)
        with stages.stage("export"):
            from compress.export.engine import variants
            from compress.exporting import export_checked, export_half

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
    from compress.exporting import parity_of
    from compress.results import Exported
    from compress.writing import renew_validation

    stages = Stages(progress or Silent())
    manifest = read_manifest(artifact)
    if artifact_is_sparse(manifest):
        raise ArtifactError(
            f"'{artifact}' was made by `compress run --unstructured`: there is no latency to measure again, and its "
            "accuracy stands in validation.json; run it anew for other data"
        )
    refuse_damage(artifact)
    try:
        config = make_config({**manifest["configuration"], "output": artifact, "profile": None, **(overrides or {})})
        engine = Engine.from_json(manifest["engine"]) if "engine" in manifest else Engine()
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"'{artifact}' does not say how it was made: {error}; make it again") from None
    plan = Plan.read(artifact)
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with stages.stage("load"):
            loaded = load(config, stages)
            config = deployed(config, loaded)
            chosen_for(loaded, plan)
            model = load_artifact(artifact)
        with stages.stage("export dense"):
            device = Device.open(config, loaded, Path(scratch))
        try:
            with stages.stage("validate"):
                file = artifact / (IR if loaded.target.runtime == "openvino" else "model.onnx")
                tolerance = 1e-3 if engine.precision == "fp32" else math.inf
                parity = parity_of(file, model, loaded, tolerance)
                exported = Exported(file, engine, report_of(artifact / "model.onnx"), parity, file)
                _, validation = device.validate(plan, exported, loaded)
        finally:
            device.close()
        renew_validation(artifact, manifest, validation, config, plan, loaded.target)
    return _result(artifact, plan, validation, stages)


def foresee(config: RunConfig, *, progress: Progress | None = None) -> list[Foreseen]:
    """What ``run(config, resume=True)`` would find stored and what it would make, without making anything."""
    from compress import foreseeing

    return foreseeing.foresee(config, progress=progress)


def why(artifact: Path) -> dict[str, Any]:
    """Where an artifact's time goes by its profile, and what one millisecond more or less would have bought.

    Returns:
        ``sublayers`` (layer, kind, width, of, ms, share), ``fixed_ms``, ``total_ms``, ``one_more_ms``, ``one_less_ms``.
    """
    from compress.explaining import explain

    return explain(artifact)


def _run_unstructured(
    config: RunConfig, origins: Mapping[str, str] | None, resume: bool, progress: Progress
) -> RunResult:
    from compress.sparsity.stage import run_unstructured

    stages = Stages(progress)
    if resume:
        stages.info("--resume finds nothing stored with --unstructured; --checkpoints DIR keeps its training")
    plan, validation = run_unstructured(config, stages, origins)
    return _result(config.output, plan, validation, stages)


def _planned_precision(config: RunConfig, loaded: Loaded) -> Precision:
    """Of several precisions the fastest: what a plan without a run is for is to see what can be reached."""
    return offered(loaded.target, config.precision)[-1]


def _profile_without_run(config: RunConfig, loaded: Loaded, stages: Stages) -> Profile:
    given = given_profile(config, loaded)
    if given is not None:
        return given
    precision = _planned_precision(config, loaded)
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with stages.stage("export dense"):
            device = open_device(config, loaded, Path(scratch), stages)
        try:
            with stages.stage("profile"):
                return device.take_profile(config, loaded, device.settle(precision, loaded), stages)
        finally:
            device.close()


def chosen_for(loaded: Loaded, plan: Plan) -> None:
    """Raise PlanError unless the plan was made for this model's shape."""
    from compress.errors import PlanError

    if plan.shape != loaded.shape:
        raise PlanError(f"the plan was made for {plan.shape}, this model is {loaded.shape}; make a plan for it")


def _result(output: Path, plan: Plan, validation: dict[str, Any], stages: Stages) -> RunResult:
    from compress.validation import EXIT_CODES, apart

    validation, _ = apart(validation)
    verdict = validation["verdict"]
    return RunResult(output, plan, validation, verdict, EXIT_CODES[verdict], dict(stages.seconds))
