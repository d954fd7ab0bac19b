"""Trials of structures: they leave the model alone, are exact if nothing is pruned, and rank structures rightly."""

from __future__ import annotations

import copy

import pytest
import torch

from compress.core.plan import Structure
from compress.models.encoder import encoder_of
from compress.pruning.removal import remove
from compress.reconstruction.trial import Trial
from compress.tasks import TASKS
from support.divergences import divergence
from support.examples import examples
from support.models import random_model

TASK = TASKS["text-classification"]
HALF = Structure(heads=((0, 2), (1, 3), (1,)), filters=(tuple(range(0, 20, 2)), tuple(range(12)), (1, 5)))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_model_stays_what_it_is(family: str) -> None:
    model = random_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sketch = Trial(encoder_of(model), TASK, examples(count=60, labels=False))
    assert sketch.score(HALF) == sketch.score(HALF) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_pruned_is_no_divergence() -> None:
    encoder = encoder_of(random_model("bert"))
    assert Trial(encoder, TASK, examples(count=60)).score(Structure.dense(encoder.shape)) == pytest.approx(0, abs=1e-6)


def test_more_is_better_than_less() -> None:
    encoder = encoder_of(random_model("bert"))
    sketch = Trial(encoder, TASK, examples(count=200))
    less = Structure(heads=((0,), (), ()), filters=((0,), (), ()))
    assert sketch.score(HALF) < sketch.score(less)


def test_a_sketch_is_reconstructed() -> None:
    model, data = random_model("bert"), examples(count=300)
    bare = copy.deepcopy(model)
    remove(bare, HALF)
    assert Trial(encoder_of(model), TASK, data).score(HALF) < divergence(model, bare, TASK, data)


def test_long_examples_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.reconstruction.trial.TOKENS", 100)
    sketch = Trial(encoder_of(random_model("bert")), TASK, examples(count=300))
    assert 0 < sum(int(call.mask.sum()) for call in sketch._teacher.calls) <= 120
    assert sketch.score(HALF) > 0
