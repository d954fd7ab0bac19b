"""The matrices that are made sparse: those of the encoder's linear layers, according to the family's entry."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from compress.models.encoder import Encoder
from compress.models.families import INPUTS

_ROLES = (*INPUTS["attention"], "attention_output", *INPUTS["ffn"], "ffn_output")


def matrices_of(encoder: Encoder) -> dict[str, nn.Parameter]:
    """Weights of the linear layers in all encoder layers, by their name in the model's state; each once, in order.

    Embeddings, norms, biases and the head are not among them.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for layer in encoder:
        modules = {layer.name(role): layer.get(role) for role in _ROLES if getattr(layer.family, role) is not None}
        for name, module in {**modules, **layer.further_by_head()}.items():
            # One matrix may have several roles, and several modules one matrix.
            if id(module.weight) not in seen:
                seen.add(id(module.weight))
                found[f"{name}.weight"] = cast("nn.Parameter", module.weight)
    return found


def count_of(matrices: list[Tensor]) -> int:
    """Elements of all of them."""
    return sum(matrix.numel() for matrix in matrices)
