"""Structured OBS: the order in which to remove a sublayer's units, while the remaining units compensate.

Source: the optimal brain surgeon for groups (ZipLM, Kurtic et al., NeurIPS 2023, section 3), here with the output
factor G of the loss's curvature (``calibration/curvature.py``) instead of the identity. So errors are in units of the
loss and can be compared between sublayers. Removing the unit S and updating the rest optimally costs

    ½ tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ G).

One run from full width to zero gives an order of units, and the error at every width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.calibration.curvature import Curvature
from compress.core.importance import Ranking, Rankings
from compress.models.encoder import Encoder
from compress.models.families import SublayerKind
from compress.models.placement import exact

# Relative to the mean diagonal of H: keeps dead and duplicate units from making it singular.
DAMPING = 1e-3
# Variance, relative to the mean one, below which an input counts as constant.
CONSTANT = 1e-9
# A sublayer with very many units takes about this many steps; each removes several of the cheapest units.
STEPS = 192
# Columns of the inverse's changes that wait for one product.
TOGETHER = 128
# Removed units are dropped from memory when so few of those in it are left.
_LEAST_ALIVE = 0.75


def removal_order(
    weight: Tensor, curvature: Curvature, unit_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Remove all units of a sublayer, the cheapest first, while the others compensate.

    Args:
        weight: the output matrix [outputs, units x unit size].
        curvature: of the same sublayer.
        unit_size: columns of a unit: the head size, or 1 for filters.

    Returns:
        Units in the order in which they should *stay*, most important first [units], and the loss when the first n of
        them are kept, for n = 0..units [units + 1]; it falls with n and ends at 0.

    Source: ZipLM, Kurtic et al. 2023, section 3, here weighted by G.
    """
    # W_Sᵀ K W_S = ‖K^½ W_S‖²: with √G multiplied in once, costs are plain squares from then on.
    matrix = exact(weight.detach()).T @ _root(exact(curvature.outputs))
    hessian = exact(curvature.inputs)
    # The bias can replace an input that never changes, however large its weights; damping would charge for it.
    scale = hessian.diagonal().mean().clamp_min(1e-30)
    matrix[hessian.diagonal() <= CONSTANT * scale] = 0.0
    damping = DAMPING * scale
    inverse = _inverse(hessian + damping * torch.eye(len(hessian), dtype=torch.float64, device=hessian.device))
    sublayer = _Sublayer(matrix, inverse, unit_size)
    step = max(1, sublayer.units // STEPS)
    removed: list[int] = []
    losses = [0.0]
    while len(removed) < sublayer.units:
        cheapest, parts, cost = sublayer.remove(min(step, sublayer.units - len(removed)))
        for unit, part in zip(cheapest, parts, strict=True):
            removed.append(unit)
            losses.append(losses[-1] + max(0.0, cost) * part)
    return np.array(removed[::-1], dtype=np.int64), np.array(losses[::-1])


class _Sublayer:
    """What is left of a sublayer: its output matrix, and the inverse of H over the remaining columns.

    Removing a few units changes the whole inverse, which is bound by memory: at 3,072 filters it is 75 MB. So changes
    wait as factors until they are ``TOGETHER`` columns wide, and then go in as one product. Until then, only the
    columns of units to be removed are brought up to date, and the diagonal, which the scores of single columns need.
    Removed rows stay in memory until a quarter of them is dead.

    Args:
        matrix: Wᵀ R [units x unit size, rank], with R Rᵀ = G; changed in place.
        inverse: H⁻¹, [units x unit size, units x unit size]; changed in place.
        unit_size: rows of a unit.
    """

    def __init__(self, matrix: Tensor, inverse: Tensor, unit_size: int) -> None:
        self._matrix, self._inverse, self._size = matrix, inverse, unit_size
        self.units = len(matrix) // unit_size
        self._device = matrix.device
        self._numbers = torch.arange(self.units, device=self._device)
        self._alive = torch.ones(self.units, dtype=torch.bool, device=self._device)
        # The inverse is what is stored, less the product of the first factor and the transposed second.
        self._waiting: tuple[Tensor, Tensor] = (inverse[:, :0], inverse[:, :0])
        self._diagonal = inverse.diagonal().clone()

    def remove(self, count: int) -> tuple[list[int], list[float], float]:
        """Remove the cheapest units; the others compensate.

        Args:
            count: units to remove, at most those alive.

        Returns:
            Their numbers, cheapest first; the share of each in the cost; the cost of all together.
        """
        scores = self._scores().masked_fill_(~self._alive, math.inf)
        cheapest = torch.argsort(scores, stable=True)[:count]
        columns = (cheapest[:, None] * self._size + torch.arange(self._size, device=self._device)).reshape(-1)
        left, right = self._waiting
        coupling = self._inverse[:, columns] - left @ right[columns].T
        own = coupling[columns]
        # The removed columns' contribution, of which the others can compensate a part.
        lost = torch.linalg.solve(own, self._matrix[columns])
        cost = 0.5 * float((lost * self._matrix[columns]).sum())
        parts = scores[cheapest].clamp_min(1e-30)
        self._matrix.addmm_(coupling, lost, alpha=-1)
        solved = torch.linalg.solve(own, coupling.T).T
        self._diagonal -= (coupling * solved).sum(1)
        self._waiting = torch.cat([left, coupling], 1), torch.cat([right, solved], 1)
        # Zero but for rounding; the identity keeps the scores of dead units finite until they are dropped.
        self._diagonal[columns] = 1.0
        numbers = self._numbers[cheapest].tolist()
        self._alive[cheapest] = False
        drops = int(self._alive.sum()) <= _LEAST_ALIVE * len(self._alive)
        # Scores of units of several columns need the whole blocks on the diagonal.
        if drops or self._size > 1 or self._waiting[0].shape[1] >= TOGETHER:
            self._settle()
        if drops:
            self._drop_dead()
        return numbers, (parts / parts.sum()).tolist(), cost

    def _scores(self) -> Tensor:
        """Cost of removing each unit alone, [units]."""
        if self._size == 1:
            return self._matrix.square().sum(1) / self._diagonal
        units = len(self._matrix) // self._size
        blocks = self._inverse.reshape(units, self._size, units, self._size)
        each = torch.arange(units, device=self._device)
        own = blocks[each, :, each, :]
        grouped = self._matrix.reshape(units, self._size, -1)
        return (torch.linalg.solve(own, grouped) * grouped).sum((1, 2))

    def _settle(self) -> None:
        """Bring the inverse up to date."""
        left, right = self._waiting
        self._inverse.addmm_(left, right.T, alpha=-1)
        self._waiting = left[:, :0], right[:, :0]
        dead = (~self._alive).repeat_interleave(self._size).nonzero().squeeze(1)
        self._inverse[dead, dead] = 1.0

    def _drop_dead(self) -> None:
        rows = self._alive.repeat_interleave(self._size)
        self._matrix = self._matrix[rows]
        self._inverse = self._inverse[rows][:, rows]
        self._diagonal = self._diagonal[rows]
        self._waiting = self._inverse[:, :0], self._inverse[:, :0]
        self._numbers = self._numbers[self._alive]
        self._alive = torch.ones(len(self._numbers), dtype=torch.bool, device=self._device)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of a symmetric matrix, half as dear where it is positive definite, as it is but for rounding."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(factor)


def _root(matrix: Tensor) -> Tensor:
    """R with R Rᵀ = matrix, symmetric positive semidefinite up to rounding, without the directions of zero weight."""
    values, vectors = torch.linalg.eigh(matrix)
    counts = values > 1e-12 * values.max().clamp_min(1e-300)
    return vectors[:, counts] * values[counts].sqrt()


def rank_by_curvature(encoder: Encoder, found: Mapping[tuple[int, SublayerKind], Curvature]) -> Rankings:
    """Rank all units by structured OBS.

    Args:
        encoder: dense.
        found: curvature of every sublayer, by layer and kind.

    Returns:
        Rankings whose losses are in units of the loss, after the remaining units compensate.
    """
    sizes: dict[SublayerKind, int] = {"attention": encoder.shape.head_size, "ffn": 1}
    rankings: dict[SublayerKind, list[Ranking]] = {"attention": [], "ffn": []}
    for number, layer in enumerate(encoder):
        for kind, size in sizes.items():
            weight = layer.get(f"{kind}_output").weight
            rankings[kind].append(Ranking(*removal_order(weight, found[number, kind], size)))
    return Rankings(heads=tuple(rankings["attention"]), filters=tuple(rankings["ffn"]))
