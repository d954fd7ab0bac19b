"""Random structures, and the plainest possible gates to check what removal does to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from compress.core.plan import EncoderShape, Structure, Widths
from compress.models.encoder import Encoder
from support.models import OF_IMAGES

# Of three layers, as the tests that export pruned models have them, so that each is exported once: every kind of
# sublayer whole, cut and gone somewhere; nothing left.
UNEVEN = Widths((1, 0, 4), (0, 7, 20))
EMPTY = Widths((0,) * 3, (0,) * 3)


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
    """Token ids and masks [batch, length], every row but the first with padding of another length; or images."""
    generator = torch.Generator().manual_seed(seed)
    if family in OF_IMAGES:
        return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=generator)}
    ids = torch.randint(5, 200, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if family == "bert":
        inputs["token_type_ids"] = torch.randint(0, 2, (batch, length), generator=generator)
    return inputs


def with_outliers(source: Path, directory: Path, layer: int = 1, factor: float = 3000.0) -> Path:
    """A BERT checkpoint that computes about what another does, and that int8 ruins in one place.

    One filter's output is made very large and its column of W_2 as much smaller: the range of activations that W_2
    reads is then that filter's, and the others are rounded away.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(source)
    block = model.bert.encoder.layer[layer]
    with torch.no_grad():
        block.intermediate.dense.weight[0].zero_()
        block.intermediate.dense.bias[0] = factor
        block.output.dense.weight[:, 0] /= factor
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    return directory


def undecided(model: Path, directory: Path, length: int, count: int = 150) -> Path:
    """Texts that a two-class checkpoint is divided on, with its own answers as labels, as csv.

    The bias of its head is moved, in place, so that half of the texts are of each class and many lie on the border.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    words = ["warm", "cold", "slow", "great", "funny", "wit", "food", "story", "money", "never", "best", "two"]
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(0, len(words), (count, 6), generator=generator).tolist()
    texts = [" ".join(words[i] for i in draw) for draw in draws]
    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    inputs = AutoTokenizer.from_pretrained(model)(
        texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.no_grad():
        logits = network(**inputs).logits
        difference = logits[:, 1] - logits[:, 0]
        network.classifier.bias[1] -= difference.median()
    network.save_pretrained(model)
    labels = (difference > difference.median()).int().tolist()
    data = directory / "undecided.csv"
    data.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in zip(texts, labels, strict=True)))
    return data
