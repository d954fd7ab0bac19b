"""The structure while it is being found: scores, schedule and projection make the mask of every step."""

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
from compress.fineprune.scores import Scorer, Units
from compress.models.encoder import Encoder
from compress.pruning.masks import Gates, apply_gates
from compress.search.costs import Costs

# Gives the structure that the scores choose within a limit.
Choose = Callable[[float], Structure]
# Gives the structure that is to stay, and the limit that it was chosen for.
Settle = Callable[[Choose], tuple[Structure, float]]


class Masking:
    """Chooses the mask as the budget falls.

    Args:
        encoder: the dense model that is trained.
        scorer: what units are worth.
        costs: of widths, with the final budget as their limit.
        schedule: of the budget.
        every: steps between projections.
        settle: has the last word as the mask freezes; None takes what the scores choose within the final budget.

    Attributes:
        structure: chosen last.
        mask: 1 for its units, [layers, units].
        history: all projections.
    """

    def __init__(
        self,
        encoder: Encoder,
        scorer: Scorer,
        costs: Costs,
        schedule: Schedule,
        every: int,
        settle: Settle | None = None,
    ) -> None:
        self._encoder, self.scorer, self._costs, self._schedule, self._every = encoder, scorer, costs, schedule, every
        self._settle, self._frozen = settle, False
        self.history: list[Projected] = []
        self._device = next(encoder.model.parameters()).device
        self._set(Structure.dense(encoder.shape))
        # Of the step under way: whether scores learn, the gates, and their gradients with the parts' shares.
        self._learns = False
        self._gates = self.mask
        self._collected: list[tuple[Units, float]] = []

    @property
    def parameters(self) -> list[Tensor]:
        """See ``Mask``."""
        return self.scorer.parameters

    def budget(self, step: int) -> float:
        """In force at a step."""
        return self._schedule.at(step)

    def learning(self, step: int) -> bool:
        """Whether scores still matter at a step."""
        return not self._schedule.frozen(step)

    def advance(self, step: int) -> bool:
        """Project the scores where a projection is due; whether the structure changed."""
        if self._frozen or (step % self._every and not self._schedule.frozen(step)):
            return False
        before = self.structure
        if self._schedule.frozen(step):
            self._freeze(step)
        else:
            limit = self._schedule.at(step)
            self._choose(step, self.project(limit, exact=False), limit)
        return self.structure != before

    def conclude(self, steps: int) -> None:
        """Freeze the mask where no step did: in phases of few steps, or where ``last`` is none."""
        if not self._frozen:
            self._freeze(steps)

    def _freeze(self, step: int) -> None:
        # Exact: the end is to use the budget, and not to be off by what projecting in a hurry costs. Settled now and
        # not at the end of the phase, so that the steps that are left train what will be carried out.
        self._frozen, end = True, self._schedule.end
        with torch.no_grad():
            self._choose(step, *((self.project(end), end) if self._settle is None else self._settle(self.project)))

    def _choose(self, step: int, structure: Structure, limit: float) -> None:
        self._set(structure)
        self.history.append(Projected(step, limit, cost_of(self._costs, structure.widths)))

    def project(self, limit: float, *, exact: bool = True) -> Structure:
        """The structure that the scores choose within a limit."""
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
            # What hidden states should be is no reason for a unit to stay: scores see the outputs' loss alone.
            gradients = Units(*torch.autograd.grad(losses.outputs, list(leaves), retain_graph=True))
        (share * losses.total).backward()
        if learns:
            if not apart:
                gradients = Units(*(g.grad / share if g.grad is not None else torch.zeros_like(g) for g in leaves))
            self._collected.append((gradients, share))
        return losses

    def end(self, step: int, group: Group) -> bool:
        """See ``Mask``."""
        scorer, collected = self.scorer, self._collected
        if not (self._learns and (scorer.per_sample or scorer.parameters)):
            return False
        total = [torch.zeros_like(mask) for mask in self.mask]
        for gradients, share in collected:
            for whole, gradient in zip(total, gradients, strict=True):
                # Per sample of the mean loss over a part; a sample's own is that times the part's size.
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
        history = [[one.step, one.budget, one.cost] for one in self.history[-1:]]
        return [self.structure.heads, self.structure.filters, history], self.scorer.state()

    def restore(self, facts: Any, tensors: dict[str, Tensor], step: int) -> None:
        """See ``Mask``."""
        heads, filters = (tuple(map(tuple, units)) for units in facts[:2])
        self._set(Structure(heads, filters))
        self.history = [Projected(*one) for one in facts[2]]
        self._frozen = self._schedule.frozen(step - 1) if step else False
        self.scorer.restore(tensors)

    def _set(self, structure: Structure) -> None:
        self.structure = structure
        masks = masks_of(structure, self._encoder.shape)
        self.mask = Units(*(torch.from_numpy(m).float().to(self._device) for m in masks))


def masking_schedule(costs: Costs, layers: int, steps: int, first: float, last: float) -> Schedule:
    """From the dense model's cost to the budget, in the budget's unit.

    Raises:
        BudgetUnreachable: the budget is below what is left when every sublayer is removed.
    """
    dense = dense_cost(costs, layers)
    if costs.limit < costs.fixed:
        raise BudgetUnreachable(
            f"budget {costs.limit:g} is below {costs.fixed:g}, which remains when every head and filter is removed"
        )
    return schedule_of(dense, min(costs.limit, dense), steps, first, last)


def as_gates(units: Units) -> Gates:
    """Rows of layers, as the hooks take them; [layers, units] or [layers, batch, units]."""
    return Gates(heads=tuple(units.heads.unbind(0)), filters=tuple(units.filters.unbind(0)))


def fold(encoder: Encoder, gates: Units) -> None:
    """Multiply gates [layers, units] into the columns of W_o and W_2, in place: then they may be taken off."""
    size = encoder.shape.head_size
    with torch.no_grad():
        for layer, heads, filters in zip(encoder, gates.heads, gates.filters, strict=True):
            layer.get("attention_output").weight.mul_(heads.repeat_interleave(size))
            layer.get("ffn_output").weight.mul_(filters)
