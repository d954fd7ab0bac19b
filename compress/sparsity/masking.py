"""Masks on single weights in training: the ``Mask`` that the training loop asks for.

During the forward and backward passes of a step the parameters hold the masked weights, before and after it the
unmasked ones. So the model needs no other modules, a step costs two products per element, and several processes share
gradients as for any model.
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
from compress.fineprune.scheduled_mask import ScheduledMask
from compress.fineprune.train import seed_of
from compress.models.placement import exact_sum
from compress.sparsity.matrices import count_of
from compress.sparsity.scores import ElementScorer
from compress.sparsity.topk import Selection, choose


class ElementMasking(ScheduledMask[ElementScorer]):
    """Chooses the elements while the fraction that may stay falls.

    Args:
        matrices: parameters that are masked.
        scorer: scores their elements.
        schedule: of the fraction that stays.
        selection: over all matrices, or in each.
        every: steps between choices.
        seed: of random gates.

    Attributes:
        masks: 1 for the elements of the latest choice, like ``matrices``.
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
        super().__init__(scorer, schedule, every)
        self._matrices, self._selection, self._seed = list(matrices), selection, seed
        self._count = count_of([matrix.detach() for matrix in matrices])
        self.masks = [torch.ones_like(matrix.detach()) for matrix in matrices]
        # Of the current step: whether scores learn, weights without masks, gates, ∂L/∂W' of the outputs' loss alone.
        self._learns = False
        self._unmasked: list[Tensor] = []
        self._gates: Sequence[Tensor] = ()
        self._apart: list[Tensor] = []

    def advance(self, step: int) -> bool:
        """See ``Mask``."""
        if not self._due(step):
            return False
        self._frozen = self._schedule.frozen(step)
        before = self.masks
        self.masks = choose(self.scorer.worth(), self._schedule.at(step), self._selection)
        kept = sum(exact_sum(mask) for mask in self.masks) / self._count
        self.history.append(Projected(step, self._schedule.at(step), kept))
        return any(not torch.equal(old, new) for old, new in zip(before, self.masks, strict=True))

    def begin(self, step: int) -> None:
        """See ``Mask``."""
        self._learns = self.scorer.trained and not self._frozen
        generator = None
        if not self._frozen:
            # Once the masks are frozen, weights are trained with the gates of test time.
            generator = torch.Generator().manual_seed(seed_of(self._seed, "gates", step))
        self._gates = self.scorer.gates(self.masks, generator)
        self._apart = []
        self._put_on()

    def part(self, forward: Callable[[], Losses], share: float, size: int) -> Losses:
        """See ``Mask``."""
        losses = forward()
        if self._learns and losses.hidden is not None:
            # Scores learn from the outputs' loss alone: matching hidden states is not a reason to keep a weight.
            gradients = torch.autograd.grad(
                share * losses.outputs, self._matrices, retain_graph=True, allow_unused=True
            )
            found = [torch.zeros_like(m) if g is None else g for g, m in zip(gradients, self._matrices, strict=True)]
            self._apart = found if not self._apart else [a + g for a, g in zip(self._apart, found, strict=True)]
        (share * losses.total).backward()
        return losses

    def restart(self) -> None:
        """See ``Mask``."""
        self._apart = []

    def end(self, step: int, group: Group) -> bool:
        """See ``Mask``."""
        self._take_off()
        group.add(self._apart)
        pulls = []
        for number, (matrix, gate) in enumerate(zip(self._matrices, self._gates, strict=True)):
            if matrix.grad is None:
                matrix.grad = torch.zeros_like(matrix)
            if self._learns:
                gradient = self._apart[number] if self._apart else matrix.grad
                pulls.append(gradient * matrix.detach())
            matrix.grad.mul_(gate)
        self._gates, self._apart = (), []
        if not self._learns:
            return False
        self.scorer.learn(pulls)
        self.scorer.press(self._schedule.at(step))
        return True

    @contextmanager
    def settled(self) -> Iterator[None]:
        """See ``Mask``."""
        self._gates = self.scorer.gates(self.masks, None)
        self._put_on()
        try:
            yield
        finally:
            self._take_off()

    def fold(self) -> None:
        """Multiply the gates of test time into the weights, in place, for good."""
        with torch.no_grad():
            for matrix, gate in zip(self._matrices, self.scorer.gates(self.masks, None), strict=True):
                matrix.mul_(gate)

    def state(self) -> tuple[Any, dict[str, Tensor]]:
        """See ``Mask``."""
        masks = {f"mask.{number}": mask.bool() for number, mask in enumerate(self.masks)}
        return self._last(), {**masks, **self.scorer.state()}

    def restore(self, facts: Any, tensors: dict[str, Tensor], step: int) -> None:
        """See ``Mask``."""
        self._go_on(facts, step)
        self.masks = [tensors[f"mask.{number}"].to(matrix.dtype) for number, matrix in enumerate(self._matrices)]
        self.scorer.restore(tensors)

    def _put_on(self) -> None:
        self._unmasked = [matrix.data for matrix in self._matrices]
        for matrix, gate in zip(self._matrices, self._gates, strict=True):
            matrix.data = matrix.data * gate

    def _take_off(self) -> None:
        for matrix, unmasked in zip(self._matrices, self._unmasked, strict=True):
            matrix.data = unmasked
        self._unmasked = []
