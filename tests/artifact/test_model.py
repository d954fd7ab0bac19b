"""Laws of the artifact: a round trip loses nothing, and a run that fails leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.artifact.directory import check_output, staged
from compress.artifact.model import load, save_model
from compress.core.errors import ArtifactError, PlanError
from compress.core.plan import Budget, Plan, Structure, Widths
from compress.models.encoder import shape_of, widths_of
from compress.pruning.removal import remove
from support.models import TINY_SIZES, random_model
from support.structures import first_units, padded_inputs, structures
from support.thorough import examples

SHAPES = {family: shape_of(random_model(family).config) for family in sorted(TINY_SIZES)}
CASES = st.sampled_from(sorted(SHAPES)).flatmap(lambda family: st.tuples(st.just(family), structures(SHAPES[family])))
SOME = first_units(Widths((2, 0, 4), (0, 7, 20)))


def _write(directory: Path, family: str, structure: Structure) -> Any:
    model = random_model(family)
    remove(model, structure)
    save_model(model, directory)
    plan = Plan(SHAPES[family], structure, Budget("macs", 0.5), method="full", macs_fraction=0.5)
    (directory / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    return model


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    _write(tmp_path / "out", "bert", SOME)
    return tmp_path / "out"


@given(case=CASES)
@examples(15)
def test_load_gives_back_what_was_saved(tmp_path_factory: pytest.TempPathFactory, case: tuple[str, Structure]) -> None:
    family, structure = case
    out = tmp_path_factory.mktemp("artifact")
    model, loaded = _write(out, family, structure), load(out)
    assert type(loaded) is type(model) and not loaded.training
    assert widths_of(loaded) == structure.widths
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    inputs = padded_inputs(family)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    shutil.rmtree(out)


def test_labels_and_configuration_survive(artifact: Path) -> None:
    config = load(artifact).config
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.num_attention_heads == SHAPES["bert"].heads


def test_half_precision_and_tied_weights_are_stored(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = random_model("bert")
    layers = model.bert.encoder.layer
    layers[1].output.dense = layers[0].output.dense
    save_model(model.half(), tmp_path)
    stored = load_file(str(tmp_path / "pytorch" / "model.safetensors"))
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert set(stored) == set(model.state_dict())


def test_no_pickle_is_written(artifact: Path) -> None:
    assert sorted(path.name for path in artifact.rglob("*") if path.is_file()) == [
        "config.json",
        "model.safetensors",
        "plan.json",
    ]


@pytest.mark.parametrize("name", ["plan.json", "pytorch/config.json", "pytorch/model.safetensors"])
def test_a_missing_file_is_named(artifact: Path, name: str) -> None:
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"has no {name}"):
        load(artifact)


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a directory; give a directory that `compress run` wrote"):
        load(tmp_path / "nowhere")


def test_truncated_weights(artifact: Path) -> None:
    weights = artifact / "pytorch" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="is damaged"):
        load(artifact)


def test_a_plan_of_other_widths(artifact: Path) -> None:
    plan = Plan(SHAPES["bert"], first_units(Widths((1, 0, 4), (0, 7, 20))), Budget("macs", 0.5), "full", 0.5)
    (artifact / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    with pytest.raises(ArtifactError, match="size mismatch"):
        load(artifact)


def test_a_plan_of_another_model(artifact: Path) -> None:
    plan = Plan(SHAPES["distilbert"], SOME, Budget("macs", 0.5), "full", 0.5)
    (artifact / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    with pytest.raises(ArtifactError, match="its plan is for"):
        load(artifact)


def test_a_damaged_plan(artifact: Path) -> None:
    (artifact / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(PlanError):
        load(artifact)


@pytest.mark.parametrize("kind", ["os.system", "AutoModel", "BertConfig", "NoSuchModel"])
def test_only_model_classes_of_transformers_are_made(artifact: Path, kind: str) -> None:
    path = artifact / "pytorch" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": [kind]}))
    with pytest.raises(ArtifactError, match="names the model class"):
        load(artifact)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "bert", "hidden_size": "wide"}', '{"model_type": "no"}'])
def test_a_damaged_configuration(artifact: Path, text: str) -> None:
    (artifact / "pytorch" / "config.json").write_text(text)
    with pytest.raises(ArtifactError):
        load(artifact)


def _entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_staged_output_appears_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    with staged(out) as directory:
        (directory / "file").write_text("text")
        assert not out.exists() and directory.parent == out.parent
    assert (out / "file").read_text() == "text"
    assert _entries(out.parent) == ["out"]
    # A directory made with mkdtemp would be for its owner alone.
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit, OSError(errno.ENOENT, "no", "x.csv")])
def test_failure_leaves_nothing(tmp_path: Path, failure: Any) -> None:
    out = tmp_path / "new" / "out"
    expected = type(failure) if isinstance(failure, BaseException) else failure
    with pytest.raises(expected), staged(out) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "file").write_text("text")
        raise failure
    assert _entries(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fills_up(tmp_path: Path, number: int) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*; choose another --output"), staged(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    assert _entries(tmp_path) == []


def test_denied_reading_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), staged(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "data.csv"))


def test_an_empty_directory_may_exist(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with staged(tmp_path / "link") as directory:
        (directory / "file").write_text("text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").is_file()
    assert _entries(tmp_path) == ["link", "real"]


def test_taken_outputs_are_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("text")
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, words in (
        ("full", r"not empty \(it has 'mine'\)"),
        ("file", "not a directory"),
        ("dangling", "not a directory"),
    ):
        with pytest.raises(ArtifactError, match=words), staged(tmp_path / name):
            pytest.fail("the block must not run")
    with pytest.raises(ArtifactError, match="cannot write"), staged(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")
    assert _entries(tmp_path) == ["dangling", "file", "full"] and (tmp_path / "full" / "mine").is_file()


def test_output_taken_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not empty"), staged(tmp_path / "out") as directory:
        (directory / "file").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")
    assert _entries(tmp_path) == ["out"] and _entries(tmp_path / "out") == ["theirs"]


def test_too_little_space(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="MB free"):
        check_output(tmp_path / "new" / "out", needed_bytes=2**60)
    assert _entries(tmp_path) == []


def test_read_only_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, for whom no mode is read-only.
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ArtifactError, match="Read-only file system; choose another --output"):
        check_output(tmp_path / "out")


def test_check_output_writes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    assert _entries(tmp_path) == []


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="too long"):
        check_output(tmp_path / ("x" * 300))
