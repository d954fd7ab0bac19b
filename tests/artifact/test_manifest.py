"""manifest.json: sealed, so that no byte of it changes unseen; older and newer formats say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.artifact.manifest import NAME, SEAL, is_sealed, read_manifest, sealed, write_manifest
from compress.core.errors import ArtifactError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    (tmp_path / "pytorch").mkdir()
    for name in ("model.onnx", "pytorch/model.safetensors", "validation.json"):
        (tmp_path / name).write_text(f"content of {name}")
    write_manifest(tmp_path, {"seed": 0})
    return tmp_path


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_sealed_is_sealed(document: dict[str, object]) -> None:
    text = sealed(document)
    assert is_sealed(text, json.loads(text))
    assert sealed(json.loads(text)) == text
    assert not is_sealed(text + " ", json.loads(text))


def test_files_and_facts_are_in_it(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert manifest["seed"] == 0 and len(manifest[SEAL]) == 64
    assert sorted(manifest["files"]) == ["model.onnx", "pytorch/model.safetensors", "validation.json"]
    assert manifest["files"]["model.onnx"]["size_bytes"] == len("content of model.onnx")


def test_a_file_called_like_the_manifest_elsewhere_is_a_file(artifact: Path) -> None:
    (artifact / "pytorch" / NAME).write_text("{}")
    write_manifest(artifact, {})
    assert f"pytorch/{NAME}" in read_manifest(artifact)["files"]


def test_renewed_entries_are_those_that_were_written(artifact: Path) -> None:
    before = read_manifest(artifact)["files"]
    (artifact / "model.onnx").write_text("damaged since")
    (artifact / "validation.json").write_text("measured again")
    write_manifest(artifact, {}, before, {"validation.json"})
    after = read_manifest(artifact)["files"]
    assert after["model.onnx"] == before["model.onnx"]
    assert after["validation.json"] != before["validation.json"]


def test_damage_is_refused(artifact: Path) -> None:
    file = artifact / NAME
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ArtifactError, match="damaged: it is not as it was written"):
        read_manifest(artifact)
    file.write_text("{")
    with pytest.raises(ArtifactError, match="damaged: it is not JSON"):
        read_manifest(artifact)
    file.write_text("[]")
    with pytest.raises(ArtifactError, match="damaged: it holds no table"):
        read_manifest(artifact)


def test_a_newer_format_says_which_version_to_install(artifact: Path) -> None:
    document = {**read_manifest(artifact), "format": 2, "versions": {"compress": "7.3.0"}}
    (artifact / NAME).write_text(sealed(document))
    with pytest.raises(ArtifactError, match=r"format 2, written by compress 7\.3\.0; .*: install compress 7\.3\.0 or"):
        read_manifest(artifact)
    for versions in ({}, None, [], {"compress": 7}):
        (artifact / NAME).write_text(sealed({**document, "versions": versions}))
        with pytest.raises(ArtifactError, match="install a newer compress"):
            read_manifest(artifact)
    for found in (0, "1", None, True, 1.5):
        (artifact / NAME).write_text(sealed({**document, "format": found}))
        with pytest.raises(ArtifactError, match="make the artifact again"):
            read_manifest(artifact)


def test_what_is_no_artifact(tmp_path: Path) -> None:
    for place, words in ((tmp_path, f"has no {NAME}"), (tmp_path / "x", "is not there"), (Path(__file__), "not a dir")):
        with pytest.raises(ArtifactError, match=words):
            read_manifest(place)
