"""Laws of padding: equal answers, for every structure, after transformers has loaded it from its files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import PlanError
from compress.core.plan import Structure, Widths
from compress.models.encoder import encoder_of, shape_of, widths_of
from compress.pruning.padding import padded
from compress.pruning.removal import remove
from support.models import TINY_SIZES, random_model
from support.structures import first_units, padded_inputs, structures
from support.thorough import examples

FAMILIES = sorted(TINY_SIZES)
MODELS = {family: random_model(family) for family in FAMILIES}
SHAPES = {family: shape_of(model.config) for family, model in MODELS.items()}
CASES = st.sampled_from(FAMILIES).flatmap(lambda family: st.tuples(st.just(family), structures(SHAPES[family])))


def pruned(family: str, structure: Structure, *, biases: bool = False) -> Any:
    model = copy.deepcopy(MODELS[family])
    remove(model, structure)
    if biases:
        # As reconstruction leaves them: an emptied sublayer is its bias.
        for layer in encoder_of(model):
            for role in ("attention_output", "ffn_output"):
                layer.get(role).bias.data.fill_(0.3)
    return model


@torch.no_grad()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    answer: torch.Tensor = model(**inputs).logits
    return answer


@given(CASES)
@examples(15)
def test_padded_equals_pruned(case: tuple[str, Structure]) -> None:
    family, structure = case
    model, inputs = pruned(family, structure), padded_inputs(family)
    wide = padded(model, structure)
    torch.testing.assert_close(logits(wide, inputs), logits(model, inputs), atol=1e-5, rtol=0)
    filters = max(1, *map(len, structure.filters))
    assert widths_of(wide) == Widths((SHAPES[family].heads,) * 3, (filters,) * 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_it_by_itself(family: str, tmp_path: Path) -> None:
    import transformers

    structure = Structure(heads=((1, 3), (), (0, 1, 2, 3)), filters=((), (2, 5, 7), (0, 1)))
    model, inputs = pruned(family, structure, biases=True), padded_inputs(family)
    padded(model, structure).save_pretrained(tmp_path)
    kind = getattr(transformers, type(model).__name__)
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(logits(again.eval(), inputs), logits(model, inputs), atol=1e-5, rtol=0)


def test_a_bias_that_no_configuration_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.pruning.padding._BIAS_SETTINGS", {})
    structure = first_units(Widths((2, 0, 4), (3, 0, 20)))
    with pytest.raises(PlanError, match=r"Wo' has a bias, which modernbert .*leave out --pytorch padded"):
        padded(pruned("modernbert", structure, biases=True), structure)
