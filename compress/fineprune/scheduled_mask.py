"""What masks on units and masks on single weights have in common: scores, a schedule, a choice every few steps."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch import Tensor

from compress.fineprune.mask_protocol import Projected
from compress.fineprune.schedule import Schedule
from compress.fineprune.scores import Scorer

S = TypeVar("S", bound=Scorer)


class ScheduledMask(Generic[S]):
    """A mask that is chosen anew while its budget falls, until it freezes.

    Args:
        scorer: scores what may be masked.
        schedule: of the budget.
        every: steps between choices.

    Attributes:
        scorer: as given.
        history: all choices.
    """

    def __init__(self, scorer: S, schedule: Schedule, every: int) -> None:
        self.scorer, self._schedule, self._every = scorer, schedule, every
        self.history: list[Projected] = []
        self._frozen = False

    @property
    def parameters(self) -> list[Tensor]:
        """See ``Mask``."""
        return self.scorer.parameters

    def _due(self, step: int) -> bool:
        """Whether the mask is chosen anew at a step: every few steps, and when it freezes; never after that."""
        return not self._frozen and (step % self._every == 0 or self._schedule.frozen(step))

    def _last(self) -> list[list[Any]]:
        """The latest choice as plain JSON types, for a checkpoint."""
        return [[one.step, one.budget, one.cost] for one in self.history[-1:]]

    def _go_on(self, last: list[list[Any]], step: int) -> None:
        """Continue after so many steps, from ``_last``."""
        self.history = [Projected(*one) for one in last]
        self._frozen = self._schedule.frozen(step - 1) if step else False
