"""Scorers of single weights: gradients, gates, penalties, and what they would leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compress.fineprune.recipe import UnstructuredRecipe
from compress.fineprune.scores import HIGH, LOW, TEMPERATURE
from compress.sparsity.matrices import matrices_of
from compress.sparsity.scores import (
    SCORERS,
    ElementHardConcrete,
    ElementMagnitude,
    ElementMovement,
    ElementSoftMovement,
    fisher_of,
    start_of,
)
from compress.sparsity.topk import choose
from support.training import dense, examples


def matrices(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in ((6, 5), (3, 8))]


def test_scores_begin_alike_or_in_the_order_of_what_is_known() -> None:
    given = matrices()
    assert all(not bool(scores.any()) for scores in ElementMovement(given, None).scores)
    worth = [m.abs() for m in given]
    begun = torch.cat([s.flatten() for s in ElementMovement(given, worth).scores])
    every = torch.cat([w.flatten() for w in worth])
    assert torch.equal(begun.argsort(), every.argsort())
    assert float(begun.mean()) == pytest.approx(0, abs=1e-5) and float(begun.std(correction=0)) == pytest.approx(
        1, abs=1e-4
    )


def test_magnitude_follows_the_weights_and_has_no_scores() -> None:
    given = matrices()
    scorer = ElementMagnitude(given, None)
    assert scorer.scores == [] and torch.equal(scorer.worth()[0], given[0].abs())
    given[0].mul_(2)
    assert torch.equal(scorer.worth()[0], given[0].abs())


def test_soft_movement_closes_what_falls_below_the_threshold_and_pushes_only_while_too_many_stay() -> None:
    given = matrices()
    scorer = ElementSoftMovement(given, None, penalty=50.0)
    masks = [torch.ones_like(m) for m in given]
    scorer.scores[0][0, 0] = math.log(0.09 / 0.91)
    scorer.scores[0][0, 1] = math.log(0.11 / 0.89)
    drawn = scorer.gates(masks, torch.Generator())
    assert drawn[0][0, 0] == 0 and drawn[0][0, 1] == 1
    # At test time what was chosen stays: exactly the fraction asked for.
    assert torch.equal(scorer.gates(masks, None)[0], masks[0])
    scorer.learn([torch.zeros_like(m) for m in given])
    scorer.press(0.2)
    pushed = torch.cat([s.grad.flatten() for s in scorer.scores if s.grad is not None])
    # Of the penalty's own formula: 50 · (1 - 0.2) · mean sigmoid(S).
    free = [s.clone().requires_grad_() for s in scorer.scores]
    (50.0 * 0.8 * torch.cat([s.sigmoid().flatten() for s in free]).mean()).backward()
    assert torch.allclose(pushed, torch.cat([s.grad.flatten() for s in free if s.grad is not None]), atol=1e-7)
    for scores in scorer.scores:
        scores.fill_(-9.0)
    scorer.learn([torch.zeros_like(m) for m in given])
    scorer.press(0.2)
    assert not any(bool(s.grad.any()) for s in scorer.scores if s.grad is not None)


def test_expected_l0_is_the_share_of_drawn_gates_that_are_open() -> None:
    given = [torch.zeros(200, 200)]
    scorer = ElementHardConcrete(given, None)
    scorer.scores[0].copy_(torch.linspace(-6, 4, 40_000).reshape(200, 200))
    ones, generator = [torch.ones(200, 200)], torch.Generator().manual_seed(0)
    drawn = torch.stack([(scorer.gates(ones, generator)[0] > 0).float().mean() for _ in range(20)])
    assert scorer.open_share() == pytest.approx(float(drawn.mean()), abs=0.003)
    shift = TEMPERATURE * math.log(-LOW / HIGH)
    assert scorer.open_share() == pytest.approx(float((scorer.scores[0] - shift).sigmoid().mean()), abs=1e-6)


def test_l0_gates_are_drawn_in_training_and_always_the_same_at_test_time() -> None:
    scorer, masks = ElementHardConcrete(matrices(), None), [torch.ones_like(m) for m in matrices()]
    one, other = scorer.gates(masks, None), scorer.gates(masks, None)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    expected = (scorer.scores[0].sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)
    assert torch.allclose(one[0], expected)
    drawn = [scorer.gates(masks, torch.Generator().manual_seed(seed))[0].clone() for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert bool((drawn[0] >= 0).all()) and bool((drawn[0] <= 1).all())


def test_the_gradient_of_l0s_scores_is_that_of_the_drawn_gates() -> None:
    given = matrices()
    scorer, masks = ElementHardConcrete(given, None), [torch.ones_like(m) for m in given]
    scorer.scores[0].copy_(torch.randn(6, 5, generator=torch.Generator().manual_seed(3)))
    pulls = [torch.randn(m.shape, generator=torch.Generator().manual_seed(4)) for m in given]
    scorer.gates(masks, torch.Generator().manual_seed(7))
    scorer.learn([p.clone() for p in pulls])
    # The same draw, through autograd.
    generator = torch.Generator().manual_seed(7)
    for scores, pull in zip(scorer.scores, pulls, strict=True):
        free = scores.detach().clone().requires_grad_()
        u = torch.rand(scores.shape, generator=generator)
        gate = (((u.logit(1e-6) + free) / TEMPERATURE).sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)
        (gate * pull).sum().backward()
        assert free.grad is not None and scores.grad is not None
        assert torch.allclose(scores.grad, free.grad, atol=1e-6)


def test_l0s_lagrangian_pushes_down_while_more_are_open_than_may_be() -> None:
    scorer = ElementHardConcrete(matrices(), None, penalty=10.0)
    for _ in range(3):
        scorer.gates([torch.ones_like(s) for s in scorer.scores], torch.Generator().manual_seed(0))
        scorer.learn([torch.zeros_like(s) for s in scorer.scores])
        scorer.press(0.1)
    assert all(bool((s.grad > 0).all()) for s in scorer.scores if s.grad is not None)
    state = scorer.state()
    again = ElementHardConcrete(matrices(), None, penalty=10.0)
    again.restore({name: value.clone() for name, value in state.items()})
    assert all(torch.equal(again.state()[name], value) for name, value in state.items())


def test_fisher_information_is_that_of_single_examples() -> None:
    checkpoint, data = dense(), examples(6)
    weights = list(matrices_of(checkpoint.encoder).values())[:2]
    # Exactly: Σ_c p_c (∂ log p_c / ∂w)² of each example, summed.
    exact = [torch.zeros_like(w) for w in weights]
    for weight in weights:
        weight.requires_grad_(True)
    for batch in data.batches(1):
        with torch.enable_grad():
            logs = checkpoint.task.forward(checkpoint.model, batch.inputs).log_softmax(-1)[0]
            for log in logs:
                found = torch.autograd.grad(log, weights, retain_graph=True)
                for total, gradient in zip(exact, found, strict=True):
                    total.add_(log.exp().detach() * gradient.square())
    for weight in weights:
        weight.requires_grad_(False)
    many = [fisher_of(checkpoint.encoder, weights, checkpoint.task, data, seed, batch_size=3) for seed in range(150)]
    for number, total in enumerate(exact):
        mean = torch.stack([one[number] for one in many]).mean(0)
        assert float(mean.sum()) == pytest.approx(float(total.sum()), rel=0.15)
        assert float(np.corrcoef(mean.flatten(), total.flatten())[0, 1]) > 0.95
    assert not any(weight.requires_grad for weight in weights)


def test_what_scores_start_with_is_what_the_recipe_says() -> None:
    checkpoint, data = dense(), examples(8)
    weights = list(matrices_of(checkpoint.encoder).values())

    def begun(scorer: str, start: str) -> list[torch.Tensor] | None:
        recipe = UnstructuredRecipe.model_validate({"epochs": 1.0, "scorer": scorer, "start": start})
        return start_of(recipe, checkpoint.encoder, weights, checkpoint.task, data, 0)

    assert begun("movement", "zero") is None and begun("magnitude", "fisher") is None
    by_size, by_fisher = begun("movement", "magnitude"), begun("l0", "fisher")
    assert by_size is not None and torch.equal(by_size[0], weights[0].abs())
    assert by_fisher is not None and not torch.equal(
        choose(by_fisher, 0.1, "global")[0], choose(by_size, 0.1, "global")[0]
    )
    assert set(SCORERS) == {"magnitude", "movement", "soft-movement", "l0"}
