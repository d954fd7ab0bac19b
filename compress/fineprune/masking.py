"""Masks on heads and filters in training: scores, schedule and projection give the gates of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compress.core.errors import BudgetUnreachable
from compress.core.plan import Structure
from compress.distributed.group import Group
from compress.fineprune.distill import Losses
from compress.fineprune.mask_protocol import Projected
from compress.fineprune.projection import cost_of, dense_cost, masks_of, project
from compress.fineprune.schedule import Schedule, schedule_of
from compress.fineprune.scheduled_mask import ScheduledMask
from compress.fineprune.unit_scores import Units, UnitScorer
from compress.models.encoder import Encoder
from compress.pruning.masks import Gates, apply_gates
from compress.search.costs import Costs

# From a limit to the structure that the scores choose within it.
Choose = Callable[[float], Structure]
# Decides the final structure, and the limit that it was chosen for.
Settle = Callable[[Choose], tuple[Structure, float]]


class Masking(ScheduledMask[UnitScorer]):
    """Chooses the structure while the budget falls.

    Args:
        encoder: the dense model that is trained.
        scorer: scores its units.
        costs: of widths, with the final budget as their limit.
        schedule: of the budget.
        every: steps between projections.
        settle: decides the final structure when the mask freezes; None takes what the scores choose within the final
            budget.

    Attributes:
        structure: the latest choice.
        mask: 1 for its units, [layers, units].
    """

    def __init__(
        self,
        encoder: Encoder,
        scorer: UnitScorer,
        costs: Costs,
        schedule: Schedule,
        every: int,
        settle: Settle | None = None,
    ) -> None:
        super().__init__(scorer, schedule, every)
        self._encoder, self._costs, self._settle = encoder, costs, settle
        self._device = encoder.device
        self._set(Structure.dense(encoder.shape))
        # Of the current step: whether scores learn, the gates, and the gates' gradients with the parts' shares.
        self._learns = False
        self._gates = self.mask
        self._collected: list[tuple[Units, float]] = []

    def budget(self, step: int) -> float:
        """The budget at a step, in the unit of the costs."""
        return self._schedule.at(step)

    def learning(self, step: int) -> bool:
        """Whether scores still learn at a step."""
        return not self._schedule.frozen(step)

    def advance(self, step: int) -> bool:
        """Project the scores if a projection is due; returns whether the structure changed."""
        if not self._due(step):
            return False
        before = self.structure
        if self._schedule.frozen(step):
            self._freeze(step)
        else:
            limit = self._schedule.at(step)
            self._choose(step, self.project(limit, exact=False), limit)
        return self.structure != before

    def conclude(self, steps: int) -> None:
        """Freeze the mask if no step did: in phases of few steps, or with ``last`` = 0."""
        if not self._frozen:
            self._freeze(steps)

    def _freeze(self, step: int) -> None:
        # Exact, so that the final structure uses the whole budget. Settled now and not at the end of the phase, so that
        # the remaining steps train the structure that will be carried out.
        self._frozen, end = True, self._schedule.end
        with torch.no_grad():
            self._choose(step, *((self.project(end), end) if self._settle is None else self._settle(self.project)))

    def _choose(self, step: int, structure: Structure, limit: float) -> None:
        self._set(structure)
        self.history.append(Projected(step, limit, cost_of(self._costs, structure.widths)))

    def project(self, limit: float, *, exact: bool = True) -> Structure:
        """The structure that the scores choose within a limit.

        Args:
            limit: on the whole model's cost.
            exact: see ``projection.project``.
        """
        return project(*self.scorer.importance(), self._costs, limit, exact=exact)

    def gates(self, training: bool) -> Units:
        """Multipliers of all units; differentiable in the scores where those are trained."""
        return self.scorer.gates(self.mask, training)

    def penalty(self, step: int) -> Tensor | None:
        """See ``Scorer.penalty``."""
        dense = dense_cost(self._costs, self._encoder.shape.layers)
        return self.scorer.penalty(self.budget(step), self._costs.fixed, dense)

    def begin(self, step: int) -> None:
        """See ``Mask``."""
        self._learns, self._collected = self.learning(step), []
        self._gates = self.gates(training=True)

    def part(self, forward: Callable[[], Losses], share: float, size: int) -> Losses:
        """See ``Mask``."""
        gates, learns = self._gates, self._learns
        if self.scorer.per_sample and learns:
            leaves = Units(*(g[:, None].expand(-1, size, -1) for g in gates)).detached()
        else:
            leaves = gates.detached() if learns else Units(*(g.detach() for g in gates))
        with apply_gates(self._encoder, as_gates(leaves)):
            losses = forward()
        apart = learns and losses.hidden is not None
        if apart:
            # Scores learn from the outputs' loss alone: matching hidden states is not a reason to keep a unit.
            gradients = Units(*torch.autograd.grad(losses.outputs, list(leaves), retain_graph=True))
        (share * losses.total).backward()
        if learns:
            if not apart:
                gradients = Units(*(g.grad / share if g.grad is not None else torch.zeros_like(g) for g in leaves))
            self._collected.append((gradients, share))
        return losses

    def restart(self) -> None:
        """See ``Mask``."""
        self._collected = []

    def end(self, step: int, group: Group) -> bool:
        """See ``Mask``."""
        scorer, collected = self.scorer, self._collected
        if not (self._learns and (scorer.per_sample or scorer.parameters)):
            return False
        total = [torch.zeros_like(mask) for mask in self.mask]
        for gradients, share in collected:
            for whole, gradient in zip(total, gradients, strict=True):
                # The gradient of the mean loss over a part; a sample's own is that times the part's size.
                whole += (gradient * gradient.shape[1]).square().sum(1) if scorer.per_sample else share * gradient
        group.add(total)
        if scorer.per_sample:
            scorer.observe(Units(*total))
            return False
        for scores in scorer.parameters:
            scores.grad = None
        torch.autograd.backward(list(self._gates), total)
        penalty = self.penalty(step)
        if penalty is not None and penalty.requires_grad:
            penalty.backward()
        return True

    @contextmanager
    def settled(self) -> Iterator[None]:
        """See ``Mask``."""
        with apply_gates(self._encoder, as_gates(self.gates(training=False))):
            yield

    def state(self) -> tuple[Any, dict[str, Tensor]]:
        """See ``Mask``."""
        return [self.structure.heads, self.structure.filters, self._last()], self.scorer.state()

    def restore(self, facts: Any, tensors: dict[str, Tensor], step: int) -> None:
        """See ``Mask``."""
        heads, filters = (tuple(map(tuple, units)) for units in facts[:2])
        self._set(Structure(heads, filters))
        self._go_on(facts[2], step)
        self.scorer.restore(tensors)

    def _set(self, structure: Structure) -> None:
        self.structure = structure
        masks = masks_of(structure, self._encoder.shape)
        self.mask = Units(*(torch.from_numpy(m).float().to(self._device) for m in masks))


def masking_schedule(costs: Costs, layers: int, steps: int, first: float, last: float) -> Schedule:
    """A schedule from the dense model's cost to the budget, in the budget's unit.

    Args:
        costs: of widths, with the budget as their limit.
        layers: of the model.
        steps: of the phase.
        first: part of the steps before the budget falls.
        last: part of the steps with the final budget.

    Raises:
        BudgetUnreachable: the budget is below the cost of a model without heads and filters.
    """
    dense = dense_cost(costs, layers)
    if costs.limit < costs.fixed:
        raise BudgetUnreachable(
            f"budget {costs.limit:g} is below {costs.fixed:g}, which remains when every head and filter is removed"
        )
    return schedule_of(dense, min(costs.limit, dense), steps, first, last)


def as_gates(units: Units) -> Gates:
    """Gates by layer, as the hooks take them, from [layers, units] or [layers, batch, units]."""
    return Gates(heads=tuple(units.heads.unbind(0)), filters=tuple(units.filters.unbind(0)))


def fold(encoder: Encoder, gates: Units) -> None:
    """Multiply gates into the weights, in place, so that the model needs no gates any more.

    Args:
        encoder: its W_o and W_2 are changed, column by column.
        gates: [layers, units] each.
    """
    size = encoder.shape.head_size
    with torch.no_grad():
        for layer, heads, filters in zip(encoder, gates.heads, gates.filters, strict=True):
            layer.get("attention_output").weight.mul_(heads.repeat_interleave(size))
            layer.get("ffn_output").weight.mul_(filters)
