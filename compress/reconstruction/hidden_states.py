"""Hidden states of a model in a forward pass, and their distance from a teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.models.encoder import Encoder


class HiddenStates:
    """Records the output of every encoder layer in each forward pass."""

    def __init__(self, encoder: Encoder) -> None:
        self.states: list[Tensor] = []
        self._handles = [layer.module.register_forward_hook(self._catch) for layer in encoder]

    def _catch(self, _: nn.Module, __: Any, output: Any) -> None:
        self.states.append(output[0] if isinstance(output, tuple) else output)

    def take(self) -> list[Tensor]:
        """Return the states [batch, sequence, hidden] since the last call, first layer first."""
        states, self.states = self.states, []
        return states

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def hidden_distance(taught: list[Tensor], own: list[Tensor], real: Tensor, read: Tensor | None) -> Tensor:
    """Squared error of hidden states at real tokens, relative to their variance.

    Args:
        taught: states of the teacher, [batch, sequence, hidden] per layer.
        own: states of the student, of the same shapes.
        real: real tokens, bool [batch, sequence].
        read: positions of the last hidden state that count, [n]; None for all.

    Returns:
        Scalar, the sum over layers; the last layer counts as much as all others together.
    """
    total = own[0].new_zeros(())
    for number, (target, state) in enumerate(zip(taught, own, strict=True)):
        last = number == len(own) - 1
        wanted = real
        if last and read is not None:
            wanted = torch.zeros_like(real)
            wanted[:, read] = real[:, read]
        target = target[wanted]
        error = (state[wanted] - target).square().mean() / target.var(0, correction=0).mean().clamp_min(1e-6)
        # The head reads the last layer, so it counts as much as all layers before it together.
        total = total + error / (1 if last else max(1, len(own) - 1))
    return total
