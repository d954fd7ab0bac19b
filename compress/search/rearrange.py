"""Mask rearrangement: exchanges kept and pruned units within a layer, at fixed numbers.

Source: Kwon et al. 2022, section 4.2. The search ranks units by the diagonal of the Fisher information. Within a layer
the whole block is known, so the pruned set P can minimise Σ_{i,j∈P} I_ij, which includes interactions of units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def exchange(block: NDArray[np.floating], pruned: NDArray[np.int64]) -> NDArray[np.int64]:
    """Improve a set of pruned units greedily, in one round over the kept units, least information first.

    For every kept unit: add it to the pruned set, find the member whose removal from the set lowers the objective most,
    and accept the exchange if the objective falls. Each step is one vector operation on row sums.

    Args:
        block: Fisher information within the layer, [units, units], symmetric.
        pruned: indices of the pruned units.

    Returns:
        The new pruned set, ascending, of the same size.
    """
    matrix = np.asarray(block, dtype=np.float64)
    diagonal = matrix.diagonal()
    inside = np.zeros(len(matrix), dtype=bool)
    inside[pruned] = True
    if inside.all() or not inside.any():
        return np.flatnonzero(inside)
    sums = matrix[:, inside].sum(axis=1)
    for unit in sorted(np.flatnonzero(~inside), key=lambda i: (diagonal[i], i)):
        # Objective after `unit` enters and j leaves, relative to now:
        #   (2 s_u + I_uu) − (2 (s_j + I_uj) − I_jj), with s the sums over the set before `unit` entered.
        change = (2 * sums[unit] + diagonal[unit]) - (2 * (sums + matrix[:, unit]) - diagonal)
        change[~inside] = np.inf
        leaver = int(np.argmin(change))
        if change[leaver] < 0:
            inside[unit], inside[leaver] = True, False
            sums += matrix[:, unit] - matrix[:, leaver]
    return np.flatnonzero(inside)


def rearrange(block: NDArray[np.floating], kept: tuple[int, ...]) -> tuple[int, ...]:
    """Improve a set of kept units by ``exchange``.

    Args:
        block: Fisher information within the layer, [units, units], symmetric.
        kept: indices of the kept units.

    Returns:
        The new kept set, ascending, of the same size.
    """
    units = np.arange(len(block))
    pruned = exchange(block, np.setdiff1d(units, np.asarray(kept, dtype=np.int64)))
    return tuple(int(i) for i in np.setdiff1d(units, pruned))
