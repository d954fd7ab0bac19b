"""Laws of physical removal: gated = removed, shapes are what the structure says, nothing of width zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import PlanError
from compress.core.plan import Structure, Widths
from compress.models.encoder import encoder_of, shape_of, widths_of
from compress.pruning.removal import BiasOnly, narrow_to, remove
from support.models import TINY_SIZES, random_model
from support.structures import first_units, gated_to, padded_inputs, structures

FAMILIES = sorted(TINY_SIZES)
MODELS = {family: random_model(family) for family in FAMILIES}
SHAPES = {family: shape_of(model.config) for family, model in MODELS.items()}
CASES = st.sampled_from(FAMILIES).flatmap(lambda family: st.tuples(st.just(family), structures(SHAPES[family])))


def _removed(family: str, structure: Structure) -> Any:
    model = copy.deepcopy(MODELS[family])
    remove(model, structure)
    return model


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs).logits
    return logits


@given(CASES)
@settings(max_examples=60)
def test_gated_equals_removed(case: tuple[str, Structure]) -> None:
    family, structure = case
    inputs = padded_inputs(family)
    dense = MODELS[family]
    with gated_to(encoder_of(dense), structure):
        expected = _logits(dense, inputs)
    torch.testing.assert_close(_logits(_removed(family, structure), inputs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_do_something(family: str) -> None:
    # Otherwise the law above would hold for a removal that removes nothing.
    shape, dense, inputs = SHAPES[family], MODELS[family], padded_inputs(family)
    structure = first_units(Widths((1,) * shape.layers, (2,) * shape.layers))
    with gated_to(encoder_of(dense), structure):
        gated = _logits(dense, inputs)
    assert (_logits(dense, inputs) - gated).abs().max() > 1e-2


@given(CASES)
@settings(max_examples=30)
def test_widths_and_parameters_are_those_of_the_structure(case: tuple[str, Structure]) -> None:
    family, structure = case
    model = _removed(family, structure)
    assert widths_of(model) == structure.widths
    assert all(parameter.numel() > 0 for parameter in model.parameters())
    shape, widths = SHAPES[family], structure.widths
    d, head = shape.hidden_size, shape.head_size
    gone = 0
    layers = encoder_of(MODELS[family]).layers
    for layer, heads, filters in zip(layers, widths.heads, widths.filters, strict=True):
        # Projections of positions go with their heads, or as a whole with their sublayer.
        head_rows = 3 + len(layer.further_by_head())
        row, filter_rows = d + (layer.get("query").bias is not None), 1 + shape.gated
        gone += (shape.heads - heads) * head * (head_rows * row + d) + (shape.filters - filters) * (
            filter_rows * row + d
        )
        if widths != shape.dense:
            # Biases that the dense model lacks are made.
            gone -= sum(d for role in ("attention_output", "ffn_output") if layer.get(role).bias is None)
    dense = sum(parameter.numel() for parameter in MODELS[family].parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == dense - gone


@given(CASES)
@settings(max_examples=20)
def test_narrow_to_has_the_state_dict_of_remove(case: tuple[str, Structure]) -> None:
    family, structure = case
    removed, narrowed = _removed(family, structure), copy.deepcopy(MODELS[family])
    narrow_to(narrowed, structure.widths)
    narrowed.load_state_dict(removed.state_dict(), strict=True)
    inputs = padded_inputs(family)
    assert torch.equal(_logits(narrowed, inputs), _logits(removed, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_bias_of_an_empty_sublayer_keeps_its_key(family: str) -> None:
    shape = SHAPES[family]
    model = _removed(family, first_units(Widths((0,) * shape.layers, (0,) * shape.layers)))
    layer = encoder_of(model).layers[1]
    dense = MODELS[family].state_dict()
    for role in ("attention_output", "ffn_output"):
        key = f"{layer.name(role)}.bias"
        assert isinstance(layer.get(role), BiasOnly)
        # Where the dense model has no bias there are zeros.
        assert torch.equal(model.state_dict()[key], dense.get(key, torch.zeros(shape.hidden_size)))
        assert f"{layer.name(role)}.weight" not in model.state_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_bias_counts_as_zeros(family: str) -> None:
    model = copy.deepcopy(MODELS[family])
    encoder, shape = encoder_of(model), SHAPES[family]
    for layer in encoder:
        for role in ("attention_output", "ffn_output"):
            layer.get(role).bias = None
    structure = first_units(Widths((0,) * shape.layers, (0,) * shape.layers))
    with gated_to(encoder, structure):
        expected = _logits(model, padded_inputs(family))
    remove(model, structure)
    torch.testing.assert_close(_logits(model, padded_inputs(family)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_structure_changes_nothing(family: str) -> None:
    model = _removed(family, Structure.dense(SHAPES[family]))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), MODELS[family].parameters(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_memory_is_free(family: str) -> None:
    shape = SHAPES[family]
    model = _removed(family, first_units(Widths((1,) * shape.layers, (1,) * shape.layers)))
    for parameter in model.parameters():
        # A view would keep the dense matrix alive.
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


@pytest.mark.parametrize("trainable", [True, False])
def test_requires_grad_is_kept(trainable: bool) -> None:
    model = copy.deepcopy(MODELS["bert"]).requires_grad_(trainable)
    remove(model, first_units(Widths((0, 1, 4), (0, 3, 20))))
    assert {parameter.requires_grad for parameter in model.parameters()} == {trainable}


def test_pruned_model_still_trains() -> None:
    model = copy.deepcopy(MODELS["bert"])
    remove(model, first_units(Widths((0, 1, 4), (0, 3, 20))))
    model(**padded_inputs("bert")).logits.sum().backward()
    bias = encoder_of(model).layers[0].get("attention_output").bias
    assert bias.grad is not None and bias.grad.abs().sum() > 0


def test_a_pruned_model_is_not_pruned_again() -> None:
    model = _removed("bert", first_units(Widths((1, 1, 1), (20, 20, 20))))
    with pytest.raises(PlanError, match="already pruned"):
        remove(model, first_units(Widths((1, 1, 1), (20, 20, 20))))


@pytest.mark.parametrize(
    "widths", [Widths((4, 4), (20, 20)), Widths((5, 4, 4), (20,) * 3), Widths((4,) * 3, (21,) * 3)]
)
def test_a_structure_that_does_not_fit_changes_nothing(widths: Widths) -> None:
    model = copy.deepcopy(MODELS["bert"])
    with pytest.raises(PlanError):
        narrow_to(model, widths)
    assert widths_of(model) == SHAPES["bert"].dense


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_an_ffn_computed_in_chunks_can_be_removed(family: str) -> None:
    model = random_model(family, chunk_size_feed_forward=2)
    shape = encoder_of(model).shape
    structure = Structure(heads=Structure.dense(shape).heads, filters=((), *Structure.dense(shape).filters[1:]))
    ids = torch.randint(1, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), gated_to(encoder_of(model), structure):
        expected = model(input_ids=ids).logits
    remove(model, structure)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
