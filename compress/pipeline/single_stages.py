"""Commands that run some of the stages: plan, profile, export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.directory import staged
from compress.artifact.files import BESIDE, MODEL
from compress.core.errors import PlanError
from compress.core.plan import Plan
from compress.core.progress import Progress, Silent
from compress.export.lowering import usable_variants
from compress.export.runtime import refuse_absent, require_builder
from compress.inputs.load import Loaded, load, load_model, settle_seq_len
from compress.inputs.precisions import candidates, formats_to_keep
from compress.inputs.torch_state import own_torch_state
from compress.options.run_config import RunConfig
from compress.profile.roofline import estimate_profile
from compress.profile.target import Precision
from compress.search.costs import budget_limit
from compress.stages.absent_device import here
from compress.stages.budget_use import SHARE
from compress.stages.calibrate import calibrate
from compress.stages.context import Run
from compress.stages.export import export_as
from compress.stages.open_device import open_device
from compress.stages.profile import given_profile
from compress.stages.prune import prune
from compress.stages.results import Finished, Kept, Proposal
from compress.stages.search import dense_plan, search, size_limit_by_weights
from compress.stages.stage import Stages
from compress.stages.try_out import refined
from compress.stages.write import write_artifact

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.profile.profiles import Profiles
    from compress.profile.take import Profile
    from compress.stages.results import Exported


@own_torch_state()
def make_plan(config: RunConfig, *, progress: Progress | None = None) -> tuple[Plan, Profile | None]:
    """Search only: no weights are changed or written.

    A latency budget needs a profile: the one given, or one measured now. A MACs budget uses a given profile for its
    prediction and measures none, so that equal inputs give equal plans.

    Args:
        config: resolved options, with data and a budget.
        progress: told about stages as they begin; None says nothing.

    Returns:
        The plan, and the profile that it was searched with; None without one.
    """
    stages, budget = Stages(progress or Silent()), config.budget
    with stages.stage("load"):
        loaded = load(config, stages, evaluation=False)
    run = Run(settle_seq_len(config, loaded), loaded, stages)
    profile: Profile | None = None
    if config.profile is not None or budget.kind != "macs":
        profile = _profile_alone(run)
        budget_limit(budget, loaded.shape, profile, loaded.length)
    with stages.stage("calibrate"):
        importance = calibrate(run)
    with stages.stage("search"):
        size_limit = size_limit_by_weights(run, _planned_precision(run))
        plan = search(run, refined(run, importance, profile, size_limit), profile, SHARE, size_limit)
    return plan, profile


@own_torch_state()
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
        loaded = load_model(config, stages)
        config = settle_seq_len(config, loaded)
    if estimate:
        precision = candidates(config, loaded.target)[-1]
        return estimate_profile(loaded.shape, loaded.target, precision, config.batch_size, config.seq_len)
    refuse_absent(loaded.target)
    return _profile_alone(Run(config, loaded, stages))


@own_torch_state()
def profile_shapes(
    config: RunConfig, shapes: Sequence[tuple[int, int]], *, estimate: bool = False, progress: Progress | None = None
) -> Profiles:
    """``profile_model`` for several batch sizes and lengths, one after the other.

    Args:
        config: options; its own batch size and length are not used.
        shapes: batch sizes and lengths.
        estimate: see ``profile_model``.
        progress: see ``profile_model``.
    """
    from compress.profile.profiles import Profiles

    each = [config.model_copy(update={"batch_size": batch, "seq_len": length}) for batch, length in shapes]
    # A length that the model does not have is said before the first one is measured.
    load_model(max(each, key=lambda one: one.seq_len))
    return Profiles(tuple(profile_model(one, estimate=estimate, progress=progress) for one in each))


@own_torch_state()
def export_plan(config: RunConfig, plan: Plan | None, *, progress: Progress | None = None) -> Path:
    """Export the dense model, or a plan applied to it, reconstructed where data is given; measures nothing.

    Args:
        config: resolved options.
        plan: what stays; None keeps everything.
        progress: told about stages as they begin; None says nothing.

    Returns:
        The directory written.

    Raises:
        PlanError: the plan was made for another model.
    """
    stages = Stages(progress or Silent())
    with staged(config.output) as output:
        with stages.stage("load"):
            loaded = load(config, stages, evaluation=False) if config.data else load_model(config, stages)
            require_builder(loaded.target)
            run = Run(settle_seq_len(config, loaded), loaded, stages)
            chosen = plan or dense_plan(run)
            refuse_other_shape(loaded, chosen)
        with stages.stage("reconstruct"):
            model, repairs = prune(run, chosen)
        with stages.stage("export"), tempfile.TemporaryDirectory(prefix="compress-") as scratch:
            first = candidates(config, loaded.target)[0]
            others = [name for name in formats_to_keep(config, loaded.target) if name != first]
            engine, exported = _exported(run, model, first, output / MODEL, Path(scratch))
            kept = [
                Kept(BESIDE[name], _exported(run, model, name, output / BESIDE[name], Path(scratch))[1])
                for name in others
            ]
        done = Finished(Proposal(engine, None, chosen), model, repairs, exported, None, kept=tuple(kept))
        write_artifact(output, run, done, [])
    return config.output


def _exported(run: Run, model: Any, precision: Precision, path: Path, scratch: Path) -> tuple[Engine, Exported]:
    """The model in the default form of a number format, and that form."""
    loaded = run.loaded
    engine = usable_variants(loaded.target, precision, run.config.int8, len(loaded.calibration))[0]
    return engine, export_as(engine, model, path, here(loaded), scratch / f"float-{precision}.onnx", run.stages)


def _planned_precision(run: Run) -> Precision:
    """Of several precisions the fastest: a plan without a run is there to see what can be reached."""
    return candidates(run.config, run.loaded.target)[-1]


def _profile_alone(run: Run) -> Profile:
    """The profile that was given, or one measured now."""
    given = given_profile(run)
    if given is not None:
        return given
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with run.stages.stage("export dense"):
            device = open_device(run, Path(scratch)).device
        try:
            with run.stages.stage("profile"):
                return device.take_profile(device.fastest(_planned_precision(run)))
        finally:
            device.close()


def refuse_other_shape(loaded: Loaded, plan: Plan) -> None:
    """Raise PlanError unless the plan was made for this model's shape.

    Args:
        loaded: the model.
        plan: made for some model.
    """
    if plan.shape != loaded.shape:
        raise PlanError(f"the plan was made for {plan.shape}, this model is {loaded.shape}; make a plan for it")
