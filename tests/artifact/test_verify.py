"""``compress verify``: any byte of any file, links, names that lead elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress import cli
from compress.artifact.manifest import NAME, SEAL, read_manifest, sealed, write_manifest
from compress.artifact.verify import is_inside, refuse_damage, verify
from compress.core.errors import ArtifactError
from compress.export.tensorrt_file import ENGINE_FILES

FILES = ("model.onnx", "plan.json", "pytorch/model.safetensors", "README.md")


def make_artifact(directory: Path) -> Path:
    (directory / "pytorch").mkdir(parents=True)
    for number, name in enumerate(FILES):
        (directory / name).write_bytes(bytes(range(40 * number, 40 * number + 50)))
    write_manifest(directory, {"seed": 0, "note": "Grüße", "seconds": {"load": 1.5}})
    return directory


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "out")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("pristine") / "out")


def found(artifact: Path) -> list[tuple[str, str]]:
    return [(finding.file, finding.problem) for finding in verify(artifact).findings]


def test_as_it_was_written(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(artifact) == [] and verify(artifact).files == len(FILES)
    assert cli.main(["verify", str(artifact)]) == 0
    assert "all 4 files" in capsys.readouterr().out
    # Elsewhere it is the same artifact, and through a link to its directory too.
    (artifact.parent / "link").symlink_to(artifact.name)
    assert found(artifact.parent / "link") == []


@given(data=st.data())
def test_one_flipped_bit_in_any_file_is_found(data: st.DataObject, pristine: Path) -> None:
    name = data.draw(st.sampled_from([*FILES, NAME]))
    file = pristine / name
    content = file.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        file.write_bytes(flipped)
        assert (name, "changed") in found(pristine)
    finally:
        file.write_bytes(content)


def test_every_byte_of_the_manifest_counts(artifact: Path) -> None:
    file = artifact / NAME
    content = file.read_bytes()
    for place, byte in enumerate(content):
        # What is most likely to go unseen: white space for white space, digit for digit, letter for letter.
        others = {0x20: b"\n", 0x0A: b" "}.get(byte, bytes([byte ^ 1]))
        file.write_bytes(content[:place] + others + content[place + 1 :])
        assert (NAME, "changed") in found(artifact), place


def test_missing_and_extra_files(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artifact / "plan.json").unlink()
    (artifact / "pytorch" / "notes.txt").write_text("mine")
    assert found(artifact) == [("plan.json", "missing"), ("pytorch/notes.txt", "extra")]
    assert cli.main(["verify", str(artifact), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is False
    assert [finding["file"] for finding in document["findings"]] == ["plan.json", "pytorch/notes.txt"]
    shutil.rmtree(artifact / "pytorch")
    assert ("pytorch/model.safetensors", "missing") in found(artifact)


def test_links_out_are_named_and_not_followed(artifact: Path) -> None:
    outside = artifact.parent / "elsewhere.onnx"
    outside.write_bytes((artifact / "model.onnx").read_bytes())
    (artifact / "model.onnx").unlink()
    (artifact / "model.onnx").symlink_to(outside)
    (artifact / "pytorch").rename(artifact.parent / "weights")
    (artifact / "pytorch").symlink_to(artifact.parent / "weights")
    (artifact / "loop").symlink_to("loop")
    assert found(artifact) == [
        ("loop", "extra"),
        ("model.onnx", "link"),
        ("pytorch", "extra"),
        ("pytorch/model.safetensors", "link"),
    ]


def test_what_is_no_regular_file_is_not_opened(artifact: Path) -> None:
    (artifact / "plan.json").unlink()
    os.mkfifo(artifact / "plan.json")
    with (artifact / "model.onnx").open("wb") as stream:
        stream.truncate(2**42)  # reading it would take hours
    assert found(artifact) == [("model.onnx", "changed"), ("plan.json", "changed")]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "C:\\x", "..", "", "a//b", "./a", "a\0b", "x\\..\\y", "a:b"]
)
def test_names_that_lead_elsewhere_are_refused(artifact: Path, name: str) -> None:
    assert not is_inside(name)
    document = read_manifest(artifact)
    document["files"][name] = document["files"]["plan.json"]
    (artifact / NAME).write_text(sealed(document))
    with pytest.raises(ArtifactError, match="refused"):
        verify(artifact)


@pytest.mark.parametrize("files", [None, [], {"plan.json": None}, {"plan.json": {"sha256": 1, "size_bytes": 1}}, "x"])
def test_a_manifest_that_lists_nothing(artifact: Path, files: object) -> None:
    (artifact / NAME).write_text(sealed({**read_manifest(artifact), "files": files}))
    with pytest.raises(ArtifactError, match="does not list files"):
        verify(artifact)
    (artifact / NAME).write_text(json.dumps({"format": 1, SEAL: "0", "files": files}))
    assert found(artifact) == [(NAME, "changed")]


def test_an_early_manifest_has_no_digest_of_itself(artifact: Path) -> None:
    document = {name: value for name, value in read_manifest(artifact).items() if name != SEAL}
    (artifact / NAME).write_text(json.dumps(document))
    assert found(artifact) == [(NAME, "changed")]


def test_what_is_no_artifact_is_an_error(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(artifact.parent)]) == 3
    assert cli.main(["verify", str(artifact / "nowhere")]) == 3
    document = {**read_manifest(artifact), "format": 9}
    (artifact / NAME).write_text(sealed(document))
    assert cli.main(["verify", str(artifact)]) == 3
    assert "install compress" in capsys.readouterr().err


def test_damage_is_refused_and_what_is_extra_is_not(artifact: Path) -> None:
    (artifact / "notes.txt").write_text("mine")
    assert [finding.file for finding in refuse_damage(artifact)] == ["notes.txt"]
    (artifact / "plan.json").write_text("other")
    with pytest.raises(ArtifactError, match=r"not as it was written: plan\.json \(changed\)"):
        refuse_damage(artifact)


def test_nothing_is_validated_that_changed_or_says_nonsense(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(artifact)]) == 3
    assert "does not say how it was made" in capsys.readouterr().err
    (artifact / "model.onnx").write_text("another model")
    assert cli.main(["validate", str(artifact)]) == 3
    assert "model.onnx (changed)" in capsys.readouterr().err


def test_an_engine_may_be_removed_to_be_built_again_but_not_changed(artifact: Path) -> None:
    (artifact / "engine").mkdir()
    for name in ENGINE_FILES:
        (artifact / name).write_bytes(name.encode())
    write_manifest(artifact, {})
    for name in ENGINE_FILES:
        (artifact / name).unlink()
    assert sorted(finding.file for finding in refuse_damage(artifact)) == sorted(ENGINE_FILES)
    assert [finding.problem for finding in verify(artifact).findings] == ["missing"] * len(ENGINE_FILES)
    (artifact / ENGINE_FILES[0]).write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"engine/model\.plan \(changed\)"):
        refuse_damage(artifact)
