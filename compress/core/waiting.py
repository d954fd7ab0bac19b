"""Says what a process waits for, and keeps it open to signals while it does.

Laws (``tests/core/test_waiting.py``): a short wait says nothing; a long one says one line, once; a limit ends it; a
signal's handler runs while native code waits in the background.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

Result = TypeVar("Result")

# A wait longer than this many seconds is said.
SAY_AFTER = 2.0
# Python runs handlers of signals between two looks at the background.
_LOOK_SECONDS = 0.1


@contextmanager
def said(line: str | Callable[[], str], *, after: float | None = None) -> Iterator[None]:
    """Write one line to stderr if the block takes long.

    Args:
        line: what is waited for and what to do about it; a function is called when the line is written.
        after: seconds before it is written; None takes ``SAY_AFTER``.
    """
    # sys.stderr of now: who redirects it meanwhile means other output.
    timer = threading.Timer(SAY_AFTER if after is None else after, _write, (line, sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _write(line: str | Callable[[], str], stream: object) -> None:
    text = line if isinstance(line, str) else line()
    # The stream may be closed, or absent (pythonw).
    with suppress(OSError, ValueError, AttributeError):
        stream.write(f"{text}\n")  # type: ignore[attr-defined]
        stream.flush()  # type: ignore[attr-defined]


def in_background(
    work: Callable[[], Result],
    line: str | Callable[[], str],
    *,
    limit: float | None = None,
    after: float | None = None,
) -> Result:
    """Return what ``work`` returns; it runs in a thread, so that signals end the wait even if native code waits in it.

    After an interruption or at the limit the thread goes on by itself, and what it returns is lost. The end of the
    process does not wait for it.

    Args:
        work: to be run.
        line: as for ``said``.
        limit: seconds to wait at most; None waits until the work is done.
        after: as for ``said``.

    Raises:
        TimeoutError: the work is not done within the limit.
        BaseException: what ``work`` raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # Raised again below.
            errors.append(error)
        finally:
            done.set()

    began = time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    with said(line, after=after):
        while not done.wait(_LOOK_SECONDS):
            if limit is not None and time.monotonic() - began >= limit:
                raise TimeoutError(f"not done within {limit:g} s")
    if errors:
        raise errors[0]
    return results[0]
