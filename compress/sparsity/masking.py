"""Masks on single weights while they are being found: what the training loop asks of a mask (``fineprune/masks.py``).

The masked weights stand in the parameters' place during the forward and backward passes of a step, and the unmasked
ones before and after it. So the model needs no other modules, a step costs two products per element, and several
processes share gradients as for any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.distributed.group import Group
from compress.fineprune.distill import Losses
from compress.fineprune.mask_protocol import Projected
from compress.fineprune.schedule import Schedule
from compress.fineprune.train import seed_of
from compress.sparsity.matrices import count_of
from compress.sparsity.scores import ElementScorer
from compress.sparsity.topk import Selection, choose


class ElementMasking:
    """Chooses the masks as the fraction that may stay falls.

    Args:
        matrices: parameters that are masked.
        scorer: what their elements are worth.
        schedule: of the fraction that stays.
        selection: over all matrices, or in each.
        every: steps between choices.
        seed: of what is random.

    Attributes:
        masks: 1 for the elements chosen last, like ``matrices``.
        history: all choices.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        scorer: ElementScorer,
        schedule: Schedule,
        selection: Selection = "global",
        every: int = 1,
        seed: int = 0,
    ) -> None:
        self._matrices, self.scorer, self._schedule = list(matrices), scorer, schedule
        self._selection, self._every, self._seed = selection, every, seed
        self._frozen = False
        self._count = count_of([matrix.detach() for matrix in matrices])
        self.masks = [torch.ones_like(matrix.detach()) for matrix in matrices]
        self.history: list[Projected] = []
        # Of the step under way: whether scores learn, the weights without masks, multipliers, ∂L/∂W' collected apart.
        self._learns = False
        self._unmasked: list[Tensor] = []
        self._multipliers: Sequence[Tensor] = ()
        self._apart: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        """See ``Mask``."""
        return list(self.scorer.scores)

    def advance(self, step: int) -> bool:
        """See ``Mask``."""
        if self._frozen or (step % self._every and not self._schedule.frozen(step)):
            return False
        self._frozen = self._schedule.frozen(step)
        before = self.masks
        self.masks = choose(self.scorer.worth(), self._schedule.at(step), self._selection)
        kept = sum(float(mask.sum(dtype=torch.float64)) for mask in self.masks) / self._count
        self.history.append(Projected(step, self._schedule.at(step), kept))
        return any(not torch.equal(old, new) for old, new in zip(before, self.masks, strict=True))

    def begin(self, step: int) -> None:
        """See ``Mask``."""
        self._learns = self.scorer.trained and not self._frozen
        generator = None
        if not self._frozen:
            # With the masks frozen, weights learn to do with what will be written.
            generator = torch.Generator(self._matrices[0].device).manual_seed(seed_of(self._seed, "gates", step))
        self._multipliers = self.scorer.multipliers(self.masks, generator)
        self._apart = []
        self._put_on()

    def part(self, forward: Callable[[], Losses], share: float, size: int) -> Losses:
        """See ``Mask``."""
        losses = forward()
        if self._learns and losses.hidden is not None:
            # What hidden states should be is no reason for a weight to stay: scores see the outputs' loss alone.
            gradients = torch.autograd.grad(
                share * losses.outputs, self._matrices, retain_graph=True, allow_unused=True
            )
            found = [torch.zeros_like(m) if g is None else g for g, m in zip(gradients, self._matrices, strict=True)]
            self._apart = found if not self._apart else [a + g for a, g in zip(self._apart, found, strict=True)]
        (share * losses.total).backward()
        return losses

    def end(self, step: int, group: Group) -> bool:
        """See ``Mask``."""
        self._take_off()
        group.add(self._apart)
        pulls = []
        for number, (matrix, multiplier) in enumerate(zip(self._matrices, self._multipliers, strict=True)):
            if matrix.grad is None:
                matrix.grad = torch.zeros_like(matrix)
            if self._learns:
                gradient = self._apart[number] if self._apart else matrix.grad
                pulls.append(gradient * matrix.detach())
            matrix.grad.mul_(multiplier)
        self._multipliers, self._apart = (), []
        if not self._learns:
            return False
        self.scorer.learn(pulls)
        self.scorer.press(self._schedule.at(step))
        return True

    @contextmanager
    def settled(self) -> Iterator[None]:
        """See ``Mask``."""
        self._multipliers = self.scorer.multipliers(self.masks, None)
        self._put_on()
        try:
            yield
        finally:
            self._take_off()

    def fold(self) -> None:
        """Multiply the masks of test time into the weights, in place, for good."""
        with torch.no_grad():
            for matrix, multiplier in zip(self._matrices, self.scorer.multipliers(self.masks, None), strict=True):
                matrix.mul_(multiplier)

    def state(self) -> tuple[Any, dict[str, Tensor]]:
        """See ``Mask``."""
        masks = {f"mask.{number}": mask.bool() for number, mask in enumerate(self.masks)}
        history = [[one.step, one.budget, one.cost] for one in self.history[-1:]]
        return history, {**masks, **self.scorer.state()}

    def restore(self, facts: Any, tensors: dict[str, Tensor], step: int) -> None:
        """See ``Mask``."""
        self.history = [Projected(*one) for one in facts]
        self._frozen = self._schedule.frozen(step - 1) if step else False
        self.masks = [tensors[f"mask.{number}"].to(matrix.dtype) for number, matrix in enumerate(self._matrices)]
        self.scorer.restore(tensors)

    def _put_on(self) -> None:
        self._unmasked = [matrix.data for matrix in self._matrices]
        for matrix, multiplier in zip(self._matrices, self._multipliers, strict=True):
            matrix.data = matrix.data * multiplier

    def _take_off(self) -> None:
        for matrix, unmasked in zip(self._matrices, self._unmasked, strict=True):
            matrix.data = unmasked
        self._unmasked = []
