"""Stages that are timed as they are reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from compress.progress import Progress


class Stages:
    """A ``Progress`` that also keeps the seconds of every stage.

    Attributes:
        seconds: per stage, in order; a stage that ran twice has the sum.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self._progress.stage(name):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def info(self, text: str) -> None:
        self._progress.info(text)
