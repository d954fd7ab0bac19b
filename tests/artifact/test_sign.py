"""Signatures: made and checked for real, with real keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from compress import cli
from compress.artifact.manifest import SIGNATURE, read_manifest, write_manifest
from compress.artifact.sign import PASSWORD, check_signature, sign
from compress.artifact.verify import verify
from compress.core.errors import ArtifactError, ConfigError
from support.made_up import write_made_up

pytestmark = pytest.mark.skipif(find_spec("model_signing") is None, reason="the extra `sign` is not installed")


def make_keys(folder: Path, name: str = "key", password: bytes | None = None) -> tuple[Path, Path]:
    """A private key and its public key, as openssl writes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    files[0].write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    files[1].write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return files


def change_and_certify(artifact: Path) -> None:
    """What a signature is for: a changed file, and a manifest that agrees with it."""
    (artifact / "plan.json").write_bytes((artifact / "plan.json").read_bytes() + b" ")
    facts = {k: v for k, v in read_manifest(artifact).items() if k not in ("files", "sha256")}
    write_manifest(artifact, facts)
    assert verify(artifact).findings == ()


def add_a_file(artifact: Path) -> None:
    (artifact / ".gitignore").write_text("x")


def remove_a_file(artifact: Path) -> None:
    (artifact / "tradeoff.json").unlink()


def damage_the_signature(artifact: Path) -> None:
    text = (artifact / SIGNATURE).read_text()
    (artifact / SIGNATURE).write_text(
        text.replace('"payload": "', '"payload": "A', 1).replace('"payload":"', '"payload":"A')
    )


def empty_the_signature(artifact: Path) -> None:
    (artifact / SIGNATURE).write_text("{}")


def not_json(artifact: Path) -> None:
    (artifact / SIGNATURE).write_bytes(b"\xff\x00")


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_signature_holds_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path if place == "absolute" else Path()
    artifact, (key, public) = write_made_up(folder / "out"), make_keys(folder)
    assert [finding.problem for finding in check_signature(artifact, public)] == ["missing"]
    assert cli.main(["sign", str(artifact), "--key", str(key)]) == 0
    assert cli.main(["verify", str(artifact), "--public-key", str(public)]) == 0
    assert f"signed by the owner of {public}" in capsys.readouterr().out
    # The signature is no part of what the manifest lists, and signing again replaces it.
    assert verify(artifact).findings == () and sign(artifact, key) == artifact / SIGNATURE
    assert check_signature(artifact, public) == ()
    (artifact / "model.onnx").write_bytes(b"another")
    (finding,) = check_signature(artifact, public)
    assert "Hash mismatch for 'model.onnx'" in finding.detail and "Digest" not in finding.detail
    assert SIGNATURE not in finding.detail
    # Another key did not sign it.
    _, stranger = make_keys(tmp_path, "stranger")
    assert [finding.problem for finding in check_signature(artifact, stranger)] == ["changed"]


@pytest.mark.parametrize(
    "change",
    [change_and_certify, add_a_file, remove_a_file, damage_the_signature, empty_the_signature, not_json],
)
def test_every_change_is_found(
    tmp_path: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, (key, public) = write_made_up(tmp_path / "out"), make_keys(tmp_path)
    sign(artifact, key)
    change(artifact)
    assert [finding.file for finding in check_signature(artifact, public)] == [SIGNATURE]
    assert cli.main(["verify", str(artifact), "--public-key", str(public)]) == 1
    said = capsys.readouterr()
    assert f"changed: {SIGNATURE}" in said.out and "Traceback" not in said.err


def test_what_is_damaged_is_not_signed(tmp_path: Path) -> None:
    artifact, (key, _) = write_made_up(tmp_path / "out"), make_keys(tmp_path)
    (artifact / "plan.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"not as it was written \(plan\.json\): not signed"):
        sign(artifact, key)
    assert not (artifact / SIGNATURE).exists()


def test_encrypted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, (key, public) = write_made_up(tmp_path / "out"), make_keys(tmp_path, password=b"secret")
    with pytest.raises(ConfigError, match=f"cannot sign with .*{PASSWORD}"):
        sign(artifact, key)
    monkeypatch.setenv(PASSWORD, "secret")
    sign(artifact, key)
    assert check_signature(artifact, public) == ()


def test_keys_that_are_none(tmp_path: Path) -> None:
    artifact, (key, public) = write_made_up(tmp_path / "out"), make_keys(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read the key '.*absent': there is no such file"):
        sign(artifact, tmp_path / "absent")
    (tmp_path / "text").write_text("no key")
    for use in (lambda: sign(artifact, tmp_path / "text"), lambda: sign(artifact, public)):
        with pytest.raises(ConfigError, match="it takes an elliptic-curve private key in PEM"):
            use()
    with pytest.raises(ConfigError, match="it takes an elliptic-curve public key in PEM"):
        check_signature(artifact, tmp_path / "text")
    sign(artifact, key)
    assert not list(artifact.glob(".*.partial"))


def test_without_the_library_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, (key, _) = write_made_up(tmp_path / "out"), make_keys(tmp_path)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ConfigError, match=r"compress\[sign\]"):
        sign(artifact, key)
