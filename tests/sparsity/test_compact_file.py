"""The compact file: written, read back bit for bit, and refused where it is damaged or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import compress
from compress.core.errors import ArtifactError
from compress.models.encoder import encoder_of
from compress.sparsity.compact_file import NAME, read_state, rounded_state, write_compact
from compress.sparsity.matrices import matrices_of
from compress.sparsity.topk import choose
from support.models import OF_IMAGES, TINY_SIZES, random_model
from support.thorough import examples


def thinned(family: str = "bert", fraction: float = 0.1, **config: Any) -> Any:
    """A small random model with most of its encoder's weights zero."""
    model = random_model(family, **config)
    matrices = list(matrices_of(encoder_of(model)).values())
    with torch.no_grad():
        for matrix, mask in zip(matrices, choose([m.abs() for m in matrices], fraction, "global"), strict=True):
            matrix.mul_(mask)
    return model


@pytest.mark.parametrize("family", sorted(TINY_SIZES))
def test_what_is_read_is_what_was_rounded(family: str, tmp_path: Path) -> None:
    if family in OF_IMAGES:
        pytest.importorskip("PIL", reason="the extra `vision` is not installed")
    model = thinned(family)
    write_compact(model, tmp_path / NAME)
    loaded, expected = compress.load_compact(tmp_path / NAME), rounded_state(model)
    assert type(loaded) is type(model)
    found = loaded.state_dict()
    assert found.keys() == expected.keys() == model.state_dict().keys()
    for name, value in expected.items():
        assert np.array_equal(found[name].numpy(), value), name
    for name in matrices_of(encoder_of(model)):
        before, after = model.state_dict()[name], found[name]
        assert bool((after[before == 0] == 0).all())
        # Half a step of a row's own scale.
        scale = before.abs().amax(1, keepdim=True) / 127
        assert bool(((after - before).abs() <= 0.5001 * scale).all()), name


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "distilbert"])
def test_the_matrices_are_the_encoders_linear_layers_each_once(family: str) -> None:
    model = random_model(family)
    encoder = encoder_of(model)
    names = set(matrices_of(encoder))
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name.startswith(f"{layer.prefix}.") for layer in encoder)
    }
    assert names == linear


def test_embeddings_and_large_matrices_are_int8_and_small_things_are_half(tmp_path: Path) -> None:
    state = write_compact(thinned(), tmp_path / NAME)
    hows = {name: one.how for name, one in state.items()}
    assert hows["bert.embeddings.word_embeddings.weight"] == "rows"
    assert {hows[name] for name in hows if name.endswith("bias") or "LayerNorm" in name} == {"half"}
    assert hows["classifier.weight"] == "half"
    assert {hows[name] for name in matrices_of(encoder_of(random_model("bert")))} <= {"steps", "bitmap"}
    with torch.no_grad():
        model = thinned()
        model.classifier.bias[0] = 1e6
    # What float16 does not hold is kept as it is.
    assert write_compact(model, tmp_path / "large")["classifier.bias"].how == "plain"
    assert compress.load_compact(tmp_path / "large").classifier.bias[0].item() == 1e6


def test_the_file_does_not_say_where_the_checkpoint_lay(tmp_path: Path) -> None:
    model = thinned()
    model.config.name_or_path = "/home/somebody/model"
    write_compact(model, tmp_path / NAME)
    assert "_name_or_path" not in read_state(tmp_path / NAME)[0]
    assert b"somebody" not in (tmp_path / NAME).read_bytes()


def test_an_artifact_directory_leads_to_its_file(tmp_path: Path) -> None:
    write_compact(thinned(), tmp_path / NAME)
    assert compress.load_compact(str(tmp_path)).config.model_type == "bert"
    with pytest.raises(ArtifactError, match="there is no compact file"):
        compress.load_compact(tmp_path / "nowhere")


def rewritten(source: Path, target: Path, change: Any) -> Path:
    """A compact file with its arrays and metadata changed."""
    from safetensors import safe_open

    with safe_open(str(source), framework="numpy") as file:
        metadata = dict(file.metadata())
    arrays = load_file(str(source))
    change(arrays, metadata)
    save_file(arrays, str(target), metadata)
    return target


def _first(arrays: dict[str, Any], end: str) -> str:
    return next(name for name in sorted(arrays) if name.endswith(end) and ".encoder.layer." in name)


def _entry(metadata: dict[str, str], name: str, value: Any) -> None:
    entries = json.loads(metadata["tensors"])
    entries[name] = value
    metadata["tensors"] = json.dumps(entries)


DAMAGES: dict[str, Any] = {
    "no format": lambda arrays, metadata: metadata.pop("format"),
    "a later version": lambda arrays, metadata: metadata.update(version="7"),
    "no list of tensors": lambda arrays, metadata: metadata.pop("tensors"),
    "no JSON": lambda arrays, metadata: metadata.update(tensors="{"),
    "no configuration": lambda arrays, metadata: metadata.update(config="[]"),
    "another class": lambda arrays, metadata: metadata.update(config=json.dumps({"model_type": "bert"})),
    "values missing": lambda arrays, metadata: arrays.pop(_first(arrays, ".values")),
    "values cut": lambda arrays, metadata: arrays.update({(n := _first(arrays, ".values")): arrays[n][:-1]}),
    "places cut": lambda arrays, metadata: arrays.update({(n := _first(arrays, ".where")): arrays[n][:-1]}),
    "scales of another kind": lambda arrays, metadata: arrays.update(
        {(n := _first(arrays, ".scales")): arrays[n].astype(np.float64)}
    ),
    "scales that are none": lambda arrays, metadata: arrays.update(
        {(n := _first(arrays, ".scales")): arrays[n] * np.float32(np.nan)}
    ),
    "something more": lambda arrays, metadata: arrays.update(spare=np.zeros(3, np.float32)),
    "a tensor of no model": lambda arrays, metadata: (
        arrays.update(spare=np.zeros(3, np.float16)),
        _entry(metadata, "spare", ["half", 0, [3]]),
    ),
    "a way that is none": lambda arrays, metadata: _entry(metadata, "classifier.bias", ["zip", 0, [2]]),
    "a shape that is none": lambda arrays, metadata: _entry(metadata, "classifier.bias", ["half", 0, [-2]]),
    "an entry that is none": lambda arrays, metadata: _entry(metadata, "classifier.bias", 3),
    "another shape": lambda arrays, metadata: (
        arrays.update({"classifier.bias": np.zeros(3, np.float16)}),
        _entry(metadata, "classifier.bias", ["half", 0, [3]]),
    ),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compact") / NAME
    write_compact(thinned(), path)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name(file: Path, tmp_path: Path, damage: str) -> None:
    wrong = rewritten(file, tmp_path / "wrong.safetensors", DAMAGES[damage])
    with pytest.raises(ArtifactError, match=r"wrong\.safetensors"):
        compress.load_compact(wrong)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04\x95pickle", b"\xff" * 64])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a compact file, or it is damaged"):
        compress.load_compact(path)


def test_an_ordinary_checkpoint_is_no_compact_file(tmp_path: Path) -> None:
    random_model("bert").save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="is not a compact file of compress"):
        compress.load_compact(tmp_path / "model.safetensors")


@examples(60)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_any_byte_changed_is_a_model_or_an_artifact_error(file: Path, place: float, value: int) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] = value
    path = file.with_name("changed")
    path.write_bytes(content)
    try:
        read_state(path)
    except ArtifactError as error:
        assert "changed" in str(error)
