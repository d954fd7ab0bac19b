"""Importance of heads and filters: Fisher information (`kwon`) or structured OBS (`full`)."""

from __future__ import annotations

from compress.calibration.calibrate import observe
from compress.calibration.obs import rank_by_curvature
from compress.core.importance import Importance, Rankings
from compress.core.trace import span
from compress.distributed.broadcast import calibrating
from compress.stages import cache_codecs
from compress.stages.cache_keys import calibration_inputs
from compress.stages.computing import computing
from compress.stages.context import Run
from compress.stages.stage import Stage, stage

LIBRARIES = ("torch", "transformers", "numpy", "scipy")


@computing
@stage(
    Stage("calibrate", version=2, after="profile", libraries=LIBRARIES),
    inputs=calibration_inputs,
    codec=cache_codecs.IMPORTANCE,
    of=lambda run: run.config.method,
)
def calibrate(run: Run) -> Importance:
    """``full``: structured OBS on the curvature of the loss. ``kwon``: Fisher information of the masks.

    Other processes that a launcher started do their part of the examples.
    """
    config, loaded = run.config, run.loaded
    with loaded.compute.on(loaded.checkpoint) as dense:
        there = config.model_copy(update={"device": dense.encoder.device.type})
        with calibrating(there, dense.fingerprint, loaded.calibration) as group, span("gradients"):
            found = observe(config, dense, loaded.calibration, group, run.info)
        if isinstance(found, dict):
            with span("removal order"):
                return Importance(rank_by_curvature(dense.encoder, found), None)
    return Importance(Rankings.from_fisher(found), found)
