"""Where the time of a run goes: spans with a name, begin and end, one within another.

Stages record their spans in every run and sum them (``core/time_spent.py``); a span costs microseconds. ``--trace``
writes them as Chrome's trace events too, which https://ui.perfetto.dev and chrome://tracing draw as bars over time.

Source: Trace Event Format (Google), complete events.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.errors import ConfigError

Notes = dict[str, str | int | float]


@dataclass(frozen=True)
class Span:
    """Something that took time.

    Attributes:
        path: names of the spans around it since the recording began, the outermost first, and its own.
        start_ns, ended_ns: on the clock of ``time.perf_counter_ns``.
        worked_ns: processor time of this process meanwhile, all threads together.
        thread: that it ran in.
        notes: shown beside it.
    """

    path: tuple[str, ...]
    start_ns: int
    ended_ns: int
    worked_ns: int
    thread: int
    notes: Notes


# Whoever records gets every span: --trace the whole run, each stage its own parts.
_recordings: ContextVar[tuple[list[Span], ...]] = ContextVar("recordings", default=())
_around: ContextVar[tuple[str, ...]] = ContextVar("around", default=())


@contextmanager
def span(name: str, **notes: str | int | float) -> Iterator[Notes]:
    """Record the block as a span, also where it ends in an error. Decorates a function too.

    Args:
        name: what is done.
        **notes: shown beside the span.

    Yields:
        The notes, for what is known at the end only.
    """
    recordings = _recordings.get()
    if not recordings:
        yield notes
        return
    path = (*_around.get(), name)
    token = _around.set(path)
    start, worked = time.perf_counter_ns(), time.process_time_ns()
    try:
        yield notes
    finally:
        ended, worked = time.perf_counter_ns(), time.process_time_ns() - worked
        _around.reset(token)
        found = Span(path, start, ended, worked, threading.get_ident(), notes)
        for recording in recordings:
            recording.append(found)


@contextmanager
def recording() -> Iterator[list[Span]]:
    """Record the spans of the block.

    Yields:
        The spans, each when it has ended; their paths begin here.
    """
    spans: list[Span] = []
    recordings, around = _recordings.set((*_recordings.get(), spans)), _around.set(())
    try:
        yield spans
    finally:
        _recordings.reset(recordings)
        _around.reset(around)


@contextmanager
def tracing(file: str | Path | None) -> Iterator[None]:
    """Record the spans of the block and write them, also where it ends in an error.

    Args:
        file: JSON file to write; None records nothing.

    Raises:
        ConfigError: the file cannot be written; found out before the block runs.
    """
    if file is None:
        yield
        return
    path = Path(file)
    try:
        path.write_text("", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the trace cannot be written to '{path}': {error.strerror}; choose another file with --trace"
        ) from None
    spans: list[Span] = []
    try:
        with recording() as spans:
            yield
    finally:
        first = min((one.start_ns for one in spans), default=0)
        events = [_event(one, first) for one in sorted(spans, key=lambda one: one.start_ns)]
        document = {"traceEvents": events, "displayTimeUnit": "ms"}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _event(one: Span, first_ns: int) -> dict[str, Any]:
    taken = one.ended_ns - one.start_ns
    return {
        "name": one.path[-1],
        "ph": "X",
        "ts": (one.start_ns - first_ns) / 1e3,
        "dur": taken / 1e3,
        "pid": os.getpid(),
        "tid": one.thread,
        # Processor seconds beside the clock's: about as many times as cores were busy.
        "args": {**one.notes, "cores": round(one.worked_ns / max(1, taken), 2)},
    }
