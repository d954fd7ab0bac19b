"""Families: which are known, which are refused and why, how long their inputs may be, and adding one's own."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compress.core.errors import ModelError
from compress.core.plan import Widths
from compress.models import families
from compress.models.encoder import (
    FAMILIES,
    ImageInput,
    encoder_of,
    family_of,
    image_input,
    longest_input,
    register,
    shape_of,
)
from compress.options.effort import EFFORT
from compress.pruning.removal import KEPT_HEADS, remove
from support.models import OF_IMAGES, TINY_SIZES, random_model
from support.structures import first_units, padded_inputs

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_family.py"


def test_every_family_is_tested() -> None:
    assert set(TINY_SIZES) == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(TINY_SIZES))
def test_modules_are_where_the_entry_says(family: str) -> None:
    model = random_model(family)
    encoder = encoder_of(model)
    parameters = dict(model.named_parameters())
    for layer in encoder:
        for role in ("query", "key", "value", "attention_output", "ffn_input", "ffn_output"):
            assert layer.get(role).weight is parameters[f"{layer.name(role)}.weight"]
        assert sum(layer.inputs("attention").values()) == 3
        assert layer.get("ffn_input").out_features == encoder.shape.filters * layer.inputs("ffn")["ffn_input"]
        assert layer.get("attention_output").in_features == encoder.shape.heads * encoder.shape.head_size
        assert layer.get("ffn_output").in_features == encoder.shape.filters


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("albert", "layers share their weights"), ("gpt2", "decoder"), ("llama", "decoder"), ("t5", "only encoders")],
)
def test_what_cannot_be_compressed_is_refused_with_the_reason(model_type: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        family_of(model_type)


def test_convolutions_between_layers_are_refused() -> None:
    config = random_model("deberta-v2").config
    config.conv_kernel_size = 3
    with pytest.raises(ModelError, match="convolution between its layers"):
        shape_of(config)


@pytest.mark.parametrize("family", sorted(set(TINY_SIZES) - set(OF_IMAGES)))
def test_longest_input_is_read_and_one_more_is_not(family: str) -> None:
    model = random_model(family)
    longest = longest_input(model.config)
    assert longest == 40
    with torch.no_grad():
        model(**padded_inputs(family, batch=1, length=longest))
        if family not in ("deberta-v2", "modernbert"):  # relative positions: only the configuration says where they end
            with pytest.raises((IndexError, RuntimeError)):
                model(**padded_inputs(family, batch=1, length=longest + 1))


def test_what_a_model_of_images_reads() -> None:
    real: Any = SimpleNamespace(model_type="deit", image_size=(224, 192), patch_size=16, num_channels=3)
    assert image_input(real) == ImageInput(channels=3, height=224, width=192, positions=14 * 12 + 2)
    assert longest_input(real) == 14 * 12 + 2
    assert image_input(random_model("bert").config) is None


def test_length_of_a_real_configuration() -> None:
    real: Any = SimpleNamespace(model_type="roberta", max_position_embeddings=514, pad_token_id=1)
    assert longest_input(real) == 512
    assert longest_input(SimpleNamespace(model_type="bert")) is None


def test_position_bias_goes_with_its_heads() -> None:
    model = random_model("mpnet")
    structure = replace(first_units(Widths((2,) * 3, (20,) * 3)), heads=((1, 3),) * 3)
    remove(model, structure)
    state = model.state_dict()
    kept = [value.tolist() for name, value in state.items() if name.endswith(KEPT_HEADS)]
    assert kept == [[1, 3]] * 3


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(FAMILIES))
    bert = FAMILIES["bert"]
    with pytest.raises(ModelError, match="there is a family 'bert' already"):
        register(bert)
    register(bert, replace_existing=True)
    with pytest.raises(ModelError, match=r"'query' is not inside its attention module 'attention.self'"):
        register(replace(bert, model_type="own", query="query"))
    register(replace(bert, model_type="albert"))
    assert family_of("albert").model_type == "albert"


@pytest.mark.slow
def test_example_of_a_family_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "own")])
    monkeypatch.setattr("compress.stages.present_device.EFFORT", {"fast": replace(EFFORT["fast"], profile_seconds=1.0)})
    try:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        FAMILIES.pop("own-encoder", None)
    assert "OwnForSequenceClassification: 0." in capsys.readouterr().out
