"""Gradients of gates: equal to their definition, per sample, alive at 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.encoder import encoder_of
from compress.pruning.masks import Gates, apply_gates
from support.models import random_model


@pytest.fixture(params=["bert", "deberta-v2", "distilbert", "modernbert", "mpnet"])
def encoder(request: pytest.FixtureRequest):
    return encoder_of(random_model(request.param))


def batch(seed: int = 0, size: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 200, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_gates_of_one_change_nothing_and_leave_no_trace(encoder) -> None:
    inputs = batch()
    with torch.no_grad():
        before = encoder.model(**inputs).logits
        with apply_gates(encoder, Gates.ones(encoder)):
            assert torch.equal(encoder.model(**inputs).logits, before)
        assert torch.equal(encoder.model(**inputs).logits, before)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_one_backward_pass_gives_each_sample_its_own_gradient(encoder, value: float) -> None:
    gates = Gates.ones(encoder)
    gates.heads[1][2] = value
    gates.filters[0][5] = value
    inputs = batch()
    own = gates.per_sample(3)
    with apply_gates(encoder, own):
        encoder.model(**inputs).logits[:, 0].sum().backward()
    for sample in range(3):
        alone = gates.per_sample(1)
        with apply_gates(encoder, alone):
            encoder.model(**{k: v[sample : sample + 1] for k, v in inputs.items()}).logits[:, 0].sum().backward()
        for together, single in zip((*own.heads, *own.filters), (*alone.heads, *alone.filters), strict=True):
            torch.testing.assert_close(together.grad[sample], single.grad[0], rtol=1e-4, atol=1e-5)


def test_gradient_is_the_weight_form_and_alive_for_masked_units(encoder) -> None:
    """∂L/∂gate of a filter is Σ W ⊙ ∂L/∂W over its column of W_2, at gate 1; at gate 0 it is not 0."""
    inputs = batch()
    gates = Gates.ones(encoder)
    own = gates.per_sample(3)
    weight = encoder.layers[1].get("ffn_output").weight
    weight.requires_grad_()
    with apply_gates(encoder, own):
        loss = encoder.model(**inputs).logits.square().sum()
    gradient, of_weight = torch.autograd.grad(loss, [own.filters[1], weight])
    expected = (weight * of_weight).sum(0).detach()
    np.testing.assert_allclose(gradient.sum(0).numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)
    gates.filters[1].zero_()
    masked = gates.per_sample(3)
    with apply_gates(encoder, masked):
        encoder.model(**inputs).logits.square().sum().backward()
    assert (masked.filters[1].grad != 0).any()
