"""Scores while weights are trained: what scorers of units and scorers of single weights have in common.

Scores are a list of tensors: two for units (heads and filters, ``fineprune/unit_scores.py``), one per matrix for single
weights (``sparsity/scores.py``). A scorer turns masks into the gates of a training step, learns from the gradient of
those gates, and says what everything is worth when the masks are chosen anew. Gates at 0 still have a gradient, so that
masked units can come back.

The two kinds of scorer differ in how a gradient reaches the scores. Units are few: their gates are differentiable, and
autograd does the rest. Single weights are as many as the model's: there the gradient is computed in place, without a
graph. Both compute the same formulas in another order of rounding; a training must repeat bit for bit, so each keeps
its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Hard concrete distribution (Louizos et al. 2018): temperature, and how far it is stretched beyond 0 and 1.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
# Logit at which L0's gates start: open with a probability of nine in ten.
OPEN = 2.197
# Soft movement keeps a unit or element while the sigmoid of its score is above this.
THRESHOLD = 0.1


class Scorer:
    """A list of score tensors, with names for checkpoints.

    Attributes:
        scores: one tensor for each kind of unit, or for each matrix.
        trained: whether an optimizer trains the scores.
    """

    trained = True

    def __init__(self, scores: Sequence[Tensor], names: Sequence[str] | None = None) -> None:
        self.scores = list(scores)
        self._names = [str(number) for number in range(len(self.scores))] if names is None else list(names)

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors that the optimizer trains."""
        return list(self.scores) if self.trained else []

    def worth(self) -> Sequence[Tensor]:
        """The numbers by which masks are chosen, shaped as the scores."""
        return self.scores

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` needs to continue, beside the optimizer's own state."""
        return {name: scores.detach() for name, scores in zip(self._names, self.scores, strict=True)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a ``state``."""
        with torch.no_grad():
            for name, scores in zip(self._names, self.scores, strict=True):
                scores.copy_(state[name])


def standard_logs(worth: Sequence[Tensor], smallest: float) -> tuple[list[Tensor], float]:
    """Logarithms with mean 0 and deviation 1 over all tensors, so that a learning rate means the same in any unit.

    Args:
        worth: numbers that are not negative, any shapes.
        smallest: part of the largest number below which numbers count as this part.

    Returns:
        The logarithms, and the deviation that they were divided by (at least 1e-3).
    """
    count = sum(part.numel() for part in worth)
    least = max(max(float(part.max()) for part in worth) * smallest, 1e-38)
    logs = [part.clamp_min(least).log() for part in worth]
    mean = sum(float(part.double().sum()) for part in logs) / count
    square = sum(float((part.double() - mean).square().sum()) for part in logs) / count
    scale = max(math.sqrt(square), 1e-3)
    return [((part - mean) / scale).to(torch.float32) for part in logs], scale


def mean_gates(scores: Tensor) -> Tensor:
    """L0's gates at test time, always the same: clamp(sigmoid(S) (r - l) + l, 0, 1). Louizos et al. 2018, eq. 13."""
    return scores.detach().sigmoid().mul_(HIGH - LOW).add_(LOW).clamp_(0, 1)


def open_probability(scores: Tensor) -> Tensor:
    """Probability that L0 draws a gate that is not 0: sigmoid(S - b log(-l / r)). Louizos et al. 2018, eq. 12."""
    return (scores - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


class Lagrangian:
    """Holds the expected cost of random gates at a budget: a penalty whose multipliers rise with the excess.

    Args:
        rate: of the multipliers, per step.

    Source: Wang, Wohlwend and Lei 2020, section 3 (augmented Lagrangian).
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.multipliers = torch.zeros(2)

    def loss(self, excess: Tensor) -> Tensor:
        """The penalty on an excess, relative to the dense cost; differentiable."""
        first, second = self.multipliers.tolist()
        return first * excess + second * excess.square()

    def slope(self, excess: float) -> float:
        """Derivative of the penalty."""
        first, second = self.multipliers.tolist()
        return float(first + 2 * second * excess)

    def rise(self, excess: float) -> None:
        """Gradient ascent on the multipliers."""
        self.multipliers += self._rate * torch.tensor([excess, excess**2])

    def restore(self, multipliers: Tensor) -> None:
        """Continue with saved multipliers; they stay on the processor."""
        self.multipliers = multipliers.cpu().clone()
