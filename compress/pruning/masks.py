"""Gates on heads and filters: multipliers, 1 by default, applied by forward-pre-hooks.

They are the mask variables of Kwon et al. 2022, section 3. A head's gate multiplies the d_h columns that the head feeds
into W_o. A filter's gate multiplies the one column that the filter feeds into W_2. The attention kernel is not touched,
so any attention implementation works. A gate at 0 equals physical removal. The gradient of the loss with respect to a
gate does not vanish at 0, so masked units have an importance too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.plan import Structure
from compress.models.encoder import Encoder


@dataclass(frozen=True)
class Gates:
    """Multipliers of all heads and filters.

    Attributes:
        heads: per layer ``[heads]``, or ``[batch, heads]`` with one gate per sample.
        filters: per layer ``[filters]`` or ``[batch, filters]``.
    """

    heads: tuple[Tensor, ...]
    filters: tuple[Tensor, ...]

    @classmethod
    def ones(cls, encoder: Encoder) -> Gates:
        """All gates at 1: they change nothing."""
        shape, device = encoder.shape, encoder.device
        return cls(
            heads=tuple(torch.ones(shape.heads, device=device) for _ in encoder),
            filters=tuple(torch.ones(shape.filters, device=device) for _ in encoder),
        )

    @classmethod
    def of(cls, structure: Structure, encoder: Encoder) -> Gates:
        """Gates at 1 for the units that a structure keeps, at 0 for the others.

        Args:
            structure: heads and filters to keep.
            encoder: gives the dense sizes.

        Returns:
            ``[heads]`` and ``[filters]`` per layer, float32.
        """
        gates = cls.ones(encoder)
        for tensors, kept in ((gates.heads, structure.heads), (gates.filters, structure.filters)):
            for tensor, units in zip(tensors, kept, strict=True):
                tensor.zero_()
                tensor[list(units)] = 1.0
        return gates

    def per_sample(self, batch: int) -> Gates:
        """A copy with one gate per sample, ``[batch, units]``, that collects gradients.

        With the *summed* loss of a batch, one backward pass gives true per-sample gradients. The code published with
        Kwon et al. takes the gradient of a mini-batch's mean loss, which averages gradients before they are squared.
        """
        return Gates(
            heads=tuple(g.expand(batch, -1).clone().requires_grad_() for g in self.heads),
            filters=tuple(g.expand(batch, -1).clone().requires_grad_() for g in self.filters),
        )


def _gate(module: nn.Module, gate: Tensor, unit_size: int) -> Any:
    def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = arguments[0]
        scale = gate if unit_size == 1 else gate.repeat_interleave(unit_size, dim=-1)
        # [batch, units] gets an axis for the positions; [units] broadcasts as it is.
        scale = scale.unsqueeze(1) if scale.dim() == 2 else scale
        return (x * scale.to(x.dtype), *arguments[1:])

    return module.register_forward_pre_hook(hook)


@contextmanager
def apply_gates(encoder: Encoder, gates: Gates) -> Iterator[None]:
    """Multiply the encoder's heads and filters by gates while the block runs.

    Args:
        encoder: the dense encoder.
        gates: one per unit, or one per sample and unit.
    """
    handles = []
    try:
        for layer, heads, filters in zip(encoder, gates.heads, gates.filters, strict=True):
            handles.append(_gate(layer.get("attention_output"), heads, encoder.shape.head_size))
            handles.append(_gate(layer.get("ffn_output"), filters, 1))
        yield
    finally:
        for handle in handles:
            handle.remove()
