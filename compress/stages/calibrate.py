"""Importance of heads and filters: Fisher information (`kwon`) or structured OBS (`full`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.calibration.calibrate import observe
from compress.calibration.obs import rank_by_curvature
from compress.core.importance import Importance, Rankings
from compress.distributed.broadcast import calibrating
from compress.inputs.load import Loaded
from compress.options.run_config import RunConfig

if TYPE_CHECKING:
    from compress.stages.context import Stages

from typing import TYPE_CHECKING

from compress.stages import cache_keys
from compress.stages.context import Stages

if TYPE_CHECKING:
    pass


def weighed(config: RunConfig, loaded: Loaded, stages: Stages) -> Importance:
    """What every head and filter is worth."""
    return stages.result(lambda: cache_keys.calibrate(config, loaded), lambda: weigh(config, loaded, stages))


def weigh(config: RunConfig, loaded: Loaded, stages: Stages | None = None) -> Importance:
    """``full``: structured OBS on the curvature of the loss. ``kwon``: Fisher information of the gates.

    Other processes that a launcher started do their part of the examples.

    Args:
        config: method and seed.
        loaded: model and calibration examples.
        stages: told where memory runs short.
    """
    with calibrating(config, loaded.checkpoint.fingerprint, loaded.calibration) as group:
        found = observe(config, loaded.checkpoint, loaded.calibration, group, None if stages is None else stages.info)
    if isinstance(found, dict):
        return Importance(rank_by_curvature(loaded.checkpoint.encoder, found), None)
    return Importance(Rankings.from_fisher(found), found)
