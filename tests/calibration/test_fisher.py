"""Fisher information: its definition, its independence of batches, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.calibration.accumulate import Passes
from compress.calibration.fisher import fisher_information
from compress.core.errors import DataError
from compress.models.encoder import encoder_of
from compress.pruning.masks import Gates, apply_gates
from compress.tasks import TASKS
from support.examples import examples
from support.models import random_model

TASK = TASKS["text-classification"]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "modernbert", "mpnet"])
def test_is_the_mean_of_squared_per_sample_gradients(family: str) -> None:
    encoder, data = encoder_of(random_model(family)), examples()
    found = fisher_information(encoder, TASK, data, Passes(seed=0), blocks=True)
    rows = []
    for i in range(len(data)):
        one = next(iter(data.select([i]).batches(1)))
        gates = Gates.ones(encoder).per_sample(1)
        with apply_gates(encoder, gates):
            TASK.loss(TASK.forward(encoder.model, one.inputs), one.labels).sum().backward()
        rows.append(np.stack([g.grad[0].numpy() for g in gates.filters]))
    gradients = np.stack(rows)
    np.testing.assert_allclose(found.filters, (gradients**2).mean(0), rtol=1e-3, atol=1e-8)
    assert found.filter_blocks is not None
    expected = np.einsum("nli,nlj->lij", gradients, gradients) / len(data)
    np.testing.assert_allclose(found.filter_blocks, expected, rtol=1e-2, atol=1e-6)


def test_does_not_depend_on_the_batch_size() -> None:
    encoder, data = encoder_of(random_model("bert")), examples()
    one = fisher_information(encoder, TASK, data, Passes(seed=0, batch_size=1))
    many = fisher_information(encoder, TASK, data, Passes(seed=0, batch_size=9))
    np.testing.assert_allclose(one.filters, many.filters, rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(one.heads, many.heads, rtol=1e-3, atol=1e-8)


def test_label_free_is_deterministic_and_used_without_labels() -> None:
    encoder, data = encoder_of(random_model("bert")), examples(labels=False)
    first, again = (fisher_information(encoder, TASK, data, Passes(seed=3)) for _ in range(2))
    assert first.label_free
    assert np.array_equal(first.filters, again.filters)
    assert not np.array_equal(first.filters, fisher_information(encoder, TASK, data, Passes(seed=4)).filters)


def test_a_dead_filter_has_no_importance() -> None:
    model = random_model("bert")
    encoder = encoder_of(model)
    with torch.no_grad():
        encoder.layers[1].get("ffn_output").weight[:, 7] = 0.0
    found = fisher_information(encoder, TASK, examples(), Passes(seed=0))
    assert found.filters[1, 7] == 0.0 and found.filters[1].max() > 0


def test_gradients_that_are_not_finite_are_an_error() -> None:
    model = random_model("bert")
    with torch.no_grad():
        model.classifier.weight[:] = float("inf")
    with pytest.raises(DataError, match="not finite"):
        fisher_information(encoder_of(model), TASK, examples(), Passes(seed=0))
