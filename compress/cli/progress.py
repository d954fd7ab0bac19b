"""Progress of a long command on stderr: stages with their seconds, and remarks between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from compress.core.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.console import Console


class Plain:
    """One line per event, for logs: ``[  12.3 s] profile``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Print a line when a stage begins and one with its seconds when it ends."""
        self._line(name)
        start = time.monotonic()
        yield
        self._line(f"{name}: done in {time.monotonic() - start:.1f} s")

    def info(self, text: str) -> None:
        """Print a remark."""
        self._line(f"  {text}")

    def _line(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:7.1f} s] {text}", file=self._stream, flush=True)


class Live:
    """A spinner with the running stage, for terminals; each finished stage leaves a line with its seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._depth = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a spinner while a stage runs, and leave a line with its seconds."""
        from rich.markup import escape

        indent = "  " * self._depth
        start = time.monotonic()
        self._depth += 1
        try:
            # rich shows one spinner at a time: a stage within a stage only leaves its line.
            if self._depth == 1:
                with self._console.status(f"{escape(name)}..."):
                    yield
            else:
                yield
        finally:
            self._depth -= 1
        self._console.print(
            f"{indent}[green]✓[/] {escape(name)} [dim]{time.monotonic() - start:.1f} s[/]", highlight=False
        )

    def info(self, text: str) -> None:
        """Print a remark."""
        self._console.print(f"  {text}", markup=False, highlight=False, style="dim")


def progress_for(stream: TextIO, *, quiet: bool = False) -> Progress:
    """Return how to report progress: not at all if quiet, live on a terminal, plain lines elsewhere.

    Args:
        stream: where progress goes, as a rule stderr.
        quiet: whether nothing is reported.
    """
    if quiet:
        return Silent()
    if not stream.isatty():
        return Plain(stream)
    from rich.console import Console

    return Live(Console(file=stream))
