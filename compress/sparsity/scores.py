"""What a single weight is worth while weights are trained: one small class per scorer, the same interface for all.

With W' = W * m for the masked matrix, one gradient gives all others: ∂L/∂m = ∂L/∂W' * W is what scores learn from,
∂L/∂W = ∂L/∂W' * m what weights learn from. Masked weights have the former, so that they can come back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.data.batches import Encoded
from compress.fineprune.recipe import UnstructuredRecipe
from compress.fineprune.scores import HIGH, LOW, OPEN, TEMPERATURE, THRESHOLD
from compress.models.encoder import Encoder
from compress.sparsity.matrices import count_of
from compress.tasks import Task

# Worth that counts as none, relative to the best, where scores begin as logarithms.
_SMALLEST = 1e-12


class ElementScorer:
    """Scores of all elements.

    Args:
        matrices: the weights, [out, in] each, unmasked.
        start: what the elements are worth to begin with, not negative, like ``matrices``; None for all alike.
        penalty: the recipe's.
    """

    # Whether an optimizer trains the scores.
    trained = True

    def __init__(self, matrices: Sequence[Tensor], start: Sequence[Tensor] | None, penalty: float = 0.0) -> None:
        self._matrices, self._strength = matrices, penalty
        self._count = count_of(list(matrices))
        self.scores = self._starting(start) if self.trained else []

    def _starting(self, start: Sequence[Tensor] | None) -> list[Tensor]:
        """Logarithms of the worth, scaled so that steps of a rate mean the same whatever it is measured in."""
        if start is None:
            return [torch.zeros_like(matrix.detach()) for matrix in self._matrices]
        least = max(max(float(part.max()) for part in start) * _SMALLEST, 1e-38)
        logs = [part.clamp_min(least).log() for part in start]
        mean = sum(float(part.double().sum()) for part in logs) / self._count
        square = sum(float((part.double() - mean).square().sum()) for part in logs) / self._count
        return [((part - mean) / max(math.sqrt(square), 1e-3)).to(torch.float32) for part in logs]

    def worth(self) -> Sequence[Tensor]:
        """What the choice of elements goes by."""
        return self.scores

    def multipliers(self, masks: Sequence[Tensor], generator: torch.Generator | None) -> Sequence[Tensor]:
        """What matrices are multiplied with.

        Args:
            masks: of the chosen elements.
            generator: of random numbers; None as at test time: always the same.
        """
        return masks

    def learn(self, pulls: Sequence[Tensor]) -> None:
        """Put the scores' gradients in place.

        Args:
            pulls: ∂L/∂m of every element, that of masked ones included; they may be overwritten.
        """
        for scores, pull in zip(self.scores, pulls, strict=True):
            scores.grad = pull  # straight through the choice

    def press(self, fraction: float) -> None:
        """Add the gradient of a penalty to that of the scores, ``fraction`` being what may stay at present."""

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` needs, beside the optimizer's own state."""
        return {str(number): scores for number, scores in enumerate(self.scores)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a ``state``."""
        for number, scores in enumerate(self.scores):
            scores.copy_(state[str(number)])


class Magnitude(ElementScorer):
    """|W|, as it is at present."""

    trained = False

    def worth(self) -> Sequence[Tensor]:
        return [matrix.detach().abs() for matrix in self._matrices]


class Movement(ElementScorer):
    """Hard movement: S falls with ∂L/∂m; a weight that moves away from zero stays, the v best (Sanh et al., eq. 4)."""


class SoftMovement(ElementScorer):
    """Soft movement: elements stay while sigmoid(S) is above a threshold; a penalty on its mean pushes scores down.

    Never more stay than the schedule allows. The penalty acts while more are above the threshold than that; when the
    mask is frozen the threshold is put where exactly the fraction asked for stays.
    """

    def multipliers(self, masks: Sequence[Tensor], generator: torch.Generator | None) -> Sequence[Tensor]:
        if generator is None:
            return masks
        least = math.log(THRESHOLD / (1 - THRESHOLD))
        return [mask * (scores > least) for mask, scores in zip(masks, self.scores, strict=True)]

    def press(self, fraction: float) -> None:
        least = math.log(THRESHOLD / (1 - THRESHOLD))
        above = sum(int((scores > least).sum()) for scores in self.scores) / self._count
        if not self._strength or above <= fraction:
            return
        strength = self._strength * (1 - fraction) / self._count
        for scores in self.scores:
            assert scores.grad is not None
            chance = scores.sigmoid()
            scores.grad.add_(chance * (1 - chance), alpha=strength)


class HardConcrete(ElementScorer):
    """L0: random gates from a stretched, clamped logistic; a Lagrangian holds the expected share of open ones.

    Louizos, Welling and Kingma 2018; the constraint as Wang, Wohlwend and Lei 2020 have it.
    """

    def __init__(self, matrices: Sequence[Tensor], start: Sequence[Tensor] | None, penalty: float = 0.0) -> None:
        super().__init__(matrices, start, penalty)
        self._multipliers = torch.zeros(2)
        self._slopes: list[Tensor] = []

    def _starting(self, start: Sequence[Tensor] | None) -> list[Tensor]:
        return [scores + OPEN for scores in super()._starting(start)]

    def multipliers(self, masks: Sequence[Tensor], generator: torch.Generator | None) -> Sequence[Tensor]:
        """Drawn in training; at test time clamp(sigmoid(S) (r - l) + l, 0, 1), which is folded into the weights."""
        self._slopes = []
        found = []
        for mask, scores in zip(masks, self.scores, strict=True):
            if generator is None:
                found.append(scores.sigmoid().mul_(HIGH - LOW).add_(LOW).clamp_(0, 1).mul_(mask))
                continue
            drawn = torch.rand(scores.shape, generator=generator, device=scores.device)
            stretched = drawn.logit_(1e-6).add_(scores).div_(TEMPERATURE).sigmoid_()
            gate = (stretched * (HIGH - LOW)).add_(LOW)
            inside = (gate > 0) & (gate < 1)
            self._slopes.append((1 - stretched).mul_(stretched).mul_((HIGH - LOW) / TEMPERATURE).mul_(inside))
            found.append(gate.clamp_(0, 1).mul_(mask))
        return found

    def learn(self, pulls: Sequence[Tensor]) -> None:
        super().learn([pull.mul_(slope) for pull, slope in zip(pulls, self._slopes, strict=True)])

    def open_share(self) -> float:
        """Expected share of gates that are not 0: mean of sigmoid(S - b log(-l / r))."""
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        return sum(float((scores - shift).sigmoid().sum(dtype=torch.float64)) for scores in self.scores) / self._count

    def press(self, fraction: float) -> None:
        excess = self.open_share() - fraction
        first, second = self._multipliers.tolist()
        strength = (first + 2 * second * excess) / self._count
        shift = TEMPERATURE * math.log(-LOW / HIGH)
        for scores in self.scores:
            assert scores.grad is not None
            chance = (scores - shift).sigmoid()
            scores.grad.add_((1 - chance).mul_(chance), alpha=strength)
        # The multipliers rise against the excess: gradient ascent.
        self._multipliers += self._strength * torch.tensor([excess, excess**2])

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "multipliers": self._multipliers}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._multipliers = state["multipliers"].cpu().clone()


SCORERS: dict[str, type[ElementScorer]] = {
    "magnitude": Magnitude,
    "movement": Movement,
    "soft-movement": SoftMovement,
    "l0": HardConcrete,
}


def start_of(
    recipe: UnstructuredRecipe, encoder: Encoder, matrices: Sequence[nn.Parameter], task: Task, data: Encoded, seed: int
) -> list[Tensor] | None:
    """What a recipe's scores begin with, like ``matrices``; None for all alike.

    Args:
        encoder: the dense model, on the device that it is trained on.
        data: examples that Fisher information is taken of; labels are not read.
    """
    if recipe.start == "zero" or not SCORERS[recipe.scorer].trained:
        return None
    if recipe.start == "magnitude":
        return [matrix.detach().abs() for matrix in matrices]
    fisher = fisher_of(encoder, matrices, task, data.take(recipe.start_examples, seed), seed)
    return [part * matrix.detach().square() for part, matrix in zip(fisher, matrices, strict=True)]


def fisher_of(
    encoder: Encoder, matrices: Sequence[nn.Parameter], task: Task, data: Encoded, seed: int, batch_size: int = 32
) -> list[Tensor]:
    """Diagonal of the Fisher information of every element, up to a factor.

    Each example's outputs are pushed in a random direction with the Fisher information of these outputs as covariance.
    Directions of different examples are independent, so that the squared gradient of a batch's sum is, on average, the
    sum of the squared gradients: one backward pass for a batch.
    """
    device = matrices[0].device
    generator = torch.Generator().manual_seed(seed)
    totals = [torch.zeros_like(matrix) for matrix in matrices]
    wanted = [matrix.requires_grad for matrix in matrices]
    try:
        for matrix in matrices:
            matrix.requires_grad_(True)
        for batch in data.batches(batch_size):
            with torch.enable_grad():
                outputs = task.forward(encoder.model, {name: part.to(device) for name, part in batch.inputs.items()})
                direction = task.fisher_direction(outputs.detach().cpu().float(), generator).to(device)
                gradients = torch.autograd.grad((outputs * direction).sum(), list(matrices), allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
    finally:
        for matrix, flag in zip(matrices, wanted, strict=True):
            matrix.requires_grad_(flag)
    return totals
