"""Scorers: gradients of gates, the hard concrete distribution, and a task whose useless units are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from compress.fineprune.masking import as_gates
from compress.fineprune.projection import masks_of
from compress.fineprune.recipe import StructureRecipe
from compress.fineprune.unit_scores import (
    SCORERS,
    UnitHardConcrete,
    UnitMovement,
    Units,
    UnitScorer,
    UnitSoftMovement,
    scorer_of,
)
from compress.pruning.masks import apply_gates
from compress.search.costs import Costs
from support.training import PHASE, dense, examples, planted, recipe, training_session

COSTS = (2.0, 0.5)


def scorer(name: str, known: Any = None, seed: int = 0, **options: Any) -> UnitScorer:
    table = StructureRecipe.model_validate({"epochs": 1.0, "scorer": name, **options})
    return scorer_of(table, dense().encoder, known, COSTS, seed)


def ones(kind: UnitScorer) -> Units:
    return Units(*(torch.ones_like(part) for part in kind.units))


def test_the_gradient_of_a_gate_is_the_weights_times_theirs_for_masked_units_too() -> None:
    checkpoint = dense()
    encoder, shape = checkpoint.encoder, checkpoint.encoder.shape
    generator = torch.Generator().manual_seed(1)
    mask = Units(
        (torch.rand(shape.layers, shape.heads, generator=generator) > 0.5).float(),
        (torch.rand(shape.layers, shape.filters, generator=generator) > 0.5).float(),
    )
    batch = next(examples(8).batches(8))
    assert batch.labels is not None
    leaves = mask.detached()
    with apply_gates(encoder, as_gates(leaves)):
        loss = checkpoint.task.loss(checkpoint.task.forward(checkpoint.model, batch.inputs), batch.labels).mean()
    gates = torch.autograd.grad(loss, list(leaves))
    # The same model with the mask in its weights: W' = mask * W, and the sum of W * dL/dW' over a unit's columns.
    weights = {}
    for number, layer in enumerate(encoder):
        for kind, role, size in ((0, "attention_output", shape.head_size), (1, "ffn_output", 1)):
            linear, columns = layer.get(role), mask[kind][number].repeat_interleave(size)
            weights[kind, number] = (linear.weight.detach().clone(), linear, size)
            linear.weight = torch.nn.Parameter(linear.weight.detach() * columns)
    loss = checkpoint.task.loss(checkpoint.task.forward(checkpoint.model, batch.inputs), batch.labels).mean()
    found = torch.autograd.grad(loss, [linear.weight for _, linear, _ in weights.values()])
    for (kind, number), (original, _, size), gradient in zip(weights, weights.values(), found, strict=True):
        expected = (original * gradient).sum(0).reshape(-1, size).sum(1)
        torch.testing.assert_close(gates[kind][number], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["movement", "soft-movement"])
def test_the_mask_goes_forward_and_its_gradient_straight_to_the_scores(name: str) -> None:
    kind = scorer(name)
    mask = Units(*((torch.arange(part.numel()).reshape(part.shape) % 2).float() for part in kind.units))
    gates = kind.gates(mask)
    assert all(torch.equal(gate, part) for gate, part in zip(gates, mask, strict=True))
    (gates.heads * 3 + 1).sum().backward()
    assert torch.equal(kind.units.heads.grad, torch.full_like(mask.heads, 3.0))


def test_soft_movement_drops_what_is_below_its_threshold_and_pushes_down() -> None:
    kind = scorer("soft-movement", penalty=2.0)
    with torch.no_grad():
        kind.units.filters[0, :3] = -5.0
    assert kind.gates(ones(kind)).filters[0].tolist() == [0.0] * 3 + [1.0] * 17
    assert kind.importance()[1][0, :3].max() < 1e-9 < kind.importance()[1][0, 3:].min()
    penalty = kind.penalty(limit=1.0, fixed=0.0, dense=4.0)
    assert isinstance(kind, UnitSoftMovement) and penalty is not None
    penalty.backward()
    assert (kind.units.filters.grad > 0).all()
    assert scorer("soft-movement").penalty(1.0, 0.0, 4.0) is None


def test_expected_open_gates_of_l0_are_those_that_are_drawn() -> None:
    kind = scorer("l0")
    assert isinstance(kind, UnitHardConcrete)
    with torch.no_grad():
        kind.units.filters.copy_(torch.linspace(-3, 3, kind.units.filters.numel()).reshape_as(kind.units.filters))
        draws = [kind.sample() for _ in range(2000)]
    drawn = torch.stack([draw.filters > 0 for draw in draws]).float().mean(0)
    torch.testing.assert_close(drawn, list(kind.open_probability())[1].detach(), atol=0.05, rtol=0)
    cost = kind.expected_cost(7.0)
    counted = sum(float((draw[i] > 0).sum()) * COSTS[i] for draw in draws for i in (0, 1)) / len(draws)
    assert float(cost.detach()) == pytest.approx(7.0 + counted, rel=0.02)


def test_l0_is_deterministic_at_test_time_and_holds_the_cost_at_the_budget() -> None:
    kind = scorer("l0", penalty=0.5)
    mask = ones(kind)
    first, second = kind.gates(mask, training=False), kind.gates(mask, training=False)
    assert torch.equal(first.filters, second.filters) and not first.filters.requires_grad
    expected = (2.197 + torch.zeros(1)).sigmoid() * 1.2 - 0.1
    torch.testing.assert_close(first.filters[0, :1], expected.clamp(0, 1))
    assert not torch.equal(kind.gates(mask).filters, kind.gates(mask).filters)
    optimizer = torch.optim.Adam(kind.parameters, lr=0.05)
    dense_cost = sum(part.numel() * cost for part, cost in zip(kind.units, COSTS, strict=True))
    for _ in range(400):
        optimizer.zero_grad()
        loss = kind.penalty(0.5 * dense_cost, 0.0, dense_cost)
        if loss is not None and loss.requires_grad:
            loss.backward()
            optimizer.step()
    assert float(kind.expected_cost(0.0).detach()) / dense_cost == pytest.approx(0.5, abs=0.1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["movement", "l0"])
def test_scores_that_start_from_the_search_are_worth_what_it_says(name: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.exponential(size=(3, 4)) + 0.1, rng.exponential(size=(3, 20)) + 0.1
    heads, filters = scorer(name, start).importance()
    ratio = np.concatenate([(heads / start[0]).ravel(), (filters / start[1]).ravel()])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    flat = scorer(name, start, start="zero").importance()
    np.testing.assert_allclose(flat[0] / flat[1][0, 0], COSTS[0] / COSTS[1], rtol=1e-6)


@pytest.mark.parametrize("name", SCORERS)
def test_what_is_saved_of_a_scorer_is_all_it_needs(name: str) -> None:
    one, other = scorer(name, seed=1), scorer(name, seed=1)
    with torch.no_grad():
        for part in one.scores:
            part.add_(0.3)
    other.restore({key: value.clone() for key, value in one.state().items()})
    assert all(np.array_equal(a, b) for a, b in zip(one.importance(), other.importance(), strict=True))


def test_scores_move_against_their_gradient() -> None:
    kind = scorer("movement")
    assert isinstance(kind, UnitMovement)
    kind.gates(ones(kind)).heads.sum().backward()
    torch.optim.SGD(kind.parameters, lr=0.1).step()
    assert (kind.units.heads < 0).all()


def test_useless_units_go_first_where_fisher_or_movement_choose() -> None:
    checkpoint = dense()
    useful = planted(checkpoint.encoder)
    # Labels are the dense model's own: what a unit does for them is all that counts.
    data = examples(160)
    costs = Costs.macs(checkpoint.encoder.shape, 0.5, data.mean_length)
    phase = {**PHASE, "epochs": 6.0, "learning_rate": 1e-6, "score_learning_rate": 5e-2, "project_every": 2}
    kept = {}
    for name in ("fisher", "movement", "random"):
        tables = recipe(
            structure={**phase, "scorer": name, "start": "zero", "first": 0.0, "last": 0.1},
            distillation={"weight": 1.0, "temperature": 1.0},
            validation={"times": 1},
        )
        session = training_session(checkpoint, tables, data.select(range(150)), data.select(range(150, 160)))
        _, masking, _ = session.find_structure(costs, useful)
        masks = masks_of(masking.structure, checkpoint.encoder.shape)
        kept[name] = sum((m & u).sum() for m, u in zip(masks, useful, strict=True)) / sum(m.sum() for m in masks)
    assert kept["fisher"] == 1.0
    assert kept["movement"] > kept["random"] + 0.1
