"""Reconstruction: closed forms against direct least squares, never worse on held-out data, odd inputs survived."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from compress.calibration.curvature import curvature
from compress.calibration.obs import rank_by_curvature
from compress.core.errors import DataError
from compress.core.plan import Structure
from compress.models.encoder import encoder_of
from compress.models.families import SUBLAYER_KINDS
from compress.pruning.removal import remove
from compress.reconstruction.closed_form import reconstruct
from compress.reconstruction.layerwise import Teacher, first_inputs, positions_read
from compress.reconstruction.least_squares import Gram, GramSum, ridge_solution, scale_solution, solve_spd
from compress.tasks import TASKS
from support.divergences import divergence
from support.examples import examples
from support.models import random_model

TASK = TASKS["text-classification"]
STRUCTURE = Structure(heads=((0, 2, 3), (), (1,)), filters=(tuple(range(0, 20, 2)), (3, 4, 5, 6, 7), ()))


def gram_of(x: torch.Tensor, y: torch.Tensor) -> Gram:
    gram = GramSum(x.shape[1], y.shape[1])
    for part in zip(x.split(7), y.split(7), strict=True):
        gram.add(*part)
    return gram.gram()


def data_of(seed: int, tokens: int = 60, inputs: int = 6, outputs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, inputs, generator=generator), torch.randn(tokens, outputs, generator=generator)


def test_streamed_sums_give_the_error_of_the_regression() -> None:
    x, y = data_of(0)
    weights = torch.randn(7, 4, dtype=torch.float64)
    direct = (y - torch.cat([x, torch.ones(60, 1)], 1).double() @ weights).square().sum() / y.double().square().sum()
    assert gram_of(x, y).error(weights) == pytest.approx(float(direct), rel=1e-5)


def test_no_ridge_is_least_squares_and_a_large_one_keeps_the_weights() -> None:
    x, y = data_of(1)
    original = torch.randn(7, 4, dtype=torch.float64)
    augmented = torch.cat([x, torch.ones(60, 1)], 1).double()
    direct = torch.linalg.lstsq(augmented, y.double()).solution
    torch.testing.assert_close(ridge_solution(gram_of(x, y), original, 0.0), direct, rtol=1e-4, atol=1e-5)
    held = ridge_solution(gram_of(x, y), original, 1e9)
    torch.testing.assert_close(held[:-1], original[:-1], rtol=1e-5, atol=1e-5)


def test_scales_are_least_squares_over_one_number_per_unit() -> None:
    x, _ = data_of(2)
    original = torch.randn(7, 4, dtype=torch.float64)
    truth = torch.tensor([1.5, 0.5, -2.0], dtype=torch.float64)
    scaled = torch.cat([original[:-1] * truth.repeat_interleave(2)[:, None], original[-1:]])
    y = (torch.cat([x, torch.ones(60, 1)], 1).double() @ scaled).float()
    torch.testing.assert_close(scale_solution(gram_of(x, y), original, 2), scaled, rtol=1e-3, atol=1e-3)


def test_a_scale_out_of_bounds_is_refused() -> None:
    x, _ = data_of(3)
    original = torch.randn(7, 4, dtype=torch.float64)
    y = (50 * (x.double() @ original[:-1]) + original[-1]).float()
    assert scale_solution(gram_of(x, y), original, 1) is None


def test_a_singular_system_is_solved_all_the_same() -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    solution = solve_spd(x.T @ x, x.T @ torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64))
    assert torch.isfinite(solution).all()
    with pytest.raises(DataError, match="not finite"):
        solve_spd(torch.full((2, 2), torch.nan), torch.zeros(2, 1))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "modernbert", "mpnet"])
@pytest.mark.parametrize("method", ["full", "kwon"])
def test_held_out_error_never_rises_and_the_output_comes_closer(family: str, method: str) -> None:
    dense = random_model(family)
    pruned = copy.deepcopy(dense)
    remove(pruned, STRUCTURE)
    data = examples(count=120, labels=False)
    before = _distance(dense, pruned, data)
    report = reconstruct(encoder_of(dense), encoder_of(pruned), TASK, data, method=method)
    assert [(r.layer, r.kind) for r in report] == [(n, k) for n in range(3) for k in SUBLAYER_KINDS]
    assert all(r.error_after <= r.error_before for r in report)
    # One scale per unit repairs each sublayer; of so small and random a model that need not be the output's gain.
    if method == "full" or family in ("bert", "distilbert"):
        assert _distance(dense, pruned, data) < before


def test_an_unpruned_model_stays_what_it_is() -> None:
    dense = random_model("bert")
    same = copy.deepcopy(dense)
    reconstruct(encoder_of(dense), encoder_of(same), TASK, examples(count=40))
    assert _distance(dense, same, examples(count=40)) < 1e-8


def test_too_few_examples_change_nothing() -> None:
    dense = random_model("bert")
    pruned = copy.deepcopy(dense)
    remove(pruned, STRUCTURE)
    before = copy.deepcopy(pruned.state_dict())
    assert reconstruct(encoder_of(dense), encoder_of(pruned), TASK, examples(count=5)) == []
    assert all(torch.equal(v, before[k]) for k, v in pruned.state_dict().items())


def test_equal_inputs_give_equal_weights() -> None:
    dense = random_model("bert")
    results = []
    for _ in range(2):
        pruned = copy.deepcopy(dense)
        remove(pruned, STRUCTURE)
        reconstruct(encoder_of(dense), encoder_of(pruned), TASK, examples(count=60), seed=1)
        results.append(pruned.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "modernbert", "mpnet"])
def test_layer_by_layer_is_the_model(family: str) -> None:
    """Calling the layers one after the other gives the hidden states of one forward pass."""
    model = random_model(family)
    encoder, data = encoder_of(model), examples(count=6)
    for (call, hidden), batch in zip(first_inputs(encoder, TASK, data, 4), data.batches(4), strict=True):
        with torch.no_grad():
            expected = model(**batch.inputs, output_hidden_states=True).hidden_states
            for number, layer in enumerate(encoder):
                torch.testing.assert_close(hidden, expected[number])
                hidden = call(layer, hidden)
            if encoder.family.ffn_sum is not None:  # else what transformers calls the last one is behind a norm
                torch.testing.assert_close(hidden, expected[-1])


def test_a_classification_head_reads_the_first_position_alone() -> None:
    found = positions_read(encoder_of(random_model("bert")), TASK, examples(count=8))
    assert found is not None and found.tolist() == [0]


def _distance(dense, pruned, data) -> float:
    total = []
    with torch.no_grad():
        for batch in data.batches(16):
            total.append((dense(**batch.inputs).logits - pruned(**batch.inputs).logits).square().sum(-1).numpy())
    return float(np.concatenate(total).mean())


@pytest.mark.parametrize("count", [10, 12, 20, 35])
@pytest.mark.parametrize("method", ["full", "kwon"])
def test_few_examples_never_make_it_worse_on_those_held_out(count: int, method: str) -> None:
    """However few: either the model as a whole has come closer on the examples held out, or it is as it was."""
    dense = random_model("bert", seed=count)
    pruned = copy.deepcopy(dense)
    remove(pruned, STRUCTURE)
    data = examples(count=count, seed=count)
    judges = data.select(np.sort(np.random.default_rng(0).permutation(count)[: max(1, int(0.2 * count))]))
    before, weights = divergence(dense, pruned, TASK, judges), copy.deepcopy(pruned.state_dict())
    reconstruct(encoder_of(dense), encoder_of(pruned), TASK, data, method=method)
    after = divergence(dense, pruned, TASK, judges)
    unchanged = all(torch.allclose(v, weights[k]) for k, v in pruned.state_dict().items())
    assert after < before or unchanged


def test_dead_and_constant_filters_are_the_first_to_go_and_cost_nothing() -> None:
    dense = random_model("bert")
    encoder = encoder_of(dense)
    with torch.no_grad():
        # Filter 2 never says anything, filter 5 always the same.
        for unit, bias in ((2, -30.0), (5, 3.0)):
            encoder.layers[0].get("ffn_input").weight[unit] = 0.0
            encoder.layers[0].get("ffn_input").bias[unit] = bias
    data = examples(count=120)
    ranking = rank_by_curvature(encoder, curvature(encoder, TASK, data)).filters[0]
    assert set(ranking.order[-2:].tolist()) == {2, 5}
    assert ranking.loss[-3] < 1e-4 * ranking.loss[0]
    pruned = copy.deepcopy(dense)
    units = encoder.shape.filters
    everything = Structure.dense(encoder.shape)
    remove(pruned, Structure(everything.heads, (ranking.first(units - 2), *everything.filters[1:])))
    reconstruct(encoder, encoder_of(pruned), TASK, data)
    assert _distance(dense, pruned, data) < 1e-6


def test_activations_that_overflow_are_an_error_and_no_traceback_of_numpy() -> None:
    dense = random_model("bert")
    with torch.no_grad():
        encoder_of(dense).layers[0].get("ffn_output").weight.mul_(1e30)
        encoder_of(dense).layers[0].get("ffn_input").weight.mul_(1e10)
    pruned = copy.deepcopy(dense)
    remove(pruned, STRUCTURE)
    with pytest.raises(DataError, match="overflow"):
        reconstruct(encoder_of(dense), encoder_of(pruned), TASK, examples(count=40))


def test_a_teacher_that_keeps_tells_the_same_in_any_order() -> None:
    encoder, data = encoder_of(random_model("bert")), examples(count=20)
    streaming, keeping = Teacher(encoder, TASK, data), Teacher(encoder, TASK, data, keep=True)
    last = keeping.targets(2)
    for number in range(3):
        for kind, totals in streaming.targets(number).items():
            for ours, theirs in zip(totals, keeping.targets(number)[kind], strict=True):
                torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(a, b) for a, b in zip(last["ffn"], keeping.targets(2)["ffn"], strict=True))
    with pytest.raises(ValueError, match="read layer 0 next"):
        Teacher(encoder, TASK, data).targets(1)
