"""The protocol by which a long command reports progress: stages with their seconds, and remarks between them.

Everything goes to stderr, so that stdout holds the result alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the pipeline's reports; an implementation may ignore all of them."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which a stage of the pipeline runs: ``with progress.stage("profile"):``."""

    def info(self, text: str) -> None:
        """Report one line worth reading: a guess, a count, a measured number."""


class Silent:
    """Ignores every report."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Do nothing around a stage."""
        yield

    def info(self, text: str) -> None:
        """Ignore a line."""
