"""What the training loop asks of whatever decides, step by step, what is left of the model.

Gates on heads and filters are one answer (``masking.py``), masks on single weights another (``compress.sparsity``).
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
    """One choice: at ``step`` something of ``cost`` was chosen for ``budget``; cost <= budget."""

    step: int
    budget: float
    cost: float


class Mask(Protocol):
    """A step is ``advance``, ``begin``, one ``part`` or several, ``end``; then the optimizers step."""

    @property
    def parameters(self) -> list[Tensor]:
        """Scores that an optimizer trains; empty where there are none."""

    @property
    def history(self) -> Sequence[Projected]:
        """All choices so far."""

    def advance(self, step: int) -> bool:
        """Choose anew where that is due; whether the choice changed."""

    def begin(self, step: int) -> None:
        """Draw what is random in a step."""

    def part(self, forward: Callable[[], Losses], share: float, size: int) -> Losses:
        """Forward and backward pass of a part of a step, masked.

        Args:
            forward: gives the losses of the part.
            share: of the step's loss, over all processes.
            size: examples in it.
        """

    def end(self, step: int, group: Group) -> bool:
        """Leave the gradients of weights and scores as they should be; whether scores have any.

        Args:
            step: of the phase.
            group: processes whose parts make up the step. Gradients of the weights are summed over them already.
        """

    def settled(self) -> AbstractContextManager[None]:
        """The model masked as at test time, for as long as the block runs."""

    def state(self) -> tuple[Any, dict[str, Tensor]]:
        """What ``restore`` needs to go on from here: plain JSON types, and tensors by name."""

    def restore(self, facts: Any, tensors: dict[str, Tensor], step: int) -> None:
        """Go on with a ``state`` after so many steps."""
