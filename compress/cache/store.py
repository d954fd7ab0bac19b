"""The cache: results of stages on disk, addressed by a hash of their inputs, so that the next run can use them again.

An entry is a directory: the files of a result, and a record with the inputs, the seconds it took and the SHA-256 of
every file and of itself. It is written beside its place and renamed when complete. A reader copies the files out and
checks every byte meanwhile, so that damaged, altered and foreign entries are found, named and never used. Nothing is
flushed to the disk: losses of a power failure are found in the same way, and made again.

Laws (``tests/cache/test_store.py``): an entry is read as it was written, byte for byte; no damage goes unnoticed; the
total stays within the limit, and the entry used longest ago goes first; writers and readers do not disturb one another.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from compress.cache.entry import (
    FORMAT_VERSION,
    RECORD,
    Damaged,
    Entry,
    canonical,
    copy_checked,
    digest_of,
    entry_at,
    facts_of,
    files_in,
    key_of,
    read_record,
)
from compress.core.ending import removed_at_end
from compress.core.errors import ConfigError
from compress.core.locks import Held, only_one

DIRECTORY_VARIABLE, LIMIT_VARIABLE = "COMPRESS_CACHE", "COMPRESS_CACHE_GB"
DEFAULT_LIMIT_GB = 10.0
# A cache must not fill a disk: with less space than this left nothing is kept.
LEAST_FREE_BYTES = 256 * 2**20
# Changes take moments; a holder that takes longer than this is stopped, or its disk hangs.
# Who has met it once does not wait as long again.
LOCK_SECONDS, LOCK_SECONDS_AGAIN = 60.0, 1.0
_NAME = re.compile(r"[a-z][a-z-]*")
_KEY = re.compile(r"[0-9a-f]{32}")


def cache_directory() -> Path:
    """Return ``$COMPRESS_CACHE``, else ``$XDG_CACHE_HOME/compress``, else ``~/.cache/compress``."""
    if own := os.environ.get(DIRECTORY_VARIABLE):
        return Path(own).expanduser()
    return user_cache_path("compress", appauthor=False)


def cache_limit_bytes() -> int:
    """Return the limit of ``$COMPRESS_CACHE_GB``, or the default, in bytes; 0 keeps nothing.

    Raises:
        ConfigError: the variable is not a number, or negative.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(f"{LIMIT_VARIABLE} is '{text}'; set it to a size in GB, as 10, or to 0 to store nothing")
    return int(limit * 1e9)


