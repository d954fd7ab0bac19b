"""Scores of heads and filters while weights are trained: one small class per scorer.

Units of two kinds compete for one budget. Movement and L0 scores say nothing about a unit's size, so they are read as
worth *per cost*: then the units above a threshold are the ones that a budget buys, of either kind. Fisher information
adds up over units and is taken as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.core.errors import ConfigError
from compress.fineprune.recipe import StructureRecipe
from compress.fineprune.scores import HIGH, LOW, TEMPERATURE, THRESHOLD, HardConcrete, Scorer, standard_logs
from compress.models.encoder import Encoder

# Importance in the search: of heads [layers, heads] and of filters [layers, filters].
UnitImportance = tuple[NDArray[np.float64], NDArray[np.float64]]
# Share of the running Fisher information that is kept, per step.
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


class UnitScorer(Scorer):
    """Scores of all units.

    Args:
        encoder: the dense model that is trained.
        start: worth of the units at the start, not negative, [layers, units] each; None for all alike.
        costs: of a head and of a filter, in the budget's unit.
        seed: of random choices.
        strength: of the penalty, where the scorer has one; see ``ScoredRates.penalty``.
    """

    # Whether the masking collects the gates' gradients per sample.
    per_sample = False
    # Whether ``worth`` is per cost.
    weighted = True

    def __init__(
        self,
        encoder: Encoder,
        start: UnitImportance | None,
        costs: tuple[float, float],
        seed: int = 0,
        strength: float = 0.0,
    ) -> None:
        self._encoder, self._costs, self._scale = encoder, costs, 1.0
        shape = encoder.shape
        self._sizes = (shape.layers, shape.heads), (shape.layers, shape.filters)
        self._device = encoder.device
        self.generator = torch.Generator().manual_seed(seed)
        super().__init__([part.to(self._device) for part in self._starting(start, seed)], Units._fields, strength)
        for scores in self.scores:
            scores.requires_grad_(self.trained)

    @property
    def units(self) -> Units:
        """The scores, by kind of unit."""
        return Units(*self.scores)

    def _starting(self, start: UnitImportance | None, seed: int) -> list[Tensor]:
        """Scores at the start: standardized logarithms of the worth per cost."""
        if start is None:
            return [torch.zeros(size) for size in self._sizes]
        density = [torch.from_numpy(part / cost) for part, cost in zip(start, self._costs, strict=True)]
        scores, self._scale = standard_logs(density, _SMALLEST)
        return scores

    def gates(self, mask: Units, training: bool = True) -> Units:
        """Multipliers of the units' outputs: the mask, whose gradient passes straight through to trained scores.

        Args:
            mask: 1 for the units that stay, [layers, units].
            training: False gives the gates of test time, without gradient.

        Returns:
            Gates like the mask.
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
        """A term that is added to the loss.

        Args:
            limit: the budget at this step.
            fixed: cost of everything but heads and filters.
            dense: cost of the dense model.

        Returns:
            A scalar, differentiable in the scores; None for no term.
        """
        return None

    def worth(self) -> Units:
        """Worth of every unit, per cost where ``weighted``; not negative. At the start it is the search's."""
        # The shift by the highest score changes no choice and prevents overflow.
        top = max(float(part.detach().max()) for part in self.scores)
        return Units(*(((part - top) * self._scale).exp() for part in self.scores))

    def importance(self) -> UnitImportance:
        """The numbers that the projection maximises, [layers, units] each."""
        worth = [part.detach().cpu().double().numpy() for part in self.worth()]
        least = _LEAST * max(float(part.max()) for part in worth)
        scale = sum(self._costs)
        factors = [cost / scale if self.weighted else 1.0 for cost in self._costs]
        heads, filters = ((part + least) * factor for part, factor in zip(worth, factors, strict=True))
        return heads, filters


class UnitMovement(UnitScorer):
    """Hard movement: S falls with the gradient of its gate; units that move away from zero stay.

    Sanh et al. 2020, section 4: the score of a weight accumulates -w ∂L/∂w; here of a unit, -∂L/∂gate, which is the
    sum of that over the unit's output columns.
    """


