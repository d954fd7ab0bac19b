"""Commands that run some of the stages: plan, profile, export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.artifact.directory import staged
from compress.core.plan import Plan
from compress.core.progress import Progress, Silent
from compress.export.runtime import refuse_absent
from compress.inputs.load import Loaded, deployed, load, load_model
from compress.options.run_config import RunConfig
from compress.profile.roofline import estimate_profile
from compress.profile.target import Precision, offered_precisions
from compress.search.costs import budget_limit
from compress.stages.absent_device import here, open_device
from compress.stages.budget_use import SHARE
from compress.stages.calibrate import weighed
from compress.stages.context import Stages
from compress.stages.profile import given_profile
from compress.stages.prune import prune
from compress.stages.results import Finished, Proposal
from compress.stages.search import dense_plan, room_of, search
from compress.stages.try_out import refined

if TYPE_CHECKING:
    from compress.profile.profiles import Profiles
    from compress.profile.take import Profile


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
        budget_limit(budget, loaded.shape, profile, loaded.length)
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
        precision = offered_precisions(loaded.target, config.precision)[-1]
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
    from compress.profile.profiles import Profiles

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
    from compress.stages.write import write_artifact

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
            from compress.export.lowering import variants
            from compress.stages.export import export_checked, export_half

            precision = offered_precisions(loaded.target, config.precision)[0]
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


def _planned_precision(config: RunConfig, loaded: Loaded) -> Precision:
    """Of several precisions the fastest: what a plan without a run is for is to see what can be reached."""
    return offered_precisions(loaded.target, config.precision)[-1]


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
    from compress.core.errors import PlanError

    if plan.shape != loaded.shape:
        raise PlanError(f"the plan was made for {plan.shape}, this model is {loaded.shape}; make a plan for it")
