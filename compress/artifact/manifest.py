"""manifest.json: what an artifact consists of and how it came to be.

Law (``tests/artifact/test_manifest.py``): whichever byte of the file changes, its seal no longer fits. That finds
damage. It finds no malice: who can write the file can write the seal.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from compress._version import __version__
from compress.artifact.files import MANIFEST
from compress.artifact.files import SIGNATURE as SIGNATURE
from compress.core.errors import ArtifactError
from compress.core.hashing import sha256_of
from compress.core.parsing import Unreadable, parse_json, read_text

FORMAT_VERSION = 1
NAME = MANIFEST
# The manifest's entry with the digest of the rest of it.
SEAL = "sha256"
# Files of an artifact that no manifest lists: itself, and the signature.
UNLISTED = frozenset({NAME, SIGNATURE})
# What decides how a model is computed and written; versions of the rest do not change a result.
_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "scipy", "scikit-learn", "seqeval"),
    *("onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf"),
)


class ManifestDamaged(ArtifactError):
    """manifest.json is there, but cannot be read as one."""


def versions() -> dict[str, str]:
    """Versions of compress, Python and the libraries that decide the result; absent ones are left out."""
    found = {"compress": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_manifest(
    directory: Path, facts: Mapping[str, Any], known: Mapping[str, Any] | None = None, changed: Collection[str] = ()
) -> None:
    """Write manifest.json for everything else that is in ``directory``.

    Args:
        directory: the artifact, complete but for its manifest.
        facts: run facts: configuration, seed, fingerprints, device, seconds per stage.
        known: ``files`` of the manifest that this one replaces. What it says of a file stays, so that damage from
            before is not certified anew. None: everything is new.
        changed: names of files that were written since.
    """
    files = {
        name: {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
        for name, file in sorted(files_of(directory).items())
    }
    if known is not None:
        files = {**known, **{name: entry for name, entry in files.items() if name in changed}}
    document = {**described(facts), "files": files}
    temporary = directory / f".{NAME}.partial"
    temporary.write_text(sealed(document), encoding="utf-8")
    temporary.replace(directory / NAME)


def described(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with format, versions and command line, where they do not say them already."""
    program = os.path.basename(sys.argv[0])
    return {
        "format": FORMAT_VERSION,
        "versions": versions(),
        # `python -m compress` has the path of a file here.
        "command": ["compress" if program == "__main__.py" else program, *sys.argv[1:]],
        **facts,
    }


def files_of(directory: Path) -> dict[str, Path]:
    """Every file of an artifact that a manifest lists, links among them, by its name with slashes."""
    return {
        name: file
        for file in directory.rglob("*")
        if (file.is_symlink() or not file.is_dir()) and (name := file.relative_to(directory).as_posix()) not in UNLISTED
    }


def sealed(document: Mapping[str, Any]) -> str:
    """A manifest as text, with the SHA-256 of that text (but for this very entry) in it.

    The text is the only one of its content, so that ``is_sealed`` finds any byte that changed.
    """
    content = {name: value for name, value in document.items() if name != SEAL}
    return _text({**content, SEAL: hashlib.sha256(_text(content).encode()).hexdigest()})


def is_sealed(text: str, document: Mapping[str, Any]) -> bool:
    """Whether a manifest's text is, byte for byte, what ``sealed`` made of its document.

    Args:
        text: of manifest.json.
        document: its content.
    """
    return text == sealed(document)


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artifact.

    Raises:
        ArtifactError: there is none, or it is damaged or of another format.
    """
    text, document = read_sealed(directory)
    if SEAL in document and not is_sealed(text, document):
        raise ArtifactError(
            f"'{directory / NAME}' is damaged: it is not as it was written (its own {SEAL} says so); restore it, or "
            "make the artifact again"
        )
    check_format(document, directory)
    return document


def read_sealed(directory: Path) -> tuple[str, dict[str, Any]]:
    """Text and content of manifest.json, neither its seal nor its format checked.

    Raises:
        ArtifactError: there is no artifact.
        ManifestDamaged: the file is there and holds no manifest.
    """
    file = directory / NAME
    if not file.is_file():
        state = (
            f"has no {NAME}" if directory.is_dir() else "is not a directory" if directory.exists() else "is not there"
        )
        raise ArtifactError(f"'{directory}' is not an artifact of compress: it {state}; give what `compress run` wrote")
    try:
        text = read_text(file)
        document = parse_json(text)
    except Unreadable as error:
        raise ManifestDamaged(f"'{file}' is damaged: {error}; make the artifact again") from None
    if not isinstance(document, dict):
        raise ManifestDamaged(f"'{file}' is damaged: it holds no table; make the artifact again")
    return text, document


def check_format(document: Mapping[str, Any], directory: Path) -> None:
    """Raise ArtifactError unless a manifest has the format that this version reads.

    Args:
        document: content of manifest.json.
        directory: the artifact, for the message.

    Raises:
        ArtifactError: it has another format; the message says which version to install.
    """
    found = document.get("format")
    if found == FORMAT_VERSION and not isinstance(found, bool):
        return
    version = version_of(document)
    by = f", written by compress {version}" if version else ""
    remedy = "make the artifact again"
    if isinstance(found, int) and found > FORMAT_VERSION:
        remedy = f"install compress {version} or newer" if by else "install a newer compress"
    raise ArtifactError(
        f"'{directory / NAME}' has format {found!r}{by}; this is compress {__version__}, which reads format "
        f"{FORMAT_VERSION}: {remedy}"
    )


def version_of(document: Mapping[str, Any]) -> str | None:
    """The version of compress that wrote a manifest; None where it does not say."""
    writer = document.get("versions")
    version = writer.get("compress") if isinstance(writer, dict) else None
    return version if isinstance(version, str) else None
