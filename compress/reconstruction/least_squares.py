"""Least squares from Gram matrices: ridge regression towards given weights, and one scale per unit.

Products over a few thousand tokens are computed in the model's precision; their sums, and the solutions, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.core.errors import DataError
from compress.models.placement import exact, exact_device

LARGEST_SCALE = 10.0
# Tokens of one product in the model's precision, before it is added in float64.
TOKENS_AT_ONCE = 2048


@dataclass
class Gram:
    """Sums over tokens for one regression: XᵀX, XᵀY, ΣY², with X̃ = [X, 1]; float64.

    Attributes:
        xx: [inputs + 1, inputs + 1].
        xy: [inputs + 1, outputs].
        yy: scalar.
        tokens: number of tokens.
    """

    xx: Tensor
    xy: Tensor
    yy: float = 0.0
    tokens: int = 0

    @classmethod
    def zeros(cls, inputs: int, outputs: int, device: torch.device | None = None) -> Gram:
        """Sums over no tokens.

        Args:
            inputs: columns of X.
            outputs: columns of Y.
            device: of the tokens; None is the processor.

        Returns:
            Zeros in float64.
        """
        where = None if device is None else exact_device(device)
        return cls(
            torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64, device=where),
            torch.zeros(inputs + 1, outputs, dtype=torch.float64, device=where),
        )

    def plus(self, other: Gram, weight: float = 1.0) -> Gram:
        """Sums over the tokens of both.

        Args:
            other: sums of the same regression over other tokens.
            weight: weight of the other's tokens.

        Returns:
            A new sum; neither argument changes.
        """
        return Gram(
            self.xx + weight * other.xx,
            self.xy + weight * other.xy,
            self.yy + weight * other.yy,
            self.tokens + other.tokens,
        )

    def error(self, weights: Tensor) -> float:
        """Squared error of Y ≈ X̃ W, relative to ΣY²; weights [inputs + 1, outputs]."""
        total = (weights * (self.xx @ weights)).sum() - 2 * (weights * self.xy).sum() + self.yy
        return max(0.0, float(total)) / max(self.yy, 1e-30)


class GramSum:
    """Adds up a Gram matrix, several batches at a time.

    A sum in float64 passes over whole matrices, which takes longer than the product of a few hundred tokens.

    Args:
        inputs: columns of X.
        outputs: columns of Y.
        device: of the tokens; None is the processor.

    Attributes:
        inputs: columns of X.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | None = None) -> None:
        self.inputs = inputs
        self._sum = Gram.zeros(inputs, outputs, device)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._tokens = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the tokens of a batch.

        Args:
            x: [tokens, inputs].
            y: [tokens, outputs].
        """
        self._waiting.append((x, y))
        self._tokens += len(x)
        if self._tokens >= TOKENS_AT_ONCE:
            self._flush()

    def gram(self) -> Gram:
        """The sums so far; they may go on afterwards."""
        self._flush()
        return self._sum

    def _flush(self) -> None:
        if self._tokens:
            x = torch.cat([nn.functional.pad(x, (0, 1), value=1.0) for x, _ in self._waiting])
            y = torch.cat([y for _, y in self._waiting])
            where = self._sum.xx.device
            self._sum.xx += (x.T @ x).to(where)
            self._sum.xy += (x.T @ y).to(where)
            self._sum.yy += float(exact(y).square().sum())
            self._sum.tokens += len(x)
        self._waiting, self._tokens = [], 0


def solve_spd(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric positive definite system.

    If rounding has made the matrix indefinite, a growing jitter is added to its diagonal until it is not.

    Args:
        matrix: [n, n].
        right: right side [n, k].

    Returns:
        The solution [n, k].

    Raises:
        DataError: the matrix is not finite.
    """
    if not torch.isfinite(matrix).all():
        raise DataError(
            "the activations on the calibration data are not finite, or overflow when they are squared; check the "
            "checkpoint in float32, and the data for texts unlike those it was trained on"
        )
    jitter = 0.0
    scale = float(matrix.diagonal().mean().clamp_min(1e-30))
    while True:
        unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        factor, failed = torch.linalg.cholesky_ex(matrix + jitter * unit)
        if not failed:
            return torch.cholesky_solve(right, factor)
        jitter = max(10 * jitter, 1e-12 * scale)


def ridge_solution(gram: Gram, original: Tensor, ridge: float) -> Tensor:
    """Ridge regression towards the original weights: W = (X̃ᵀX̃ + λD)⁻¹ (X̃ᵀY + λD W₀); the bias has no penalty.

    Args:
        gram: sums over training tokens.
        original: W₀ [inputs + 1, outputs], the bias in its last row.
        ridge: λ, relative to D, the mean diagonal of XᵀX.

    Returns:
        W [inputs + 1, outputs].

    Raises:
        DataError: the sums are not finite.
    """
    inputs = len(gram.xx) - 1
    strength = torch.zeros(inputs + 1, dtype=torch.float64, device=gram.xx.device)
    if inputs:
        strength[:-1] = ridge * gram.xx.diagonal()[:-1].mean()
    return solve_spd(gram.xx + torch.diag(strength), gram.xy + strength[:, None] * original)


def scale_solution(gram: Gram, original: Tensor, unit_size: int) -> Tensor | None:
    """Mask tuning: W = diag(m) W₀ with one scale per unit; the bias does not change.

    The normal equations for m follow from the same Gram matrices: M = Σ over a unit's rows of (XᵀX) ⊙ (W₀W₀ᵀ).
    A small damping towards scales of 1 decides what the data leave open.
    Source: Kwon et al. 2022, section 4.3.

    Args:
        gram: sums over training tokens.
        original: W₀ [inputs + 1, outputs], the bias in its last row.
        unit_size: rows of W₀ per unit: d_h for heads, 1 for filters.

    Returns:
        W [inputs + 1, outputs]; None if a scale is outside ±10.

    Raises:
        DataError: the sums are not finite.
    """
    weights, bias = original[:-1], original[-1]
    units = len(weights) // unit_size
    normal = gram.xx[:-1, :-1] * (weights @ weights.T)
    normal = normal.reshape(units, unit_size, units, unit_size).sum((1, 3))
    target = gram.xy[:-1] - gram.xx[:-1, -1:] * bias
    right = (weights * target).sum(1).reshape(units, unit_size).sum(1)
    damp = 1e-6 * normal.diagonal().mean().clamp_min(1e-30)
    unit = torch.eye(units, dtype=torch.float64, device=normal.device)
    scales = solve_spd(normal + damp * unit, (right + damp)[:, None])[:, 0]
    if not bool((scales.abs() <= LARGEST_SCALE).all()):
        return None
    return torch.cat([weights * scales.repeat_interleave(unit_size)[:, None], bias[None]])
