"""A plan carried out: units removed, and what is left repaired, first sublayer by sublayer, then jointly."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from compress.core.plan import Plan
from compress.inputs.load import Loaded
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig
from compress.stages.context import Stages
from compress.stages.results import Repairs

if TYPE_CHECKING:
    from compress.data.batches import Encoded
    from compress.reconstruction.closed_form import SublayerFit


def prune(config: RunConfig, loaded: Loaded, plan: Plan, stages: Stages) -> tuple[Any, Repairs]:
    """A copy of the dense model with the plan carried out and, where there is data, reconstructed."""
    from compress.models.encoder import encoder_of
    from compress.pruning.removal import remove
    from compress.reconstruction.closed_form import LEAST_SAMPLES, reconstruct

    model = copy.deepcopy(loaded.checkpoint.model)
    if plan.structure.widths == plan.shape.dense:
        return model, Repairs()
    remove(model, plan.structure)
    data = loaded.calibration
    if not len(data):
        stages.info("no data: weights are not reconstructed")
        return model, Repairs()
    dense, task, student = loaded.checkpoint.encoder, loaded.checkpoint.task, encoder_of(model)
    sublayers = tuple(reconstruct(dense, student, task, data, method=config.method, seed=config.seed))
    if not sublayers:
        stages.info(
            f"warning: {len(data)} examples are too few to reconstruct weights from: they stay as they were; give at "
            f"least {LEAST_SAMPLES}"
        )
        return model, Repairs()
    if warning := _too_few(sublayers, data):
        stages.info(warning)
    if config.method != "full":
        return model, Repairs(sublayers)
    from compress.reconstruction.joint import fit_jointly

    effort = EFFORT[config.effort]
    joint = fit_jointly(
        dense, student, task, data, epochs=effort.epochs, most_flops=effort.most_flops, seed=config.seed
    )
    if joint is not None:
        outcome = "kept" if joint.accepted else "not kept: it did not help on examples held out"
        stages.info(
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
