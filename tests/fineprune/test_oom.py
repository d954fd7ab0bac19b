"""Training where memory runs out: a step goes on in more parts, and is the step that a recipe with so many parts makes.

Memory ends in the second part of the first step, when gradients of the first part are there already.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from compress.fineprune.recipe import Recipe
from compress.models.encoder import encoder_of
from compress.search.costs import Costs
from compress.sparsity.train import thin_out
from support.starved import Starved
from support.training import PHASE, dense, examples, recipe, training_session

TRAIN, HELD = examples(48), examples(16, 1)
# One call finds the positions that the head reads, two evaluate; each part of a step has one of the teacher and one of
# the student. The student's fails, when the teacher's hidden states are there.
IN_THE_SECOND_PART = (7,)


def structure(tables: Recipe, starved: bool, said: list[str]) -> list[torch.Tensor]:
    checkpoint = dense()
    task: Any = Starved(checkpoint.task, at=IN_THE_SECOND_PART if starved else ())
    checkpoint = replace(checkpoint, task=task)
    session = training_session(checkpoint, tables, TRAIN, HELD, tell=said.append)
    shape = checkpoint.encoder.shape
    start = torch.arange(12.0).reshape(3, 4).numpy() + 1, torch.arange(60.0).reshape(3, 20).numpy() + 1
    model, masking, _ = session.find_structure(Costs.macs(shape, 0.5, 8.0), start)
    return [*model.state_dict().values(), *masking.scorer.units]


def weights(tables: Recipe, starved: bool, said: list[str]) -> list[torch.Tensor]:
    checkpoint = dense()
    task: Any = Starved(checkpoint.task, at=IN_THE_SECOND_PART if starved else ())
    session = training_session(replace(checkpoint, task=task), tables, TRAIN, HELD, tell=said.append)
    thinned = thin_out(replace(checkpoint, task=task), tables, 0.3, session)
    return list(thinned.model.state_dict().values())


def tables_of(kind: str, accumulate: int) -> Recipe:
    rates = {**PHASE, "epochs": 1.0, "accumulate": accumulate}
    taught = {"weight": 0.5, "hidden": 0.5}
    if kind == "single weights":
        return recipe(unstructured={**rates, "scorer": "movement", "start": "zero"}, distillation=taught)
    return recipe(structure={**rates, "scorer": kind, "penalty": 0.1}, distillation=taught)


@pytest.mark.parametrize(
    "kind", ["movement", *(pytest.param(k, marks=pytest.mark.slow) for k in ("fisher", "l0", "single weights"))]
)
def test_the_rest_of_the_training_is_that_of_twice_as_many_parts(kind: str) -> None:
    train = weights if kind == "single weights" else structure
    said: list[str] = []
    expected = train(tables_of(kind, 4), False, [])
    found = train(tables_of(kind, 2), True, said)
    assert [line for line in said if "memory ran out; a step goes on in 4 parts" in line]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_what_does_not_fit_at_all_is_raised() -> None:
    checkpoint = dense()
    task: Any = Starved(checkpoint.task, most=0)
    session = training_session(replace(checkpoint, task=task), tables_of("movement", 1), TRAIN, HELD)
    with pytest.raises(RuntimeError, match="allocate memory"):
        session.held_loss(encoder_of(checkpoint.model).model)
