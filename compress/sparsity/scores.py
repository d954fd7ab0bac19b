"""Scores of single weights while weights are trained: one small class per scorer.

With W' = W * m for the masked matrix, one gradient gives all others: scores learn from ∂L/∂m = ∂L/∂W' * W, weights from
∂L/∂W = ∂L/∂W' * m. Masked weights have the former, so that they can come back.

There are as many scores as weights. So their gradients are put in place without a graph, and most operations are in
place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.data.batches import Encoded
from compress.fineprune.recipe import UnstructuredRecipe
from compress.fineprune.scores import HIGH, LOW, TEMPERATURE, THRESHOLD, HardConcrete, Scorer, standard_logs
from compress.models.encoder import Encoder
from compress.models.placement import exact_sum
from compress.sparsity.matrices import count_of
from compress.tasks import Task

# Worth that counts as none, relative to the best, where scores begin as logarithms.
_SMALLEST = 1e-12
# Score at soft movement's threshold: comparing with it needs no sigmoid of every element.
_LEAST = math.log(THRESHOLD / (1 - THRESHOLD))


class ElementScorer(Scorer):
    """Scores of all elements.

    Args:
        matrices: the weights, [out, in] each, unmasked.
        start: worth of the elements at the start, not negative, like ``matrices``; None for all alike.
        penalty: the recipe's; see ``ScoredRates.penalty``.
    """

    def __init__(self, matrices: Sequence[Tensor], start: Sequence[Tensor] | None, penalty: float = 0.0) -> None:
        self._matrices, self._count = matrices, count_of(list(matrices))
        super().__init__(self._starting(start) if self.trained else [], strength=penalty)

    def _starting(self, start: Sequence[Tensor] | None) -> list[Tensor]:
        """Scores at the start: standardized logarithms of the worth."""
        if start is None:
            return [torch.zeros_like(matrix.detach()) for matrix in self._matrices]
        return standard_logs(start, _SMALLEST)[0]

    def gates(self, masks: Sequence[Tensor], generator: torch.Generator | None) -> Sequence[Tensor]:
        """Multipliers of the matrices.

        Args:
            masks: 1 for the chosen elements, like the matrices.
            generator: of random gates in training; None gives the gates of test time, always the same.

        Returns:
            Gates like the masks; they may be the masks themselves.
        """
        return masks

    def learn(self, pulls: Sequence[Tensor]) -> None:
        """Put the scores' gradients in place: those of the masks, straight through the choice.

        Args:
            pulls: ∂L/∂m of every element, that of masked ones included; they may be overwritten.
        """
        for scores, pull in zip(self.scores, pulls, strict=True):
            scores.grad = pull

    def press(self, fraction: float) -> None:
        """Add the gradient of the penalty to that of the scores.

        Args:
            fraction: of the elements that may stay at this step.
        """


class ElementMagnitude(ElementScorer):
    """|W|, as it is at present."""

    trained = False

    def worth(self) -> Sequence[Tensor]:
        return [matrix.detach().abs() for matrix in self._matrices]


class ElementMovement(ElementScorer):
    """Hard movement: S falls with ∂L/∂m; weights that move away from zero stay (Sanh et al. 2020, eq. 4)."""


class ElementSoftMovement(ElementScorer):
    """Soft movement: elements stay while sigmoid(S) is above a threshold; a penalty on its mean pushes scores down.

    Never more stay than the schedule allows. Unlike that of units, the penalty acts only while more elements than that
    are above the threshold, and the threshold does not apply at test time: then exactly the fraction asked for stays.
    """

    def gates(self, masks: Sequence[Tensor], generator: torch.Generator | None) -> Sequence[Tensor]:
        if generator is None:
            return masks
        return [mask * (scores > _LEAST) for mask, scores in zip(masks, self.scores, strict=True)]

    def press(self, fraction: float) -> None:
        above = sum(int((scores > _LEAST).sum()) for scores in self.scores) / self._count
        if not self._strength or above <= fraction:
            return
        strength = self._strength * (1 - fraction) / self._count
        for scores in self.scores:
            assert scores.grad is not None
            chance = scores.sigmoid()
            scores.grad.add_(chance * (1 - chance), alpha=strength)


class ElementHardConcrete(ElementScorer, HardConcrete):
    """L0 on elements, in place. The budget is a share of open gates; random numbers are a function of the step."""

    # ∂gate/∂S of the gates drawn last.
    _slopes: list[Tensor]

    def gates(self, masks: Sequence[Tensor], generator: torch.Generator | None) -> Sequence[Tensor]:
        """Random gates in training, the mean gates at test time. See ``ElementScorer``."""
        self._slopes = []
        if generator is None:
            return [gate.mul_(mask) for gate, mask in zip(self.mean_gates(), masks, strict=True)]
        found = []
        for mask, scores in zip(masks, self.scores, strict=True):
            drawn = torch.rand(scores.shape, generator=generator).to(scores.device)
            stretched = drawn.logit_(1e-6).add_(scores).div_(TEMPERATURE).sigmoid_()
            gate = (stretched * (HIGH - LOW)).add_(LOW)
            inside = (gate > 0) & (gate < 1)
            self._slopes.append((1 - stretched).mul_(stretched).mul_((HIGH - LOW) / TEMPERATURE).mul_(inside))
            found.append(gate.clamp_(0, 1).mul_(mask))
        return found

    def learn(self, pulls: Sequence[Tensor]) -> None:
        super().learn([pull.mul_(slope) for pull, slope in zip(pulls, self._slopes, strict=True)])

    def open_share(self) -> float:
        """Expected share of gates that are not 0."""
        return sum(exact_sum(part) for part in self.open_probability()) / self._count

    def press(self, fraction: float) -> None:
        excess = self.open_share() - fraction
        first, second = self._multipliers.tolist()
        strength = (first + 2 * second * excess) / self._count
        for scores, chance in zip(self.scores, self.open_probability(), strict=True):
            assert scores.grad is not None
            scores.grad.add_((1 - chance).mul_(chance), alpha=strength)
        self._rise(excess)


SCORERS: dict[str, type[ElementScorer]] = {
    "magnitude": ElementMagnitude,
    "movement": ElementMovement,
    "soft-movement": ElementSoftMovement,
    "l0": ElementHardConcrete,
}


def start_of(
    recipe: UnstructuredRecipe, encoder: Encoder, matrices: Sequence[nn.Parameter], task: Task, data: Encoded, seed: int
) -> list[Tensor] | None:
    """Worth of every element at the start of a recipe's training.

    Args:
        recipe: scorer, start and number of examples.
        encoder: the dense model, on the device that it is trained on.
        matrices: the parameters that are scored.
        task: gives outputs.
        data: examples that Fisher information is taken of; labels are not read.
        seed: of the choice of examples and of random directions.

    Returns:
        Tensors like ``matrices``; None where all elements start alike.
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

    Each example's outputs are pushed in a random direction whose covariance is the Fisher information of these outputs.
    Directions of different examples are independent. So the squared gradient of a batch's sum is, on average, the sum
    of the squared gradients: one backward pass for a batch.

    Args:
        encoder: the dense model.
        matrices: parameters of it.
        task: gives outputs and directions.
        data: examples; labels are not read.
        seed: of the directions.
        batch_size: examples in a backward pass.

    Returns:
        Tensors like ``matrices``.
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
