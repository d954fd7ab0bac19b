"""Structured SPDY: improves the search's losses by trying whole structures.

The search (``search/knapsack.py``) is exact if the losses of sublayers add up, which they do only roughly. Here every
sublayer's loss gets a coefficient. The coefficients are changed at random, the exact search runs with each choice, and
the structure with the best score as a whole (``reconstruction/trial.py``) wins.

Source: SPDY (Frantar and Alistarh, ICML 2022), structured in ZipLM (Kurtic et al., NeurIPS 2023, section 3.2). There,
hundreds of candidates are assembled from weights that were updated separately. Here a few candidates are reconstructed
layer by layer, because later layers can compensate the losses of early ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compress.core.importance import Rankings
from compress.core.plan import Structure, Widths
from compress.search.costs import Costs
from compress.search.planner import search_full

Floats = NDArray[np.float64]

# Quanta of the budget in the search of a candidate: fewer than for the plan itself, to save time.
BUCKETS = 4_000
# Spread of the logarithm of coefficients: from the first to the last layer; of FFN against attention; of one sublayer.
DEPTH, KIND, ONE = 1.5, 0.7, 0.7
# Share of the sublayers that a local change touches.
TOUCHED = 0.3
# The search ends when so many random changes in a row lead to structures that were tried before.
_PATIENCE = 100


@dataclass(frozen=True)
class CoefficientSearch:
    """The result of a search for coefficients.

    Attributes:
        rankings: the rankings with the best coefficients.
        widths: of the best structure.
        tried: number of structures scored, the first one included.
        first: score of the structure without coefficients.
        score: the best score.
        seconds: time spent.
    """

    rankings: Rankings
    widths: Widths
    tried: int
    first: float
    score: float
    seconds: float


def search_coefficients(
    rankings: Rankings,
    costs: Costs,
    score: Callable[[Structure], float],
    *,
    candidates: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> CoefficientSearch:
    """Search for coefficients of the sublayers' losses whose structure scores best.

    Half of the candidates change all sublayers by depth and kind, half change a few sublayers. Both start from the best
    coefficients so far.

    Args:
        rankings: order of every sublayer's units, and their loss.
        costs: costs of widths, and the budget.
        score: the score of a structure; lower is better.
        candidates: most structures to score beside the first; None for no limit.
        seconds: time after which no further structure is started; None for no limit. With a time limit the result
            depends on the speed of the machine.
        seed: of the random changes.

    Returns:
        The best coefficients and their structure.

    Raises:
        ValueError: both limits are None.
        BudgetUnreachable: no structure is within the budget.
    """
    if candidates is None and seconds is None:
        raise ValueError("the search would not end: give candidates or seconds, both are None")
    start = time.perf_counter()
    generator = np.random.default_rng(seed)
    layers = len(rankings.heads)
    best = np.zeros((layers, 2))
    widths, _ = search_full(rankings, costs, buckets=BUCKETS)
    lowest = first = score(rankings.structure(widths))
    seen = {widths}
    repeated = 0
    while (
        (candidates is None or len(seen) <= candidates)
        and (seconds is None or time.perf_counter() - start < seconds)
        and repeated < _PATIENCE
    ):
        # Global and local changes in turn.
        changed = best + (_global if (len(seen) + repeated) % 2 else _local)(layers, generator)
        found, _ = search_full(replace(rankings, coefficients=np.exp(changed)), costs, buckets=BUCKETS)
        if found in seen:
            repeated += 1
            continue
        repeated = 0
        seen.add(found)
        value = score(rankings.structure(found))
        if value < lowest:
            lowest, best, widths = value, changed, found
    elapsed = time.perf_counter() - start
    return CoefficientSearch(replace(rankings, coefficients=np.exp(best)), widths, len(seen), first, lowest, elapsed)


def _global(layers: int, generator: np.random.Generator) -> Floats:
    """Tilt by depth and by kind, [layers, 2]."""
    depth = (np.arange(layers) + 0.5) / layers - 0.5
    return generator.normal(0, DEPTH) * depth[:, None] + generator.normal(0, KIND) * np.array([-0.5, 0.5])


def _local(layers: int, generator: np.random.Generator) -> Floats:
    """Change a few sublayers, [layers, 2]."""
    return generator.normal(0, ONE, (layers, 2)) * (generator.random((layers, 2)) < TOUCHED)
