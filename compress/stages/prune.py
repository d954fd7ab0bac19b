"""A plan carried out: units removed, and what is left repaired, first sublayer by sublayer, then jointly."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from compress.core.plan import Plan
from compress.options.effort import EFFORT
from compress.stages import cache_codecs
from compress.stages.cache_keys import calibration_inputs, digest
from compress.stages.calibrate import LIBRARIES
from compress.stages.context import Run
from compress.stages.results import Repairs
from compress.stages.stage import Inputs, Stage, stage

if TYPE_CHECKING:
    from compress.data.batches import Encoded
    from compress.reconstruction.closed_form import SublayerFit


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
        "structure": digest(asdict(plan.structure)),
        "epochs": effort.epochs,
        "most_flops": effort.most_flops,
    }


@stage(
    Stage("reconstruct", version=1, after="check", libraries=LIBRARIES),
    inputs=reconstruction_inputs,
    codec=lambda run, plan: cache_codecs.pruned(run.loaded, plan),
)
def reconstruct(run: Run, plan: Plan) -> tuple[Any, Repairs]:
    """Remove units from a copy of the dense model, and fit the remaining weights to it.

    Args:
        run: model, calibration examples, method, effort.
        plan: what stays.
    """
    from compress.models.encoder import encoder_of
    from compress.pruning.removal import remove
    from compress.reconstruction import closed_form

    config, loaded = run.config, run.loaded
    model = copy.deepcopy(loaded.checkpoint.model)
    remove(model, plan.structure)
    data = loaded.calibration
    if not len(data):
        run.info("no data: weights are not reconstructed")
        return model, Repairs()
    dense, task, student = loaded.checkpoint.encoder, loaded.checkpoint.task, encoder_of(model)
    sublayers = tuple(closed_form.reconstruct(dense, student, task, data, method=config.method, seed=config.seed))
    if not sublayers:
        run.info(
            f"warning: {len(data)} examples are too few to reconstruct weights from: they stay as they were; give at "
            f"least {closed_form.LEAST_SAMPLES}"
        )
        return model, Repairs()
    if warning := _too_few(sublayers, data):
        run.info(warning)
    if config.method != "full":
        return model, Repairs(sublayers)
    from compress.reconstruction.joint import fit_jointly

    effort = EFFORT[config.effort]
    joint = fit_jointly(
        dense, student, task, data, epochs=effort.epochs, most_flops=effort.most_flops, seed=config.seed
    )
    if joint is not None:
        outcome = "kept" if joint.accepted else "not kept: it did not help on examples held out"
        run.info(
            f"joint reconstruction, {joint.steps} steps: held-out divergence from the dense model {joint.before:.4f} "
            f"to {joint.after:.4f}, {outcome}"
        )
    return model, Repairs(sublayers, joint)


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
