"""Where the time of a run goes: spans with a name, begin and end, one within another.

Written as Chrome's trace events, which https://ui.perfetto.dev and chrome://tracing draw as bars over time. Nothing is
recorded unless ``tracing`` runs, and a span then costs microseconds.

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
from pathlib import Path
from typing import Any

from compress.core.errors import ConfigError

_recording: ContextVar[list[dict[str, Any]] | None] = ContextVar("recording", default=None)


@contextmanager
def span(name: str, **notes: str | int | float) -> Iterator[None]:
    """Record the block as a span, also where it ends in an error.

    Args:
        name: what is done.
        **notes: shown beside the span.
    """
    events = _recording.get()
    if events is None:
        yield
        return
    start, worked = time.perf_counter_ns(), time.process_time_ns()
    try:
        yield
    finally:
        ended = time.perf_counter_ns()
        # Processor seconds beside the clock's: about as many times as cores were busy.
        cores = (time.process_time_ns() - worked) / max(1, ended - start)
        events.append(
            {
                "name": name,
                "ph": "X",
                "ts": start / 1e3,
                "dur": (ended - start) / 1e3,
                "pid": os.getpid(),
                "tid": threading.get_ident(),
                "args": {**notes, "cores": round(cores, 2)},
            }
        )


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
    events: list[dict[str, Any]] = []
    token = _recording.set(events)
    try:
        yield
    finally:
        _recording.reset(token)
        first = min((event["ts"] for event in events), default=0.0)
        for event in events:
            event["ts"] -= first
        document = {"traceEvents": sorted(events, key=lambda event: event["ts"]), "displayTimeUnit": "ms"}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
