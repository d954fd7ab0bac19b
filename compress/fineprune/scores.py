"""What a unit is worth while weights are trained: one small class per scorer, the same interface for all.

A scorer turns a mask (1 for the units that stay at present) into the gates of a training step, learns from the
gradient of those gates, and says what every unit is worth when the mask is chosen anew. Gates at 0 still have a
gradient, so that masked units can come back.

Units of two kinds compete for one budget. Scores that say nothing of a unit's size (movement, L0) are taken for worth
*per cost*: then the units above a threshold are what a budget buys, whichever kind they are. Fisher information adds up
over units and is taken as it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.core.errors import ConfigError
from compress.fineprune.recipe import StructureRecipe
from compress.models.encoder import Encoder

# Hard concrete distribution (Louizos et al. 2018): temperature, and how far it is stretched beyond 0 and 1.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
# Logit that L0's gates start at: open with nine in ten.
OPEN = 2.197
# Units of soft movement stay while the sigmoid of their score is above it.
THRESHOLD = 0.1
# Forgetting of the running Fisher information, per step.
DECAY = 0.99
# Every unit is worth a little, relative to the best, so that no budget is left unused.
_LEAST = 1e-12
# Worth per cost that counts as none, relative to the best.
_SMALLEST = 1e-6


class Units(NamedTuple):
    """One number for every unit: heads [layers, heads], filters [layers, filters]."""

    heads: Tensor
    filters: Tensor

    def detached(self) -> Units:
        """New leaves that collect gradients."""
        return Units(*(t.detach().clone().requires_grad_() for t in self))


class Scorer:
    """Scores of all units.

    Args:
        encoder: the dense model that is trained.
        start: what the units are worth to begin with, not negative, [layers, units] each; None for all alike.
        costs: of a head and of a filter.
        seed: of random choices.
    """

    # Whether gradients of the gates are asked for per sample.
    per_sample = False

    def __init__(
        self,
        encoder: Encoder,
        start: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
        costs: tuple[float, float],
        seed: int = 0,
    ) -> None:
        self._encoder, self._costs, self._scale = encoder, costs, 1.0
        shape = encoder.shape
        self._sizes = (shape.layers, shape.heads), (shape.layers, shape.filters)
        device = next(encoder.model.parameters()).device
        self._device = device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.scores = Units(*(t.to(device).requires_grad_(self.trained) for t in self._starting(start, seed)))

    @property
    def trained(self) -> bool:
        """Whether an optimizer trains the scores."""
        return True

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimizer trains."""
        return list(self.scores) if self.trained else []

    def _starting(self, start: tuple[NDArray[np.float64], NDArray[np.float64]] | None, seed: int) -> Units:
        """Scores to begin with: logarithms of the worth per cost, scaled so that steps of a rate mean the same."""
        if start is None:
            return Units(*(torch.zeros(size) for size in self._sizes))
        density = [part / cost for part, cost in zip(start, self._costs, strict=True)]
        least = max(max(float(part.max()) for part in density) * _SMALLEST, 1e-300)
        logs = [np.log(np.maximum(part, least)) for part in density]
        every = np.concatenate([part.ravel() for part in logs])
        self._scale = max(float(every.std()), 1e-3)
        return Units(*(torch.from_numpy((part - every.mean()) / self._scale).float() for part in logs))

    def gates(self, mask: Units, training: bool = True) -> Units:
        """Multipliers of the units' outputs; differentiable in the scores where those are trained.

        The mask itself, the gradient passed straight through to the scores.
        """
        if not (training and self.trained):
            return mask
        return Units(*(m + s - s.detach() for m, s in zip(mask, self.scores, strict=True)))

    def observe(self, squares: Units) -> None:
        """Learn from squared gradients of the loss with respect to the gates, after each step's backward pass.

        Args:
            squares: summed over the samples of the step, [layers, units]; per-sample gradients where ``per_sample``.
        """

    def penalty(self, limit: float, fixed: float, dense: float) -> Tensor | None:
        """What is added to the loss; None for nothing.

        Args:
            limit: the budget in force.
            fixed: cost of what is no unit.
            dense: cost of the dense model.
        """
        return None

    def worth(self) -> Units:
        """What every unit is worth, per cost where ``weighted``; not negative. As the scores began: of the search."""
        # Shifted by what all have in common, which changes no choice, so that nothing overflows.
        top = max(float(part.detach().max()) for part in self.scores)
        return Units(*(((part - top) * self._scale).exp() for part in self.scores))

    # Whether ``worth`` is per cost.
    weighted = True

    def importance(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the projection maximises, [layers, units] each."""
        worth = [part.detach().double().cpu().numpy() for part in self.worth()]
        least = _LEAST * max(float(part.max()) for part in worth)
        scale = sum(self._costs)
        factors = [cost / scale if self.weighted else 1.0 for cost in self._costs]
        heads, filters = ((part + least) * factor for part, factor in zip(worth, factors, strict=True))
        return heads, filters

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` needs to go on from here, beside the optimizer's own state."""
        return {"heads": self.scores.heads.detach(), "filters": self.scores.filters.detach()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a ``state``."""
        with torch.no_grad():
            for tensor, name in zip(self.scores, ("heads", "filters"), strict=True):
                tensor.copy_(state[name])


class Movement(Scorer):
    """Hard movement: S falls with the gradient of its gate; who moves away from zero stays.

    Sanh et al. 2020, section 4: the score of a weight accumulates -w ∂L/∂w; here of a unit, -∂L/∂gate, which is the
    sum of that over the unit's output columns.
    """


class SoftMovement(Scorer):
    """Soft movement: units stay while the sigmoid of S is above a threshold; a penalty on its mean pushes it down."""

    def __init__(self, *args: object, strength: float = 0.0, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        self._strength = strength

    def gates(self, mask: Units, training: bool = True) -> Units:
        above = Units(*(m * (s.detach().sigmoid() > THRESHOLD) for m, s in zip(mask, self.scores, strict=True)))
        return super().gates(above, training)

    def penalty(self, limit: float, fixed: float, dense: float) -> Tensor | None:
        if not self._strength:
            return None
        count = sum(s.numel() for s in self.scores)
        total: Tensor = self.scores.heads.sigmoid().sum() + self.scores.filters.sigmoid().sum()
        # Weaker while the budget is wide, as the published code's final_lambda is brought in with the schedule.
        return self._strength * (1 - (limit - fixed) / max(dense - fixed, 1e-30)) * total / count

    def worth(self) -> Units:
        return Units(*(w * (s.sigmoid() > THRESHOLD) for w, s in zip(super().worth(), self.scores, strict=True)))


class HardConcrete(Scorer):
    """L0: random gates from a stretched, clamped logistic; a Lagrangian holds the expected cost at the budget.

    Louizos, Welling and Kingma 2018; with a budget for the constraint, as Wang, Wohlwend and Lei 2020 have it.
    """

    def __init__(self, *args: object, strength: float = 0.0, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        self._rate = strength
        self._multipliers = torch.zeros(2)

    def _starting(self, start: tuple[NDArray[np.float64], NDArray[np.float64]] | None, seed: int) -> Units:
        return Units(*(s + OPEN for s in super()._starting(start, seed)))

    def sample(self) -> Units:
        """Gates drawn anew, each in 0..1, differentiable in the scores."""
        drawn = []
        for scores in self.scores:
            u = torch.rand(scores.shape, generator=self.generator, device=self._device).clamp(1e-6, 1 - 1e-6)
            drawn.append(((u.log() - (1 - u).log() + scores) / TEMPERATURE).sigmoid())
        return Units(*((s * (HIGH - LOW) + LOW).clamp(0, 1) for s in drawn))

    def open_probability(self) -> Units:
        """Probability that a drawn gate is not 0."""
        return Units(*((s - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid() for s in self.scores))

    def gates(self, mask: Units, training: bool = True) -> Units:
        """Drawn gates in training; at test time clamp(sigmoid(S) (r - l) + l, 0, 1), always the same. Not binary."""
        mean = Units(*((s.detach().sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1) for s in self.scores))
        values = self.sample() if training else mean
        return Units(*(v * m for v, m in zip(values, mask, strict=True)))

    def expected_cost(self, fixed: float) -> Tensor:
        """Of the units that are open, plus what is no unit."""
        heads, filters = self.open_probability()
        return fixed + heads.sum() * self._costs[0] + filters.sum() * self._costs[1]

    def penalty(self, limit: float, fixed: float, dense: float) -> Tensor | None:
        excess = (self.expected_cost(fixed) - limit) / dense
        first, second = self._multipliers.tolist()
        loss = first * excess + second * excess.square()
        # The multipliers rise against the excess: gradient ascent.
        value = float(excess.detach())
        self._multipliers += self._rate * torch.tensor([value, value**2])
        return loss

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "multipliers": self._multipliers, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._multipliers = state["multipliers"].clone()
        self.generator.set_state(state["generator"].cpu())


class _Observed(Scorer):
    """Scores that no optimizer trains."""

    @property
    def trained(self) -> bool:
        return False

    def worth(self) -> Units:
        return self.scores


class RunningFisher(_Observed):
    """Fisher information of the gates as weights change: squared per-sample gradients, the last hundred steps' most."""

    per_sample = True
    weighted = False

    def _starting(self, start: tuple[NDArray[np.float64], NDArray[np.float64]] | None, seed: int) -> Units:
        if start is None:
            return super()._starting(start, seed)
        total = sum(float(part.sum()) for part in start) or 1.0
        return Units(*(torch.from_numpy(part / total).float() for part in start))

    def observe(self, squares: Units) -> None:
        # Relative to their sum: the loss shrinks while training, the units' shares of it are what counts.
        total = sum(float(s.sum()) for s in squares) + 1e-30
        with torch.no_grad():
            for scores, square in zip(self.scores, squares, strict=True):
                scores.mul_(DECAY).add_(square / total, alpha=1 - DECAY)


class Magnitude(_Observed):
    """Norm of a unit's output columns, relative to the mean of its kind."""

    def worth(self) -> Units:
        size = self._encoder.shape.head_size
        norms = []
        for role, width in (("attention_output", size), ("ffn_output", 1)):
            rows = []
            for layer in self._encoder:
                columns = layer.get(role).weight.detach().square().sum(0)
                rows.append(columns.reshape(-1, width).sum(1).sqrt())
            stacked = torch.stack(rows)
            norms.append(stacked / stacked.mean().clamp_min(1e-30))
        return Units(*norms)


class Random(_Observed):
    """A control: the order is drawn once."""

    def _starting(self, start: tuple[NDArray[np.float64], NDArray[np.float64]] | None, seed: int) -> Units:
        generator = torch.Generator().manual_seed(seed)
        return Units(*(torch.rand(size, generator=generator) for size in self._sizes))


SCORERS: dict[str, type[Scorer]] = {
    "movement": Movement,
    "soft-movement": SoftMovement,
    "l0": HardConcrete,
    "fisher": RunningFisher,
    "magnitude": Magnitude,
    "random": Random,
}


def scorer_of(
    recipe: StructureRecipe,
    encoder: Encoder,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    costs: tuple[float, float],
    seed: int,
) -> Scorer:
    """The scorer that a recipe names.

    Raises:
        ConfigError: there is none of that name.
    """
    kind = SCORERS.get(recipe.scorer)
    if kind is None:
        raise ConfigError(f"there is no scorer '{recipe.scorer}'; there are {', '.join(SCORERS)}")
    begin = start if recipe.start == "search" else None
    if issubclass(kind, SoftMovement | HardConcrete):
        return kind(encoder, begin, costs, seed, strength=recipe.penalty)
    return kind(encoder, begin, costs, seed)
