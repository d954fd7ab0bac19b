"""``compress verify``: is every file of an artifact what it was when it was written?

Law (``tests/artifact/test_verify.py``): whichever byte of whichever file changes, the file is named.

Files are compared with the artifact's own manifest, offline. That finds damage (a bad copy, a file edited or left out),
not malice: whoever can change a file can change the manifest with it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from compress.artifact.files import PACKAGE_FILES
from compress.artifact.manifest import (
    NAME,
    SEAL,
    ManifestDamaged,
    check_format,
    files_of,
    is_sealed,
    read_sealed,
    version_of,
)
from compress.core.errors import ArtifactError
from compress.core.hashing import sha256_of
from compress.core.parsing import printable
from compress.export.tensorrt_file import ENGINE_FILES

UNSEALED = "it has no digest of itself: written by an early version, or damaged; `compress validate` adds one"
Problem = Literal["changed", "missing", "extra", "link"]


@dataclass(frozen=True)
class Finding:
    """A file that is not as the manifest has it.

    Attributes:
        file: its name in the artifact.
        problem: ``changed``, ``missing``, ``extra``, or ``link`` where it is reached through a link out of the
            artifact.
        detail: what was found, in words.
    """

    file: str
    problem: Problem
    detail: str


@dataclass(frozen=True)
class Verified:
    """What ``verify`` found.

    Attributes:
        files: number of files that the manifest lists.
        findings: empty where the artifact is as it was written.
        written_by: version of compress that wrote it; None where the manifest does not say.
    """

    files: int
    findings: tuple[Finding, ...]
    written_by: str | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"verified": not self.findings, **asdict(self)}


def verify(artifact: str | Path) -> Verified:
    """Compare every file of an artifact with its manifest.

    Args:
        artifact: directory that ``compress run`` or ``compress export`` wrote.

    Raises:
        ArtifactError: it is not an artifact, of a format that this version does not read, or its manifest names files
            outside of it.
    """
    root = Path(artifact)
    try:
        text, document = read_sealed(root)
    except ManifestDamaged as error:
        return Verified(0, (Finding(NAME, "changed", str(error)),), None)
    if SEAL in document and not is_sealed(text, document):
        detail = "its own digest does not fit; what it says of other files is not to be relied on"
        # Which files it still describes correctly is of use to find out what happened, its format may be of none.
        entries = document.get("files")
        listed: dict[str, Any] = entries if isinstance(entries, dict) and _well_formed(entries) else {}
        rest = _compare(root, listed) if listed else ()
        return Verified(len(listed), (Finding(NAME, "changed", detail), *rest), None)
    check_format(document, root)
    entries = document.get("files")
    if not isinstance(entries, dict) or not _well_formed(entries):
        raise ArtifactError(f"'{root / NAME}' does not list files with their SHA-256; make the artifact again")
    outside = next((name for name in entries if not is_inside(name)), None)
    if outside is not None:
        raise ArtifactError(
            f"'{root / NAME}' lists {outside!r}, which is not a file of the artifact's own: refused. Do not use it "
            "unless you know who wrote it"
        )
    findings = list(_compare(root, entries))
    if SEAL not in document:
        findings.insert(0, Finding(NAME, "changed", UNSEALED))
    return Verified(len(entries), tuple(findings), version_of(document))


def refuse_damage(artifact: str | Path) -> tuple[Finding, ...]:
    """Raise ArtifactError where a listed file is not as it was written; returns what else was found.

    A TensorRT engine or a compiled package may be missing: on another device it has to be removed, and is built again.
    """
    findings = verify(artifact).findings
    if (said := _damage_in(findings)) is not None:
        raise ArtifactError(f"'{artifact}' {said}: restore it, or make it again (`compress verify` says more)")
    return findings


def damage(artifact: str | Path, besides: Collection[str] = ()) -> str | None:
    """What ``refuse_damage`` would say of the artifact, for those who only tell; None where all is as it was written.

    Args:
        artifact: directory with a manifest.
        besides: files that do not count.
    """
    return _damage_in(found for found in verify(artifact).findings if found.file not in besides)


def _damage_in(findings: Iterable[Finding]) -> str | None:
    broken = [
        finding
        for finding in findings
        if finding.problem != "extra"
        and finding.detail != UNSEALED
        and not (finding.problem == "missing" and finding.file in (*ENGINE_FILES, *PACKAGE_FILES))
    ]
    if not broken:
        return None
    named = "; ".join(f"{printable(found.file)} ({found.problem})" for found in broken[:5])
    return f"is not as it was written: {named}. What was measured on it does not hold"


def is_inside(name: str) -> bool:
    """Whether a name of a manifest, taken from the artifact's directory, stays in it, whatever the system."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or name != path.as_posix() or re.search(r"[\x00\\:]", name))


def _well_formed(entries: dict[str, Any]) -> bool:
    return all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size_bytes"), int)
        for entry in entries.values()
    )


def _compare(root: Path, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    found = files_of(root)
    # Files of a linked directory are not walked through, but may be listed.
    for name in sorted(entries.keys() | found.keys()):
        if not is_inside(name):
            yield Finding(name, "changed", "its name leads out of the artifact")
        elif name not in entries:
            yield Finding(name, "extra", "the manifest does not list it")
        else:
            yield from _check(root, name, entries[name])


def _check(root: Path, name: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
    file = root / name
    try:
        if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
            yield Finding(name, "link", "it is reached through a link out of the artifact; copy the file itself")
            return
        state = file.stat()
        if not stat.S_ISREG(state.st_mode):
            yield Finding(name, "changed", "it is not a regular file")
        elif state.st_size != entry["size_bytes"]:
            yield Finding(name, "changed", f"it has {state.st_size} bytes, {entry['size_bytes']} were written")
        elif (digest := sha256_of(file)) != entry["sha256"]:
            yield Finding(name, "changed", f"its SHA-256 is {digest[:12]}…, {entry['sha256'][:12]}… was written")
    except FileNotFoundError:
        yield Finding(name, "missing", "the manifest lists it")
    except OSError as error:
        yield Finding(name, "changed", f"it cannot be read: {error.strerror or error}")
