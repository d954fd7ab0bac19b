"""Locks between processes that name their holder and end with it, however it ends.

The lock is the operating system's own (``flock``, by way of ``filelock``); its file says who holds it. A process that
dies leaves the file but not the lock: the next one takes it over. Where a file system has no such locks nothing is
locked, and callers are told.

Laws (``tests/core/test_locks.py``): of two holders one is refused and told who the other is; a killed holder's lock is
free; who waits says for whom, and not for ever.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from compress.core.ending import undone_at_end
from compress.core.waiting import said

# A holder's text is shorter than this many bytes.
_LONGEST = 2000
# How flock fails on file systems that have no locks: some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class Held(Exception):
    """Another process has the lock.

    Attributes:
        holder: who it is, in words.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def only_one(path: Path, *, wait_seconds: float = 0.0, what: str = "", keep: bool = False) -> Iterator[bool]:
    """Hold a lock while the block runs.

    Args:
        path: the lock's file, in a directory that exists. The file is removed afterwards.
        wait_seconds: how long to wait for the other process; 0 raises at once.
        what: what is waited for, in words; it is said, with its holder, if the wait is long.
        keep: whether the file stays for the next holder: right where many come and go.

    Yields:
        Whether the lock is held; False where the file system has none.

    Raises:
        Held: another process has it, or still has it after the wait.
        OSError: the file cannot be made.
    """
    path.parent.stat()  # filelock would make the directory
    lock = FileLock(
        path,
        thread_local=False,
        poll_interval=0.02,
        fallback_to_soft=False,
        preserve_lock_file=keep,
        on_acquired=_write_holder,
    )
    if not _acquire(lock, path, wait_seconds, what or f"'{path}'"):
        yield False
        return
    try:
        if keep:
            yield True
        else:
            with undone_at_end(lambda: path.unlink(missing_ok=True)):
                yield True
    finally:
        # While the lock is held, so that nobody's new file is removed. Windows cannot: filelock does it there.
        if not keep and os.name != "nt":
            path.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, path: Path, seconds: float, what: str) -> bool:
    """Take the lock; return False where the file system has none."""
    deadline = time.monotonic() + seconds

    def line() -> str:
        return (
            f"waiting for {what}, for at most {seconds:g} s: {_holder(path)} has it. If that process hangs, end it; "
            "its lock ends with it"
        )

    with said(line):
        while True:
            try:
                lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
                return True
            except Timeout:
                # The file is gone where its holder removed it just now: then nobody has the lock.
                if path.exists():
                    raise Held(_holder(path)) from None
                # Where the file cannot be made at all, filelock waits as for a holder; this raises.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return False


def _write_holder(descriptor: int) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": now}).encode())


def _holder(path: Path) -> str:
    """Return who wrote a lock's file, in words."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_LONGEST))
        return f"process {int(found['process'])} on {str(found['host'])[:64]}, since {str(found['since'])[:32]}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
