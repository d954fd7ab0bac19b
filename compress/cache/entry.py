"""One entry of the store: a directory with the files of a result and a record of their inputs.

The record has the SHA-256 of every file and of itself. So damage, changes and other versions are found.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT_VERSION = 1
RECORD = "entry.json"
_LONGEST_RECORD = 1 << 20


class Damaged(Exception):
    """An entry that must not be used; the message says what is wrong with it."""


@dataclass(frozen=True)
class Entry:
    """One stored result.

    Attributes:
        stage: name of the stage that made it.
        key: hash of its inputs.
        path: its directory.
        size_bytes: size of its files.
        used: time of the last read or write, seconds since 1970 by the file system.
        label: the model's name, and the precision where there is one.
        made: time of making, ISO 8601, UTC; empty where the record cannot be read.
        seconds: seconds that making it took.
        damage: what is wrong with the record; None where it is sound. Files are checked when they are read.
    """

    stage: str
    key: str
    path: Path
    size_bytes: int
    used: float
    label: str = ""
    made: str = ""
    seconds: float = 0.0
    damage: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain JSON types."""
        return {
            "stage": self.stage,
            "label": self.label,
            "key": self.key,
            "size_bytes": self.size_bytes,
            "made": self.made,
            "seconds": self.seconds,
            "age_seconds": round(self.age_seconds()),
            "idle_seconds": round(self.idle_seconds()),
            "damage": self.damage,
        }

    def age_seconds(self, now: float | None = None) -> float:
        """Return the seconds since it was made; never negative, even where the clock was set back."""
        try:
            made = datetime.datetime.fromisoformat(self.made).timestamp()
        except ValueError:
            made = self.used
        return max(0.0, (time.time() if now is None else now) - made)

    def idle_seconds(self, now: float | None = None) -> float:
        """Return the seconds since it was used; never negative."""
        return max(0.0, (time.time() if now is None else now) - self.used)


def canonical(document: Any) -> bytes:
    """Return a document as JSON; equal documents give equal bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def key_of(stage: str, inputs: Mapping[str, Any]) -> str:
    """Return the name of the entry for these inputs: the first half of a SHA-256, in hex.

    Args:
        stage: name of the stage.
        inputs: plain JSON types.
    """
    return hashlib.sha256(canonical({"stage": stage, "format": FORMAT_VERSION, "inputs": inputs})).hexdigest()[:32]


def digest_of(record: Any) -> str:
    """Return the SHA-256 of a record, in hex."""
    return hashlib.sha256(canonical(record)).hexdigest()


def files_in(directory: Path) -> list[str]:
    """Return the names of all files below a directory, relative, with slashes."""
    return [file.relative_to(directory).as_posix() for file in sorted(directory.rglob("*")) if file.is_file()]


def facts_of(file: Path) -> dict[str, Any]:
    """Return the SHA-256 and the size of a file, as records have them."""
    from compress.core.hashing import sha256_of

    return {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the entry in a directory.

    Raises:
        Damaged: the record is not as it was written.
        OSError: the record cannot be read.
    """
    with (path / RECORD).open("rb") as stream:
        text = stream.read(_LONGEST_RECORD + 1)
    try:
        document = json.loads(text)
        version, record = document["format"], document["entry"]
        sound = len(text) <= _LONGEST_RECORD and document["sha256"] == digest_of(record)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("its record is cut off or not JSON") from None
    if version != FORMAT_VERSION:
        raise Damaged(f"it has format {version!r}, this version of compress reads format {FORMAT_VERSION}")
    if not sound:
        raise Damaged("its record was altered: the checksum differs")
    checked: dict[str, Any] = record
    return checked


def copy_checked(path: Path, name: str, into: Path, facts: Mapping[str, Any]) -> None:
    """Copy one file of an entry and check its bytes.

    Args:
        path: directory of the entry.
        name: the file, relative, with slashes.
        into: directory to copy to.
        facts: the file's size and SHA-256, of the record.

    Raises:
        Damaged: the file is not as it was written.
        OSError: the file cannot be read.
    """
    parts = PurePosixPath(name).parts
    source = path.joinpath(*parts)
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or source.is_symlink():
        raise Damaged(f"'{name}' leads out of it")
    target = into.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as stream, target.open("wb") as copy:
        while block := stream.read(1 << 20):
            digest.update(block)
            copy.write(block)
            size += len(block)
    if size != facts["size_bytes"]:
        raise Damaged(f"'{name}' has {size} bytes instead of {facts['size_bytes']}")
    if digest.hexdigest() != facts["sha256"]:
        raise Damaged(f"'{name}' was altered: its checksum differs")


def entry_at(path: Path) -> Entry:
    """Return the entry in a directory, by its listing and its record; files are not checked."""
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        used = (path / RECORD).stat().st_mtime
        record = read_record(path)
    except FileNotFoundError:
        return Entry(path.parent.name, path.name, path, size, path.stat().st_mtime, damage="its record is missing")
    except Damaged as error:
        return Entry(path.parent.name, path.name, path, size, used, damage=str(error))
    bare = Entry(path.parent.name, path.name, path, size, used)
    try:
        return replace(bare, label=str(record["label"]), made=str(record["made"]), seconds=float(record["seconds"]))
    except (KeyError, TypeError, ValueError):
        return replace(bare, damage="its record lacks what it has to say")