class UnitSoftMovement(UnitScorer):
    """Soft movement: units stay while the sigmoid of S is above a threshold; a penalty on its mean pushes it down.

    Source: Sanh et al. 2020, section 4.
    """

    def gates(self, mask: Units, training: bool = True) -> Units:
        above = Units(*(m * (s.detach().sigmoid() > THRESHOLD) for m, s in zip(mask, self.scores, strict=True)))
        return super().gates(above, training)

    def penalty(self, limit: float, fixed: float, dense: float) -> Tensor | None:
        if not self._strength:
            return None
        count = sum(s.numel() for s in self.scores)
        total: Tensor = self.units.heads.sigmoid().sum() + self.units.filters.sigmoid().sum()
        # Weaker while the budget is wide: the published code brings its final_lambda in with the schedule.
        return self._strength * (1 - (limit - fixed) / max(dense - fixed, 1e-30)) * total / count

    def worth(self) -> Units:
        return Units(*(w * (s.sigmoid() > THRESHOLD) for w, s in zip(super().worth(), self.scores, strict=True)))


class UnitHardConcrete(UnitScorer, HardConcrete):
    """L0 on units, by autograd. The budget is a cost; random numbers go on from step to step."""

    def sample(self) -> Units:
        """Draw gates, each in 0..1, differentiable in the scores."""
        drawn = []
        for scores in self.scores:
            u = torch.rand(scores.shape, generator=self.generator).to(self._device).clamp(1e-6, 1 - 1e-6)
            drawn.append(((u.log() - (1 - u).log() + scores) / TEMPERATURE).sigmoid())
        return Units(*((s * (HIGH - LOW) + LOW).clamp(0, 1) for s in drawn))

    def gates(self, mask: Units, training: bool = True) -> Units:
        """Random gates in training, the mean gates at test time; neither are binary. See ``UnitScorer``."""
        values = self.sample() if training else self.mean_gates()
        return Units(*(v * m for v, m in zip(values, mask, strict=True)))

    def expected_cost(self, fixed: float) -> Tensor:
        """Expected cost of open units plus the fixed cost."""
        heads, filters = self.open_probability()
        return fixed + heads.sum() * self._costs[0] + filters.sum() * self._costs[1]

    def penalty(self, limit: float, fixed: float, dense: float) -> Tensor | None:
        excess = (self.expected_cost(fixed) - limit) / dense
        first, second = self._multipliers.tolist()
        self._rise(float(excess.detach()))
        return first * excess + second * excess.square()

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.generator.set_state(state["generator"].cpu())


class _Observed(UnitScorer):
    """Scores that no optimizer trains."""

    trained = False

    def worth(self) -> Units:
        return self.units


class RunningFisher(_Observed):
    """Fisher information of the gates as weights change: a running mean of squared per-sample gradients."""

    per_sample = True
    weighted = False

    def _starting(self, start: UnitImportance | None, seed: int) -> list[Tensor]:
        if start is None:
            return super()._starting(start, seed)
        total = sum(float(part.sum()) for part in start) or 1.0
        return [torch.from_numpy(part / total).float() for part in start]

    def observe(self, squares: Units) -> None:
        # Relative to their sum: the loss shrinks in training, and only the units' shares of it count.
        total = sum(float(s.sum()) for s in squares) + 1e-30
        with torch.no_grad():
            for scores, square in zip(self.scores, squares, strict=True):
                scores.mul_(DECAY).add_(square / total, alpha=1 - DECAY)


class UnitMagnitude(_Observed):
    """Norm of a unit's output columns, relative to the mean over its kind."""

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
    """A control: a random order, drawn once."""

    def _starting(self, start: UnitImportance | None, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(size, generator=generator) for size in self._sizes]


SCORERS: dict[str, type[UnitScorer]] = {
    "movement": UnitMovement,
    "soft-movement": UnitSoftMovement,
    "l0": UnitHardConcrete,
    "fisher": RunningFisher,
    "magnitude": UnitMagnitude,
    "random": Random,
}


def scorer_of(
    recipe: StructureRecipe, encoder: Encoder, start: UnitImportance | None, costs: tuple[float, float], seed: int
) -> UnitScorer:
    """The scorer that a recipe names.

    Args:
        recipe: scorer, start and penalty.
        encoder: the dense model that is trained.
        start: importance of the units in the search, [layers, units] each; None if it is unknown.
        costs: of a head and of a filter, in the budget's unit.
        seed: of random choices.

    Raises:
        ConfigError: there is no scorer of that name.
    """
    kind = SCORERS.get(recipe.scorer)
    if kind is None:
        raise ConfigError(f"there is no scorer '{recipe.scorer}'; there are {', '.join(SCORERS)}")
    return kind(encoder, start if recipe.start == "search" else None, costs, seed, recipe.penalty)
