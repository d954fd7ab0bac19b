"""One process at a time: locks that end with the process that holds them, however it ends.

They are the operating system's own (``flock``), on a small file that says who holds it. A process that dies leaves the
file, never the lock: whoever comes next takes it over. Where a file system has no such locks nothing is locked, and
callers are told.

Laws (``tests/core/test_locks.py``): of two holders one is refused and told who the other is; a killed holder's lock is
free.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl

    _HAVE_LOCKS = True
except ImportError:  # Windows
    _HAVE_LOCKS = False

# Longer text in a lock file is nobody's.
_LONGEST = 2000


class Held(Exception):
    """Another process has the lock.

    Attributes:
        holder: who it is, in words.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def only_one(path: Path, *, wait: bool = False, keep: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs.

    Args:
        path: of the lock's file, in a directory that is there; removed afterwards.
        wait: until the other process is done, instead of raising.
        keep: the file stays for the next holder: right where many come and go.

    Yields:
        Whether the lock is held; False where the file system has none.

    Raises:
        Held: another process has it.
        OSError: the file cannot be made.
    """
    descriptor = _take(path, wait) if _HAVE_LOCKS else None
    if descriptor is None:
        yield False
        return
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _myself().encode(), 0)
        yield True
    finally:
        if not keep:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, wait: bool) -> int | None:
    """An open file with the lock on it; None where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The holder before may have removed the file between our opening and locking it: then it is not the lock.
            if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            holder = _describe(os.pread(descriptor, _LONGEST, 0))
            os.close(descriptor)
            raise Held(holder) from None
        except FileNotFoundError:
            pass
        except OSError:
            # No locks here (ENOLCK, ENOTSUP): some network file systems.
            os.close(descriptor)
            return None
        os.close(descriptor)


def _myself() -> str:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": now})


def _describe(text: bytes) -> str:
    """Who wrote a lock's file, in words."""
    try:
        found = json.loads(text)
        return f"process {int(found['process'])} on {str(found['host'])[:64]}, since {str(found['since'])[:32]}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"
