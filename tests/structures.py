"""Random structures, and the plainest possible gates to check what removal does to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hypothesis import strategies as st

from compress.architectures import Encoder
from compress.plan import EncoderShape, Structure, Widths


def _kept(units: int) -> st.SearchStrategy[tuple[int, ...]]:
    # Nothing and everything are the cases with code of their own, so they come up often.
    some = st.sets(st.integers(0, units - 1), min_size=1).map(lambda chosen: tuple(sorted(chosen)))
    return st.one_of(st.just(()), some, st.just(tuple(range(units))))


def structures(shape: EncoderShape) -> st.SearchStrategy[Structure]:
    """Structures of a shape; sublayers without any unit are frequent."""
    heads, filters = (st.tuples(*[_kept(units)] * shape.layers) for units in (shape.heads, shape.filters))
    return st.builds(Structure, heads=heads, filters=filters)


def first_units(widths: Widths) -> Structure:
    """The structure that keeps the first units of every layer."""
    return Structure(
        heads=tuple(tuple(range(width)) for width in widths.heads),
        filters=tuple(tuple(range(width)) for width in widths.filters),
    )


@contextmanager
def gated_to(encoder: Encoder, structure: Structure) -> Iterator[None]:
    """Multiply the inputs of W_o and W_2 by 1 for what a structure keeps and by 0 for the rest."""
    handles = []
    for layer, heads, filters in zip(encoder, structure.heads, structure.filters, strict=True):
        for role, kept, size in (("attention_output", heads, encoder.shape.head_size), ("ffn_output", filters, 1)):
            linear = layer.get(role)
            gate = torch.zeros(linear.in_features // size, size)
            gate[list(kept)] = 1.0

            def hook(_: Any, inputs: tuple[torch.Tensor, ...], gate: torch.Tensor = gate) -> tuple[torch.Tensor, ...]:
                return (inputs[0] * gate.flatten(), *inputs[1:])

            handles.append(linear.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def padded_inputs(family: str, batch: int = 3, length: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token ids and masks [batch, length], every row but the first with padding of another length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 200, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if family == "bert":
        inputs["token_type_ids"] = torch.randint(0, 2, (batch, length), generator=generator)
    return inputs
