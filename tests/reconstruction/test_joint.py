"""Joint reconstruction: closer to the dense model on examples not trained on, or nothing has changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import compress.reconstruction.joint
from compress.core.plan import Structure
from compress.models.encoder import encoder_of, widths_of
from compress.pruning.removal import remove
from compress.reconstruction.joint import BATCH_SIZE, LEAST_SAMPLES, fit_jointly, steps_within
from compress.reconstruction.layerwise import divergence
from compress.tasks import TASKS
from support.examples import examples
from support.models import random_model

TASK = TASKS["text-classification"]
STRUCTURE = Structure(heads=((0, 2, 3), (), (1,)), filters=(tuple(range(0, 20, 2)), (3, 4, 5, 6, 7), ()))


def dense_and_pruned(family: str = "bert") -> tuple[nn.Module, nn.Module]:
    dense = random_model(family).requires_grad_(False)
    pruned = copy.deepcopy(dense)
    remove(pruned, STRUCTURE)
    return dense, pruned


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_examples_never_seen_come_closer_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress.reconstruction.joint, "LEARNING_RATE", 3e-3)  # a tiny random model takes larger steps
    dense, pruned = dense_and_pruned(family)
    unseen = examples(count=80, seed=1, labels=False)
    before, teacher = divergence(dense, pruned, TASK, unseen), state_of(dense)
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, examples(count=300, labels=False), epochs=10)
    assert tuned is not None and tuned.accepted and tuned.after < tuned.before
    assert divergence(dense, pruned, TASK, unseen) < 0.9 * before
    assert all(torch.equal(value, teacher[name]) for name, value in dense.state_dict().items())


def test_what_does_not_help_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress.reconstruction.joint, "LEARNING_RATE", 30.0)
    dense, pruned = dense_and_pruned()
    before = state_of(pruned)
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, examples(count=100), epochs=1)
    assert tuned is not None and not tuned.accepted
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


def test_embeddings_stay_and_nothing_is_left_to_train() -> None:
    dense, pruned = dense_and_pruned()
    before = state_of(pruned)
    fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, examples(count=100), epochs=1)
    embeddings = {f"{name}.weight" for name, module in pruned.named_modules() if isinstance(module, nn.Embedding)}
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, before[name])}
    assert embeddings and not embeddings & changed
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in pruned.parameters())


def test_equal_seeds_give_equal_weights() -> None:
    results = []
    for seed in (0, 0, 1):
        dense, pruned = dense_and_pruned()
        fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, examples(count=100), epochs=1, seed=seed)
        results.append(state_of(pruned))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert not all(torch.equal(value, results[2][name]) for name, value in results[0].items())


@pytest.mark.parametrize(("count", "epochs"), [(LEAST_SAMPLES - 1, 3), (100, 0)])
def test_without_examples_or_steps_nothing_is_tried(count: int, epochs: int) -> None:
    dense, pruned = dense_and_pruned()
    before = state_of(pruned)
    assert fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, examples(count=count), epochs=epochs) is None
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


def test_steps_are_those_of_the_epochs_unless_that_costs_too_much() -> None:
    dense, pruned = dense_and_pruned()
    shape, widths, data = encoder_of(dense).shape, widths_of(pruned), examples(count=320)
    passes = 288 // BATCH_SIZE
    assert steps_within(shape, widths, data, 3) == 3 * passes
    step = BATCH_SIZE * (2 * shape.macs(shape.dense, data.mean_length) + 6 * shape.macs(widths, data.mean_length))
    assert steps_within(shape, widths, data, 3, most_flops=5.5 * step) == 5
    assert steps_within(shape, widths, data, 3, most_flops=1e30) == 3 * passes
    assert steps_within(shape, widths, data, 3, most_flops=0.0) == 0
