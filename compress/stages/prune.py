"""A plan carried out: units removed, and what is left repaired, first sublayer by sublayer, then jointly."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from compress.core.oom import with_fewer
from compress.core.plan import Plan
from compress.core.trace import span
from compress.options.effort import EFFORT
from compress.stages import cache_codecs
from compress.stages.cache_keys import calibration_inputs, digest
from compress.stages.calibrate import LIBRARIES
from compress.stages.computing import computing
from compress.stages.context import Run
from compress.stages.results import Repairs
from compress.stages.stage import Inputs, Stage, stage

if TYPE_CHECKING:
    from compress.data.batches import Encoded
    from compress.inputs.checkpoint import Checkpoint
    from compress.models.encoder import Encoder
    from compress.reconstruction.closed_form import SublayerFit
    from compress.reconstruction.joint import JointFit


def prune(run: Run, plan: Plan) -> tuple[Any, Repairs]:
    """A copy of the dense model with the plan carried out and, where there is data, reconstructed.

    Args:
        run: model, calibration examples, method, effort.
        plan: what stays.

    Returns:
        The pruned model, and what was done about its loss.
    """
    # A copy of the dense model is sooner made than stored.
    whole = plan.structure.widths == plan.shape.dense
    return (copy.deepcopy(run.loaded.checkpoint.model), Repairs()) if whole else reconstruct(run, plan)


def reconstruction_inputs(run: Run, plan: Plan) -> Inputs:
    """What a reconstructed model depends on.

    Args:
        run: model, calibration examples, method, effort.
        plan: what stays.
    """
    effort = EFFORT[run.config.effort]
    return {
        "calibration": calibration_inputs(run),
        "further": run.loaded.further.fingerprint(),
        "structure": digest(asdict(plan.structure)),
        "epochs": [effort.epochs, effort.most_epochs],
        "most_flops": effort.most_flops,
    }


# Examples in a forward pass, and in a step of joint reconstruction.
AT_ONCE = 32


@computing
@stage(
    Stage("reconstruct", version=8, after="check", libraries=LIBRARIES),
    inputs=reconstruction_inputs,
    codec=lambda run, plan: cache_codecs.pruned(run.loaded, plan),
)
def reconstruct(run: Run, plan: Plan) -> tuple[Any, Repairs]:
    """Remove units from a copy of the dense model, and fit the remaining weights to it.

    Args:
        run: model, calibration examples, method, effort.
        plan: what stays.
    """
    if len(run.loaded.calibration):
        return with_fewer(lambda at_once: _repaired(run, plan, at_once), AT_ONCE, run.info)
    run.info("no data: weights are not reconstructed")
    return _bare(run, plan), Repairs()


def _bare(run: Run, plan: Plan) -> Any:
    """A copy of the dense model without the units that a plan does not keep."""
    from compress.pruning.removal import remove

    model = copy.deepcopy(run.loaded.checkpoint.model)
    remove(model, plan.structure)
    return model


def _repaired(run: Run, plan: Plan, at_once: int) -> tuple[Any, Repairs]:
    """The pruned model fitted to the dense one, where PyTorch computes, with so many examples at once."""
    from compress.models.encoder import encoder_of

    model = _bare(run, plan)
    with run.loaded.compute.on(run.loaded.checkpoint) as dense:
        repairs = _fitted(run, dense, encoder_of(model.to(dense.encoder.device)), at_once)
    return model.cpu(), repairs


def _fitted(run: Run, there: Checkpoint, student: Encoder, at_once: int) -> Repairs:
    """Fits a pruned model, in place: sublayer by sublayer, then jointly."""
    from compress.reconstruction import closed_form, joint
    from compress.reconstruction.material import BATCH_SIZE, Length, Material

    config, data, dense, task = run.config, run.loaded.calibration, there.encoder, there.task
    effort = EFFORT[config.effort]
    length = Length(effort.epochs, effort.most_epochs, effort.most_flops)
    trains = config.method == "full" and effort.epochs > 0 and len(data) >= joint.LEAST_SAMPLES
    # What judges the joint training must be as new to the first fit as to the training.
    material = Material.of(data, run.loaded.further, config.seed).affordable(dense.shape, length)
    fitted = material.fitted if trains else data
    # Both look at the same examples; in the same batches, the dense model needs to run once.
    lessons = joint.lessons_of(dense, task, material) if trains and at_once == BATCH_SIZE else None
    with span("sublayer by sublayer"):
        found = closed_form.reconstruct(
            dense,
            student,
            task,
            fitted,
            method=config.method,
            seed=config.seed,
            batch_size=at_once,
            heard=None if lessons is None else lessons.hear,
        )
    sublayers = tuple(found)
    if not sublayers:
        run.info(
            f"warning: {len(data)} examples are too few to reconstruct weights from: they stay as they were; give at "
            f"least {closed_form.LEAST_SAMPLES}"
        )
        return Repairs()
    if warning := _too_few(sublayers, data):
        run.info(warning)
    if not trains:
        return Repairs(sublayers)
    with span("jointly"):
        fit = joint.fit_jointly(
            dense,
            student,
            task,
            material,
            length=length,
            seed=config.seed,
            at_once=at_once,
            lessons=lessons,
        )
    if fit is not None:
        run.info(_of_joint(fit))
    return Repairs(sublayers, fit)


def _of_joint(fit: JointFit) -> str:
    """What joint reconstruction did, in one line."""
    if fit.rate is None:
        return (
            f"joint reconstruction left out: a pilot did not lower the held-out divergence from the dense model, "
            f"{fit.before:.4f}"
        )
    kept = "kept" if fit.share == 1 else f"kept {fit.share:.0%} of the way, which helps more than all of it"
    outcome = kept if fit.accepted else "not kept: it did not help on examples held out"
    return (
        f"joint reconstruction, {fit.steps} steps on {fit.examples} examples at a rate of {fit.rate:g}: held-out "
        f"divergence from the dense model {fit.before:.4f} to {fit.after:.4f}, {outcome}"
    )


def _too_few(sublayers: tuple[SublayerFit, ...], data: Encoded) -> str | None:
    """What to say where a sublayer had fewer equations than unknowns; None where none had."""
    short = [s for s in sublayers if s.equations < s.width]
    if not short:
        return None
    worst = max(short, key=lambda s: s.width / max(1, s.equations))
    needed = math.ceil(len(data) * worst.width / max(1, worst.equations))
    return (
        f"warning: {len(data)} examples give {worst.equations} equations for the {worst.width} inputs of "
        f"{worst.kind} in layer {worst.layer}; its weights stay near the original ones. About {needed} examples would "
        "be enough"
    )
