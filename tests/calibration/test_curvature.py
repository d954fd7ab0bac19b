"""Curvature: its definition, sample by sample; where the head looks; what it does not depend on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import compress.calibration.curvature
from compress.calibration.accumulate import Passes
from compress.calibration.curvature import Curvature, curvature
from compress.core.errors import DataError
from compress.data.batches import Encoded
from compress.models.encoder import encoder_of
from compress.models.families import SUBLAYER_KINDS, SublayerKind
from compress.tasks import TASKS, TextClassification
from support.examples import examples
from support.models import random_model

TASK = TASKS["text-classification"]
FAMILIES = ["bert", "deberta-v2", "distilbert", "modernbert", "mpnet"]
Found = dict[tuple[int, SublayerKind], Curvature]


class Second(TextClassification):
    """Always the gradient for the second class: what is left does not depend on the order of examples."""

    def fisher_direction(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return outputs.softmax(-1) - torch.tensor([0.0, 1.0])


def slowly(model: nn.Module, data: Encoded) -> dict[tuple[int, SublayerKind], list[tuple[Tensor, Tensor]]]:
    """For every example, alone and unpadded: what W_o and W_2 read, and the gradient of a shift of what they add to."""
    encoder = encoder_of(model)
    found: dict[tuple[int, SublayerKind], list[tuple[Tensor, Tensor]]] = {}

    def look_at(key: tuple[int, SublayerKind], shifts: list[Tensor], read: list[Tensor]) -> list[RemovableHandle]:
        shift = torch.zeros(encoder.shape.hidden_size).requires_grad_()
        layer = encoder.layers[key[0]]

        def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            read.append(arguments[0].detach()[0])
            shifts.append(shift.repeat(output.shape[1], 1))
            return output + shifts[-1]

        return [layer.get(f"{key[1]}_output").register_forward_hook(add)]

    keys: list[tuple[int, SublayerKind]] = [
        (number, kind) for number in range(encoder.shape.layers) for kind in SUBLAYER_KINDS
    ]
    for i in range(len(data)):
        shifts: list[Tensor] = []
        read: list[Tensor] = []
        handles = [handle for key in keys for handle in look_at(key, shifts, read)]
        logits = model(**next(iter(data.select([i]).batches(1))).inputs).logits
        for handle in handles:
            handle.remove()
        # Sublayers run in the order of the keys, and so are the lists.
        gradients = torch.autograd.grad(-logits.log_softmax(-1)[0, 1], shifts)
        for key, x, gradient in zip(keys, read, gradients, strict=True):
            found.setdefault(key, []).append((x, gradient))
    return found


def spread(weights: Tensor, reads: Tensor) -> Tensor:
    """Weighted covariance of rows, [columns, columns]."""
    shares = weights / weights.sum()
    centred = reads - (shares[:, None] * reads).sum(0)
    return torch.einsum("t,ti,tj->ij", shares, centred, centred)


def assert_close(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    for key in expected:
        for ours, theirs in ((found[key].inputs, expected[key].inputs), (found[key].outputs, expected[key].outputs)):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_sum_over_tokens_and_the_mean_over_samples(family: str) -> None:
    model, data = random_model(family), examples()
    expected: Found = {}
    for key, samples in slowly(model, data).items():
        reads, gradients = torch.cat([x for x, _ in samples]), torch.cat([g for _, g in samples])
        weights = gradients.square().sum(-1)
        expected[key] = Curvature(spread(weights, reads), torch.einsum("ti,tj->ij", gradients, gradients) / len(data))
    assert_close(curvature(encoder_of(model), Second(), data, Passes(batch_size=4)), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SUBLAYER_KINDS)
def test_in_the_last_layer_the_first_position_alone_counts(family: str, kind: SublayerKind) -> None:
    model, data = random_model(family), examples()
    last = len(encoder_of(model).layers) - 1
    samples = slowly(model, data)[last, kind]
    assert all(float(g[1:].abs().max()) == 0.0 < float(g[0].abs().max()) for _, g in samples)
    first, weights = torch.stack([x[0] for x, _ in samples]), torch.stack([g[0].square().sum() for _, g in samples])
    expected = spread(weights, first)
    found = curvature(encoder_of(model), Second(), data)[last, kind].inputs
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_does_not_depend_on_batches_and_padding(family: str) -> None:
    encoder, data = encoder_of(random_model(family)), examples()
    assert_close(
        curvature(encoder, Second(), data, Passes(batch_size=1)),
        curvature(encoder, Second(), data, Passes(batch_size=9)),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_weights_are_enough(family: str) -> None:
    """Checkpoints are loaded without gradients; only those of the hidden states are needed."""
    frozen = random_model(family).requires_grad_(False)
    assert_close(
        curvature(encoder_of(frozen), Second(), examples()),
        curvature(encoder_of(random_model(family)), Second(), examples()),
    )
    assert all(parameter.grad is None for parameter in frozen.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_symmetric_and_without_negative_directions(family: str) -> None:
    for factors in curvature(encoder_of(random_model(family)), TASK, examples()).values():
        for matrix in (factors.inputs.double(), factors.outputs.double()):
            torch.testing.assert_close(matrix, matrix.T)
            eigenvalues = torch.linalg.eigvalsh(matrix)
            assert eigenvalues[0] >= -1e-5 * eigenvalues[-1] and eigenvalues[-1] > 0


def test_equal_seeds_give_equal_factors_and_others_do_not() -> None:
    encoder, data = encoder_of(random_model("bert")), examples()
    first, again, other = (curvature(encoder, TASK, data, Passes(seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[k].inputs, again[k].inputs) for k in first)
    assert all(torch.equal(first[k].outputs, again[k].outputs) for k in first)
    assert not torch.equal(first[0, "ffn"].outputs, other[0, "ffn"].outputs)


def test_labels_are_not_read() -> None:
    encoder, data = encoder_of(random_model("bert")), examples()
    with_labels, without = (curvature(encoder, TASK, d, Passes(seed=1)) for d in (data, examples(labels=False)))
    assert all(torch.equal(with_labels[k].outputs, without[k].outputs) for k in without)


def test_leaving_tokens_out_touches_the_input_factor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, data = encoder_of(random_model("bert")), examples(count=150)
    monkeypatch.setattr(compress.calibration.curvature, "TOKENS_PER_INPUT", 1000)
    everything = curvature(encoder, Second(), data)
    monkeypatch.setattr(compress.calibration.curvature, "TOKENS_PER_INPUT", 20)  # about half of the tokens
    fewer = curvature(encoder, Second(), data)
    for key in everything:
        assert torch.equal(fewer[key].outputs, everything[key].outputs)
        assert not torch.equal(fewer[key].inputs, everything[key].inputs)
        change = (fewer[key].inputs - everything[key].inputs).norm() / everything[key].inputs.norm()
        assert change < 0.5, f"{key}: {change:.2f}"


def test_more_examples_than_needed_are_left_out_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress.calibration.curvature, "LEAST_EXAMPLES", 7)
    encoder, data = encoder_of(random_model("bert")), examples(count=60)
    seen: list[tuple[int, ...]] = []

    class Counting(TextClassification):
        def forward(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
            seen.extend(tuple(row.tolist()) for row in inputs["input_ids"])
            return super().forward(model, inputs)

    drawn = []
    for tokens, seed in ((8, 0), (8, 0), (8, 1), (1, 0), (1000, 0)):
        monkeypatch.setattr(compress.calibration.curvature, "TOKENS_PER_INPUT", tokens)
        seen.clear()
        curvature(encoder, Counting(), data, Passes(seed=seed))
        drawn.append(sorted(seen))
    lengths = data.lengths.mean()
    assert abs(len(drawn[0]) - 8 * 24 / lengths) < 10 and drawn[0] == drawn[1] != drawn[2]
    assert [len(found) for found in drawn[3:]] == [7, 60]


def test_a_filter_that_never_fires_has_no_second_moment() -> None:
    model = random_model("bert", hidden_act="relu")
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight[7] = 0.0
        model.bert.encoder.layer[1].intermediate.dense.bias[7] = -1.0
    found = curvature(encoder_of(model), TASK, examples())[1, "ffn"].inputs
    assert not found[7].any() and not found[:, 7].any() and found.diagonal().max() > 0


def test_the_model_is_left_as_it_was() -> None:
    model = random_model("bert")
    before = copy.deepcopy(model.state_dict())
    curvature(encoder_of(model), TASK, examples())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_gradients_that_are_not_finite_are_an_error() -> None:
    model = random_model("bert")
    with torch.no_grad():
        model.classifier.weight[:] = float("inf")
    with pytest.raises(DataError, match="not finite"):
        curvature(encoder_of(model), Second(), examples())
