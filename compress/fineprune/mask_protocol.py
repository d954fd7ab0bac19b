"""The interface between the training loop and a mask that changes during training.

``masking.py`` implements it for heads and filters, ``sparsity/masking.py`` for single weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from compress.distributed.group import Group
from compress.fineprune.distill import Losses


@dataclass(frozen=True)
class Projected:
    """One choice: at ``step`` a structure of ``cost`` was chosen for ``budget``; cost <= budget."""

    step: int
    budget: float
    cost: float


class Mask(Protocol):
    """A step is ``advance``, ``begin``, one ``part`` or several, ``end``; then the optimizers step."""

    @property
    def parameters(self) -> list[Tensor]:
        """Scores that an optimizer trains; may be empty."""

    @property
    def history(self) -> Sequence[Projected]:
        """All choices so far."""

    def advance(self, step: int) -> bool:
        """Choose again if a choice is due; returns whether the mask changed."""

    def begin(self, step: int) -> None:
        """Draw the random gates of a step."""

    def part(self, forward: Callable[[], Losses], share: float, size: int) -> Losses:
        """Run forward and backward passes of a part of a step, masked.

        Args:
            forward: computes the losses of the part.
            share: of the step's loss, over all processes.
            size: examples in it.
        """

    def restart(self) -> None:
        """Forget the parts since ``begin``: memory ran out, and all of them come again, smaller."""

    def end(self, step: int, group: Group) -> bool:
        """Complete the gradients of weights and scores.

        Args:
            step: of the phase.
            group: processes whose parts make up the step. Gradients of the weights are summed over them already.

        Returns:
            Whether the scores have gradients.
        """

    def settled(self) -> AbstractContextManager[None]:
        """Mask the model as at test time while the block runs."""

    def state(self) -> tuple[Any, dict[str, Tensor]]:
        """What ``restore`` needs to continue from here: plain JSON types, and tensors by name."""

    def restore(self, facts: Any, tensors: dict[str, Tensor], step: int) -> None:
        """Continue from a ``state``.

        Args:
            facts: its JSON types.
            tensors: its tensors.
            step: how many steps have been made.
        """
