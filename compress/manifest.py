"""manifest.json: what an artifact consists of and how it came to be."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from compress._version import __version__
from compress.errors import ArtifactError

FORMAT_VERSION = 1
NAME = "manifest.json"
# What decides how a model is computed and written; versions of the rest do not change a result.
_LIBRARIES = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "onnxscript", "numpy", "scipy", "datasets")


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of compress, Python and the libraries that decide the result; absent ones are left out."""
    found = {"compress": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_manifest(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write manifest.json for everything else that is in ``directory``.

    Args:
        directory: the artifact, complete but for its manifest.
        facts: run facts: configuration, seed, fingerprints, device, seconds per stage.
    """
    files = {
        str(file.relative_to(directory).as_posix()): {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != NAME
    }
    document = {
        "format": FORMAT_VERSION,
        "versions": versions(),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        **facts,
        "files": files,
    }
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    temporary = directory / f".{NAME}.partial"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(directory / NAME)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artifact.

    Raises:
        ArtifactError: there is none, or it is damaged or of another format.
    """
    file = directory / NAME
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"'{directory}' is no artifact of compress: cannot read {NAME}: {error.strerror or error}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"'{file}' is damaged: {error}; make the artifact again") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT_VERSION:
        found = document.get("format") if isinstance(document, dict) else None
        raise ArtifactError(f"'{file}' has format {found!r}; this version of compress reads format {FORMAT_VERSION}")
    return document
