"""Ends a command on SIGINT and SIGTERM within about a second, also while native code computes or waits.

Python runs a signal's handler in the main thread, between two steps of Python. While that thread is in native code
(a session being made, a kernel, a socket of gloo) the handler has to wait. So a thread of its own is told about the
signal, too. If the main thread does not come back in time, that thread removes what is half written and ends the
process. This is not possible while a library holds Python's lock: then the end comes when it lets go of it.

Laws (``tests/core/test_ending.py``): a signal ends the command whatever it does; nothing half written is left.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

# Seconds that the main thread has to notice a signal, and then to clean up, before the process is ended.
NOTICE_SECONDS, CLEAN_UP_SECONDS = 0.6, 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Called by an end that the main thread does not take part in, last first.
_undo: dict[int, Callable[[], object]] = {}


@contextmanager
def undone_at_end(undo: Callable[[], object]) -> Iterator[None]:
    """Have something undone if the process is ended in the block; the block itself undoes it otherwise.

    Args:
        undo: called in another thread, maybe while the block goes on; it must bear that what it removes is gone.
    """
    key = id(undo)
    _undo[key] = undo
    try:
        yield
    finally:
        _undo.pop(key, None)


@contextmanager
def removed_at_end(directory: Path) -> Iterator[None]:
    """Have a directory removed if the process is ended in the block; the block itself removes it otherwise.

    Args:
        directory: may be absent.
    """

    def remove() -> None:
        # More than once: the main thread may still write into it.
        for _ in range(3):
            shutil.rmtree(directory, ignore_errors=True)
            if not directory.exists():
                return

    with undone_at_end(remove):
        yield


def end_on_signals(say: Callable[[int], None]) -> None:
    """Make SIGINT and SIGTERM end this process: with an exception in the main thread, or without it where it is late.

    A signal that is ignored, as SIGINT in a shell's background jobs, stays ignored. For the command only, not for
    programs that use the package.

    Args:
        say: tells the user about an end without the main thread; given the exit code.
    """
    noticed = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        noticed.set()
        # As exceptions, so that a staged artifact is removed on the way out.
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    if os.name != "posix":
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, noticed, say), daemon=True).start()


def _watch(reader: int, noticed: threading.Event, say: Callable[[int], None]) -> None:
    while (number := os.read(reader, 1)[0]) not in _SIGNALS:
        pass
    if noticed.wait(NOTICE_SECONDS):
        time.sleep(CLEAN_UP_SECONDS)
    end(128 + number, say)


def end(code: int, say: Callable[[int], None]) -> None:
    """Remove what is half written and end the process, whatever its other threads do.

    Args:
        code: exit code.
        say: tells the user; given the exit code.
    """
    # Those of libraries, too: nobody else comes to it any more. First, since some lie beside an output.
    for found in gc.get_objects():
        if type(found) is tempfile.TemporaryDirectory:
            with suppress(Exception):
                found.cleanup()
    for undo in list(_undo.values())[::-1]:
        with suppress(Exception):
            undo()
    # A reader that does not read must not hold up the end.
    telling = threading.Thread(target=say, args=(code,), daemon=True)
    telling.start()
    telling.join(0.2)
    os._exit(code)


def end_now(code: int) -> NoReturn:
    """End the process with what was printed, without waiting for threads that are still busy."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