class Store:
    """Entries below a directory.

    Args:
        root: directory of the store; made at the first write.
        limit_bytes: limit on all entries together; 0 keeps nothing.
    """

    def __init__(self, root: Path, limit_bytes: int = int(DEFAULT_LIMIT_GB * 1e9)) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self._lock_seconds = LOCK_SECONDS

    @classmethod
    def default(cls) -> Store:
        """Return the user's store.

        Raises:
            ConfigError: ``$COMPRESS_CACHE_GB`` is not a size.
        """
        return cls(cache_directory() / "results", cache_limit_bytes())

    def look(self, stage: str, inputs: Mapping[str, Any]) -> Entry | None:
        """Return the entry for these inputs, its files not checked; None where there is none.

        Args:
            stage: its name.
            inputs: what the result depends on.
        """
        path = self._place(stage, key_of(stage, inputs))
        return entry_at(path) if path.is_dir() else None

    def find(self, stage: str, inputs: Mapping[str, Any], into: Path) -> Entry | None:
        """Copy the entry for these inputs out of the store, checking every byte.

        Args:
            stage: name of the stage, as given to ``keep``.
            inputs: inputs of the result, as given to ``keep``.
            into: directory for the files; it is made.

        Returns:
            The entry; None where there is none.

        Raises:
            Damaged: the entry must not be used.
            OSError: the disk of ``into`` is full.
        """
        path = self._place(stage, key_of(stage, inputs))
        try:
            return self._copy(path, stage, into)
        except Damaged:
            # Another process may have replaced it in the middle of the copy.
            return self._copy(path, stage, into)

    def _copy(self, path: Path, stage: str, into: Path) -> Entry | None:
        if not path.is_dir():
            return None
        try:
            record = read_record(path)
            if record["stage"] != stage or key_of(stage, record["inputs"]) != path.name:
                raise Damaged("it is of other inputs than its name says")
            for name, facts in record["files"].items():
                copy_checked(path, name, into, facts)
            with suppress(OSError):
                # A store that may only be read is good for reading.
                os.utime(path / RECORD)
            return entry_at(path)
        except FileNotFoundError as error:
            # Another process may have removed it just now; else a file is missing.
            if not path.is_dir():
                return None
            raise Damaged(f"'{Path(str(error.filename)).name}' is missing") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"its record lacks what it has to say: {error!r}") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Damaged(f"it cannot be read: {error.strerror or error}") from None

    def keep(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        write: Callable[[Path], None],
        *,
        label: str = "",
        seconds: float = 0.0,
    ) -> str | None:
        """Store a result; one of the same inputs is replaced.

        Args:
            stage: name of the stage that made it.
            inputs: everything that the result depends on, plain JSON types.
            write: writes its files into a directory.
            label: the model's name and the precision, for people.
            seconds: seconds that making it took.

        Returns:
            Why it was not stored, in words; None where it was. A full or read-only disk is not an error here.
        """
        if not self.limit_bytes:
            return None
        try:
            with self._new() as partial:
                write(partial)
                record = {
                    "stage": stage,
                    "label": label,
                    "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    "seconds": round(seconds, 3),
                    "inputs": inputs,
                    "files": {name: facts_of(partial / name) for name in files_in(partial)},
                }
                size = sum(facts["size_bytes"] for facts in record["files"].values())  # type: ignore[attr-defined]
                if size > self.limit_bytes:
                    return f"it takes {size / 1e9:.2f} GB, the limit is {self.limit_bytes / 1e9:g} GB"
                document = {"format": FORMAT_VERSION, "entry": record, "sha256": digest_of(record)}
                (partial / RECORD).write_bytes(canonical(document))
                self._put(partial, self._place(stage, key_of(stage, inputs)))
        except OSError as error:
            return f"{error.strerror or error} ('{self.root}')"
        return None

    def entries(self) -> list[Entry]:
        """Return all entries, the last used first."""
        found = []
        for stage in _folders(self.root, _NAME):
            for path in _folders(stage, _KEY):
                try:
                    found.append(entry_at(path))
                except OSError:
                    continue  # removed meanwhile
        return sorted(found, key=lambda entry: -entry.used)

    def last(self, stage: str, label: str) -> Entry | None:
        """Return the newest sound entry of a stage, preferably of this label; None where there is none.

        Args:
            stage: its name.
            label: what the result is of.
        """
        sound = [entry for entry in self.entries() if entry.stage == stage and entry.damage is None]
        return max(sound, key=lambda entry: (entry.label == label, entry.made), default=None)

    def remove(self, entry: Entry) -> None:
        """Remove an entry.

        Raises:
            OSError: the entry cannot be removed.
        """
        with self._locked():
            self._discard(entry.path)

    def clean(self, older_than_days: float | None = None) -> list[Entry]:
        """Remove entries, and leftovers of killed writers.

        Args:
            older_than_days: entries not used for so many days are removed; None removes all.

        Returns:
            The removed entries.

        Raises:
            OSError: an entry cannot be removed.
        """
        chosen = [
            entry
            for entry in self.entries()
            if older_than_days is None or entry.idle_seconds() > older_than_days * 86400 or entry.damage
        ]
        if self.root.is_dir():
            with self._locked():
                for entry in chosen:
                    self._discard(entry.path)
                self._sweep_up()
        return chosen

    def _place(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store alone for the moment that a change takes.

        Raises:
            OSError: another process has held it for too long.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            seconds, what = self._lock_seconds, f"the cache '{self.root}'"
            try:
                held.enter_context(only_one(self.root / ".lock", wait_seconds=seconds, what=what, keep=True))
            except Held as error:
                self._lock_seconds = LOCK_SECONDS_AGAIN
                raise OSError(
                    errno.EBUSY, f"{error.holder} has kept its lock for more than {seconds:g} s; if it hangs, end it"
                ) from None
            yield

    @contextmanager
    def _new(self) -> Iterator[Path]:
        """Yield a directory to write an entry into; its lock marks it as in use while this process lives."""
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < LEAST_FREE_BYTES:
            raise OSError(0, f"only {free / 2**20:.0f} MB are free")
        partial = self.root / f".partial-{secrets.token_hex(8)}"
        with ExitStack() as held:
            with self._locked():
                held.enter_context(only_one(partial.with_name(f"{partial.name}.lock")))
            held.enter_context(removed_at_end(partial))
            try:
                partial.mkdir()
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _put(self, partial: Path, final: Path) -> None:
        with self._locked():
            self._discard(final)
            final.parent.mkdir(exist_ok=True)
            os.replace(partial, final)
            self._sweep_up()
            self._shrink()

    def _discard(self, path: Path) -> None:
        """Remove a directory so that nobody sees a part of it."""
        trash = self.root / f".trash-{secrets.token_hex(8)}"
        try:
            os.replace(path, trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def _shrink(self) -> None:
        """Remove the entries used longest ago until the rest is within the limit."""
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        # The first is the one just written.
        for entry in entries[:0:-1]:
            if total <= self.limit_bytes:
                return
            self._discard(entry.path)
            total -= entry.size_bytes

    def _sweep_up(self) -> None:
        """Remove leftovers of killed processes: their locks are free."""
        for trash in self.root.glob(".trash-*"):
            shutil.rmtree(trash, ignore_errors=True)
        for lock in self.root.glob(".partial-*.lock"):
            try:
                with only_one(lock) as alone:
                    if alone:
                        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            except (Held, OSError):
                continue


def _folders(directory: Path, names: re.Pattern[str]) -> list[Path]:
    """Folders of such names in a directory, in order; none where it is not there, or was removed meanwhile."""
    try:
        return sorted(path for path in directory.iterdir() if names.fullmatch(path.name) and path.is_dir())
    except OSError:
        return []
