"""Whole structures tried out: coefficients of the sublayers' losses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compress.core.importance import Importance
from compress.inputs.load import Loaded
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig
from compress.search.costs import Costs
from compress.stages.budget_use import SHARE

if TYPE_CHECKING:
    from compress.profile.take import Profile
    from compress.search.size_limit import SizeLimit
    from compress.stages.context import Stages

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.search.size_limit import SizeLimit
from compress.stages import cache_keys
from compress.stages.context import Stages

if TYPE_CHECKING:
    from compress.profile.take import Profile


def refined(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profile: Profile | None,
    stages: Stages,
    room: SizeLimit | None = None,
) -> Importance:
    """The same with the coefficients that trying out whole structures has found, where that is asked for."""
    if not tries_out(config, loaded):
        return importance

    def coefficients() -> NDArray[np.float64]:
        found = refine(config, loaded, importance, profile, SHARE, stages, room).rankings.coefficients
        assert found is not None
        return found

    found = stages.result(lambda: cache_keys.try_out(config, loaded, profile, SHARE, room), coefficients)
    return replace(importance, rankings=replace(importance.rankings, coefficients=found))


# Fewer cannot be divided into some to sketch with and some to compare on.
LEAST_EXAMPLES = 40


def tries_out(config: RunConfig, loaded: Loaded) -> bool:
    """Whether ``refine`` has anything to do."""
    seconds, candidates = config.search_seconds, EFFORT[config.effort].candidates
    asked = candidates > 0 if seconds is None else seconds > 0
    return config.method == "full" and asked and len(loaded.calibration) >= LEAST_EXAMPLES


def refine(
    config: RunConfig,
    loaded: Loaded,
    importance: Importance,
    profile: Profile | None,
    share: float,
    stages: Stages,
    room: SizeLimit | None = None,
) -> Importance:
    """Losses of the sublayers mended so that the search's structure is the best of those tried out as a whole.

    Only for ``full``. As many structures are tried as the effort says, or as fit into ``search_seconds``.
    """
    seconds, candidates = config.search_seconds, EFFORT[config.effort].candidates
    if not tries_out(config, loaded):
        return importance
    from compress.reconstruction.trial import Trial
    from compress.search.spdy import search_coefficients

    checkpoint, budget = loaded.checkpoint, config.budget
    sketch = Trial(checkpoint.encoder, checkpoint.task, loaded.calibration, seed=config.seed)
    found = search_coefficients(
        importance.rankings,
        Costs.of(budget, loaded.shape, profile, loaded.length, share, room),
        sketch.score,
        candidates=candidates if seconds is None else None,
        seconds=seconds,
        seed=config.seed,
    )
    stages.info(
        f"{found.tried} structures tried out in {found.seconds:.0f} s: divergence of a sketch from the dense model "
        f"{found.first:.4f}, best {found.score:.4f}"
    )
    return replace(importance, rankings=found.rankings)
