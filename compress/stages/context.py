"""Stages that are timed as they are reported, and whose results are remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from compress.core.progress import Progress

if TYPE_CHECKING:
    from compress.cache.memo import Memory, Step

T = TypeVar("T")


class Stages:
    """A ``Progress`` that also keeps the seconds of every stage, and remembers results.

    Args:
        progress: told about stages.
        memory: results of this and of earlier runs; None remembers nothing.

    Attributes:
        seconds: per stage, in order; a stage that ran twice has the sum.
    """

    def __init__(self, progress: Progress, memory: Memory | None = None) -> None:
        self._progress, self.memory = progress, memory
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self._progress.stage(name):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def info(self, text: str) -> None:
        self._progress.info(text)

    def result(self, step: Callable[[], Step[T]], make: Callable[[], T]) -> T:
        """What a step gives: remembered, or made now.

        Args:
            step: what is asked for and what it rests on; see ``stages/cache_keys.py``.
            make: makes it.
        """
        return make() if self.memory is None else self.memory.result(step(), make, self.info)
