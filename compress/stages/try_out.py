"""Whole structures tried out: coefficients of the sublayers' losses."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.core.importance import Importance
from compress.core.oom import with_fewer
from compress.core.trace import span
from compress.options.effort import EFFORT
from compress.search.costs import Costs
from compress.stages import cache_codecs
from compress.stages.budget_use import SHARE
from compress.stages.cache_keys import calibration_inputs, digest
from compress.stages.calibrate import LIBRARIES
from compress.stages.computing import computing
from compress.stages.context import Run
from compress.stages.stage import Inputs, Stage, stage

if TYPE_CHECKING:
    from compress.profile.take import Profile
    from compress.search.size_limit import SizeLimit

# Fewer cannot be divided into some to fit trials on and some to compare on.
LEAST_EXAMPLES = 40


def tries_out(run: Run) -> bool:
    """Whether whole structures are tried out: only for ``full``, and not with ``--effort fast``."""
    seconds, candidates = run.config.search_seconds, EFFORT[run.config.effort].candidates
    asked = candidates > 0 if seconds is None else seconds > 0
    return run.config.method == "full" and asked and len(run.loaded.calibration) >= LEAST_EXAMPLES


def refined(
    run: Run, importance: Importance, profile: Profile | None, size_limit: SizeLimit | None = None
) -> Importance:
    """Importance with the coefficients that trying out whole structures finds, where that is asked for.

    Args:
        run: budget and effort.
        importance: of heads and filters.
        profile: predicts latencies; None for a MACs budget.
        size_limit: how large the file may be; None for any size.
    """
    if not tries_out(run):
        return importance
    found = try_out(run, importance, profile, SHARE, size_limit)
    return replace(importance, rankings=replace(importance.rankings, coefficients=found))


def _inputs(
    run: Run, importance: Importance, profile: Profile | None, share: float, size_limit: SizeLimit | None
) -> Inputs:
    config = run.config
    return {
        "calibration": calibration_inputs(run),
        "budget": [config.budget.kind, config.budget.value],
        "costs": None if profile is None else digest(asdict(profile.table)),
        "share": share,
        "size_limit": None if size_limit is None else asdict(size_limit),
        "candidates": EFFORT[config.effort].candidates if config.search_seconds is None else None,
        "seconds": config.search_seconds,
    }


@computing
@stage(
    Stage("try-out", version=3, after="calibrate", depends_on=("calibrate",), libraries=LIBRARIES, optional=True),
    inputs=_inputs,
    codec=cache_codecs.ARRAY,
    of=lambda run, importance, profile, share, size_limit: "" if profile is None else profile.precision,
)
def try_out(
    run: Run, importance: Importance, profile: Profile | None, share: float, size_limit: SizeLimit | None
) -> NDArray[np.float64]:
    """Coefficients with which the search's structure is the best of those tried out as a whole.

    As many structures are tried as the effort says, or as fit into ``search_seconds``.

    Args:
        run: budget, effort and seed.
        importance: of heads and filters.
        profile: predicts latencies; None for a MACs budget.
        share: part of a latency budget to plan for.
        size_limit: how large the file may be; None for any size.

    Returns:
        Factors of the losses of attention and FFN of each layer, [layers, 2].
    """
    from compress.reconstruction.trial import AT_ONCE, Trial
    from compress.search.spdy import CoefficientSearch, search_coefficients

    config, loaded = run.config, run.loaded
    seconds = config.search_seconds
    costs = Costs.of(config.budget, loaded.shape, profile, loaded.length, share, size_limit)

    def search(at_once: int) -> CoefficientSearch:
        with loaded.compute.on(loaded.checkpoint) as dense:
            with span("dense answers"):
                trial = Trial(dense.encoder, dense.task, loaded.calibration, seed=config.seed, batch_size=at_once)
            return search_coefficients(
                importance.rankings,
                costs,
                trial.score,
                candidates=EFFORT[config.effort].candidates if seconds is None else None,
                seconds=seconds,
                seed=config.seed,
            )

    found = with_fewer(search, AT_ONCE, run.info)
    run.info(
        f"{found.tried} structures tried out in {found.seconds:.0f} s: divergence of a sketch from the dense model "
        f"{found.first:.4f}, best {found.score:.4f}"
    )
    coefficients = found.rankings.coefficients
    assert coefficients is not None
    return coefficients
