"""Weights: names that fit nowhere are explained, and quantized or adapter weights are refused by their names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.errors import ModelError
from compress.inputs.checkpoint import load_checkpoint

QUERY = "bert.encoder.layer.1.attention.self.query"
Weights = dict[str, Any]


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint whose weights are changed."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "folder"))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("module.", "DataParallel wraps the model: save model.module"),
        ("_orig_mod.", "save model._orig_mod"),
        ("model.", "save its attribute model"),
        ("student.", "take 'student.' off their names"),
        ("module.student.", "take 'module.student.' off their names"),
    ],
)
def test_a_prefix_is_named_with_its_remedy(folder: Path, prefix: str, remedy: str) -> None:
    rewrite(folder, lambda weights: {prefix + name: value for name, value in weights.items()})
    message = refusal(folder)
    assert f"'{prefix}bert.embeddings.LayerNorm.bias' where 'bert.embeddings.LayerNorm.bias' belongs" in message
    assert remedy in message


@pytest.mark.parametrize("parts", [("_orig", "_mask"), ("_v", "_g")])
def test_weights_in_two_parts_are_refused_with_what_joins_them(folder: Path, parts: tuple[str, str]) -> None:
    def split(weights: Weights) -> Weights:
        name = "bert.encoder.layer.0.attention.self.query.weight"
        value = weights.pop(name)
        return {**weights, name + parts[0]: value, name + parts[1]: value}

    rewrite(folder, split)
    assert "call prune.remove or parametrize.remove_parametrizations" in refusal(folder)


def test_a_part_in_the_middle_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: {name.replace("layer.1.", "layer.1._orig_mod."): v for name, v in weights.items()})
    assert "torch.compile wraps the model" in refusal(folder)


def test_names_without_the_base_models_prefix_are_read(folder: Path) -> None:
    rewrite(folder, lambda weights: {name.removeprefix("bert."): value for name, value in weights.items()})
    assert load_checkpoint(str(folder)).left_out == ()


def test_a_head_under_another_name_is_named(folder: Path) -> None:
    rewrite(folder, lambda weights: {name.replace("classifier", "score"): value for name, value in weights.items()})
    message = refusal(folder)
    assert "no trained head" in message and "'score.bias', 'score.weight', which fits nowhere" in message


def test_a_layer_more_than_the_configuration_has_is_refused(folder: Path) -> None:
    rewrite(folder, lambda weights: {**weights, **{n.replace("layer.2.", "layer.3."): v for n, v in weights.items()}})
    message = refusal(folder)
    assert "fit nowhere in its 3 layers" in message and "bert.encoder.layer.3." in message


def test_another_head_is_left_out_and_said(folder: Path) -> None:
    rewrite(folder, lambda weights: {**weights, "cls.predictions.bias": np.zeros(200, np.float32)})
    assert load_checkpoint(str(folder)).left_out == ("cls.predictions.bias",)


@pytest.mark.parametrize(
    "name",
    [
        f"{QUERY}.lora_A.weight",
        f"{QUERY}.lora_B.default.weight",
        f"{QUERY}.base_layer.weight",
        "base_model.model.bert.pooler.dense.weight",
        "classifier.modules_to_save.default.weight",
    ],
)
def test_weights_of_an_adapter_inside_are_refused(folder: Path, name: str) -> None:
    rewrite(folder, lambda weights: {**weights, name: np.zeros((2, 2), np.float32)})
    message = refusal(folder)
    assert name in message and "merge_and_unload()" in message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{QUERY}.qweight", np.int32),
        (f"{QUERY}.qzeros", np.int32),
        (f"{QUERY}.SCB", np.float32),
        (f"{QUERY}.weight_scale", np.float32),
        (f"{QUERY}.weight.absmax", np.float32),
        (f"{QUERY}.weight", np.int8),
        (f"{QUERY}.weight", np.uint8),
    ],
)
def test_quantized_weights_are_refused(folder: Path, name: str, kind: Any) -> None:
    """Also where nothing in config.json tells of it: GPTQ once kept its settings in a file of its own."""
    rewrite(folder, lambda weights: {**weights, name: np.zeros((24, 24), kind)})
    message = refusal(folder)
    assert "quantized already" in message and name in message
