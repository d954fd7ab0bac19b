"""Which widths, improved on whole structures: structured SPDY.

The exact search (``search/knapsack.py``) is exact for losses of sublayers that add up, which they do only roughly. Here
the loss of every sublayer gets a coefficient; coefficients are changed at random, the exact search is run with each
choice, and whichever structure turns out best as a whole (``reconstruction/trial.py``) is taken.

Source: SPDY (Frantar and Alistarh, ICML 2022), structured in ZipLM (Kurtic et al., NeurIPS 2023, section 3.2). There,
hundreds of candidates are stitched from weights that were updated alone; here a few are reconstructed in order, since
what later layers make up for decides how much an early one may lose.
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

# Quanta of the budget in the search of a candidate: fewer than for the plan itself, for the sake of time.
BUCKETS = 4_000
# Spread of the logarithm of coefficients: from the first to the last layer; of FFN against attention; of one sublayer.
DEPTH, KIND, ONE = 1.5, 0.7, 0.7
# Of the sublayers, how many a local change touches.
TOUCHED = 0.3
# Random changes may lead to structures seen already; so many in a row and the search is at its end.
_PATIENCE = 100


@dataclass(frozen=True)
class Improved:
    """What trying out structures has found.

    Attributes:
        rankings: with the best coefficients.
        widths: of the best structure.
        tried: structures scored, the first one included.
        first, score: score of the structure without coefficients, and the best.
        seconds: spent.
    """

    rankings: Rankings
    widths: Widths
    tried: int
    first: float
    score: float
    seconds: float


def improve(
    rankings: Rankings,
    costs: Costs,
    score: Callable[[Structure], float],
    *,
    candidates: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Improved:
    """Look for coefficients of the sublayers' losses whose structure scores best.

    Half of the candidates change all sublayers by depth and kind, half change a few sublayers; both start from the best
    so far.

    Args:
        rankings: order of every sublayer's units, and their loss.
        costs: what widths cost, and the budget.
        score: of a structure; lower is better.
        candidates: structures to score, beside the first; None for no such limit.
        seconds: after which no further structure is begun; None for no limit. What is found then depends on the speed
            of the machine.
        seed: of the random changes.

    Raises:
        ValueError: neither limit is given.
        BudgetUnreachable: no structure is within the budget.
    """
    if candidates is None and seconds is None:
        raise ValueError("the search has no end: give candidates or seconds")
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
    return Improved(replace(rankings, coefficients=np.exp(best)), widths, len(seen), first, lowest, elapsed)


def _global(layers: int, generator: np.random.Generator) -> Floats:
    """Tilt by depth and by kind, [layers, 2]."""
    depth = (np.arange(layers) + 0.5) / layers - 0.5
    return generator.normal(0, DEPTH) * depth[:, None] + generator.normal(0, KIND) * np.array([-0.5, 0.5])


def _local(layers: int, generator: np.random.Generator) -> Floats:
    """Change a few sublayers, [layers, 2]."""
    return generator.normal(0, ONE, (layers, 2)) * (generator.random((layers, 2)) < TOUCHED)
