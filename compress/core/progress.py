"""What a long command says while it works: stages with their seconds, and remarks between them.

Everything goes to stderr, so that stdout holds the result alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


class Progress(Protocol):
    """What the pipeline reports to. Implementations may ignore all of it."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Enter a stage of the pipeline (``with progress.stage("profile"):``); left when the block ends."""

    def info(self, text: str) -> None:
        """One line worth reading: a guess that was made, a count, a number measured."""


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        yield

    def info(self, text: str) -> None:
        pass
