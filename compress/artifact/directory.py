"""The artifact directory: written whole or not at all, and loaded back as an ordinary transformers model.

Laws (``tests/artifact/test_model.py``): ``load`` gives back what ``save_model`` got, bit for bit, whatever the
structure; after a failed or interrupted run there is nothing at the output path, and nothing beside it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.ending import removed_at_end, undone_at_end
from compress.core.errors import ArtifactError
from compress.core.locks import Held, only_one

if TYPE_CHECKING:
    pass

# What an artifact of a small encoder takes; less than that is certain not to do.
LEAST_FREE_BYTES = 64 * 2**20
# Between the output's name and eight random characters, in the names of directories in work.
_PARTIAL = ".partial-"


def check_output(output: str | Path, needed_bytes: int = LEAST_FREE_BYTES) -> None:
    """Check before a long run that its artifact can be written.

    Args:
        output: directory that is to be made; it may exist if it is empty.
        needed_bytes: free space asked for.

    Raises:
        ArtifactError: the path is taken or cannot be written to, or the disk is too full.
    """
    with staged(output, needed_bytes) as directory:
        directory.rmdir()


@contextmanager
def staged(output: str | Path, needed_bytes: int = LEAST_FREE_BYTES) -> Iterator[Path]:
    """A directory to write an artifact into, which becomes ``output`` when the block ends well.

    Until then it is a hidden sibling, ``.NAME.partial-XXXX``. On any failure, Ctrl-C included, it is removed, and so
    are parent directories made for it. A block that removes the directory itself leaves no output. Meanwhile no other
    process can have the same output; what killed ones have left beside it is removed first.

    Args:
        output: the artifact's path; it may exist if it is empty. Missing parents are made.
        needed_bytes: free space asked for.

    Yields:
        The directory to write into.

    Raises:
        ArtifactError: the path is taken or cannot be written to, another process writes it, the disk is too full, or
            became so in the block.
    """
    path = Path(output)
    made: list[Path] = []
    partial: Path | None = None
    held = ExitStack()
    try:
        try:
            _check_vacant(path)
            # Where a link leads to an empty directory, the link stays and the directory is replaced.
            final = Path(os.path.realpath(path))
            held.enter_context(undone_at_end(lambda: _remove_empty(made)))
            _make_parents(final.parent, made)
            if not final.parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final.parent))
            if held.enter_context(only_one(final.with_name(f".{final.name}.lock"))):
                _clear_leftovers(final)
            partial = final.with_name(f".{final.name}{_PARTIAL}{secrets.token_hex(4)}")
            held.enter_context(removed_at_end(partial))
            partial.mkdir()
            free = shutil.disk_usage(partial).free
        except Held as error:
            raise ArtifactError(
                f"'{path}' is being written by another run ({error.holder}); wait for it, or choose another --output"
            ) from None
        except OSError as error:
            raise ArtifactError(f"cannot write '{path}': {_reason(error)}; choose another --output") from error
        if free < needed_bytes:
            raise ArtifactError(
                f"there are {free / 2**20:.0f} MB free for '{path}', it needs at least {needed_bytes / 2**20:.0f} MB; "
                "free some space, or choose another --output"
            )
        try:
            yield partial
            if partial.exists():
                _check_vacant(path)
                _flush(partial)
                os.replace(partial, final)
                made.clear()
        except OSError as error:
            if not _concerns(error, partial):
                raise
            raise ArtifactError(f"cannot write '{path}': {_reason(error)}; choose another --output") from error
    finally:
        # A second Ctrl-C may cut this short; what is left then is hidden, and no artifact.
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        held.close()
        _remove_empty(made)


@contextmanager
def scratch_beside(directory: Path) -> Iterator[Path]:
    """A directory for the files of work, on the disk of a staged one, so that files need not be copied into that.

    It is removed afterwards; one that a killed run leaves goes with the rest of what that left.
    """
    prefix = directory.name[: directory.name.rindex(_PARTIAL) + len(_PARTIAL)]
    with tempfile.TemporaryDirectory(prefix=prefix, dir=directory.parent) as scratch:
        yield Path(scratch)


def _clear_leftovers(final: Path) -> None:
    """Remove what killed processes left beside an output. Only for who holds its lock: live ones hold it themselves."""
    start = f".{final.name}{_PARTIAL}"
    for entry in list(final.parent.iterdir()):
        rest = entry.name.removeprefix(start)
        if rest != entry.name and re.fullmatch("[a-z0-9_]{8}", rest) and entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)


def _flush(directory: Path) -> None:
    """Have the disk take what was written, so that after a power failure nothing is renamed that is not there."""
    for path in (*directory.rglob("*"), directory):
        if not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _check_vacant(path: Path) -> None:
    if path.is_dir():
        first = next(path.iterdir(), None)
        if first is not None:
            raise ArtifactError(
                f"output directory '{path}' is not empty (it has '{first.name}'); remove it, or choose another --output"
            )
    elif path.exists() or path.is_symlink():
        raise ArtifactError(f"output '{path}' exists and is not a directory; remove it, or choose another --output")


def _make_parents(directory: Path, made: list[Path]) -> None:
    """Make a directory and its missing parents; those made are added to ``made``, outermost first."""
    for parent in [parent for parent in (directory, *directory.parents) if not parent.exists()][::-1]:
        parent.mkdir()
        made.append(parent)


def _remove_empty(made: list[Path]) -> None:
    """Remove directories that were made for an output that did not come; outermost first."""
    for directory in reversed(made):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _reason(error: OSError) -> str:
    known = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
    return known.get(error.errno or 0) or error.strerror or str(error)


def _concerns(error: OSError, partial: Path) -> bool:
    """Whether an error is about what is written and not, say, about a file that is read."""
    if error.filename is None:
        # A write to an open file names no file; one that fails like this is a write.
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return Path(os.path.realpath(os.fsdecode(error.filename))).is_relative_to(partial)
