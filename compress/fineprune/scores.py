"""Scores that are trained together with the weights: base of the scorers of units and of single weights.

Scores are a list of tensors: two for units (heads and filters, ``fineprune/unit_scores.py``), one per matrix for single
weights (``sparsity/scores.py``). A scorer turns masks into the gates of a training step, learns from the gradient of
those gates, and ranks everything when the masks are chosen. Gates at 0 still have a gradient, so that masked units can
come back.

The two kinds of scorer differ in how a gradient reaches the scores. Units are few: their gates are differentiable, and
autograd does the rest. Single weights are as many as the model's: there the gradient is computed in place, without a
graph. Both compute the same formulas in another order of rounding; a training must repeat bit for bit, so each keeps
its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from compress.models.placement import exact

# Hard concrete distribution (Louizos et al. 2018): temperature, and how far it is stretched beyond 0 and 1.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
# Logit at which L0's gates start: open with a probability of nine in ten.
OPEN = 2.197
# Soft movement keeps a unit or element while the sigmoid of its score is above this.
THRESHOLD = 0.1


class Scorer:
    """A list of score tensors.

    Args:
        scores: at the start.
        names: of the tensors in checkpoints; None numbers them.
        strength: of the penalty, where the scorer has one; see ``ScoredRates.penalty``.

    Attributes:
        scores: one tensor for each kind of unit, or for each matrix.
        trained: whether an optimizer trains the scores.
    """

    trained = True

    def __init__(self, scores: Sequence[Tensor], names: Sequence[str] | None = None, strength: float = 0.0) -> None:
        self.scores, self._strength = list(scores), strength
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
    mean = sum(float(exact(part).sum()) for part in logs) / count
    square = sum(float((exact(part) - mean).square().sum()) for part in logs) / count
    scale = max(math.sqrt(square), 1e-3)
    return [((part - mean) / scale).to(torch.float32) for part in logs], scale


class HardConcrete(Scorer):
    """L0: random gates from a stretched, clamped logistic; a Lagrangian holds their expected cost at the budget.

    Its penalty is λ₁ e + λ₂ e² with e the excess over the budget. The multipliers λ rise with the excess, ``strength``
    being their rate. Subclasses draw the gates and differentiate the penalty.

    Source: Louizos, Welling and Kingma 2018; the budget as a constraint: Wang, Wohlwend and Lei 2020.
    """

    def __init__(self, scores: Sequence[Tensor], names: Sequence[str] | None = None, strength: float = 0.0) -> None:
        super().__init__([part + OPEN for part in scores], names, strength)
        self._multipliers = torch.zeros(2)

    def mean_gates(self) -> Iterator[Tensor]:
        """The gates of test time, always the same: clamp(sigmoid(S) (r - l) + l, 0, 1). Louizos et al. 2018, eq. 13."""
        return (part.detach().sigmoid().mul_(HIGH - LOW).add_(LOW).clamp_(0, 1) for part in self.scores)

    def open_probability(self) -> Iterator[Tensor]:
        """Probability that a drawn gate is not 0: sigmoid(S - b log(-l / r)). Louizos et al. 2018, eq. 12."""
        return ((part - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid() for part in self.scores)

    def _rise(self, excess: float) -> None:
        """Gradient ascent on the multipliers."""
        self._multipliers += self._strength * torch.tensor([excess, excess**2])

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "multipliers": self._multipliers}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._multipliers = state["multipliers"].cpu().clone()
