"""Halves batches when memory runs out.

Random values are drawn for the whole batch, and sums are over examples. So the result does not depend on where memory
ran out, except for the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The words of torch for the processor and for GPUs, and those of the libraries below it.
_SAID = ("can't allocate memory", "out of memory", "bad_alloc", "failed to allocate", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _SAID)


class Portions:
    """Hands out examples in parts that fit.

    Args:
        say: told when a part is halved; None tells nobody.

    Attributes:
        most: examples in a part; None as long as whole batches fit.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.most: int | None = None
        self._say = say

    def each(self, count: int, work: Callable[[slice], None]) -> None:
        """Call ``work`` for consecutive parts of ``count`` examples; if memory runs out, for the halves of a part.

        Args:
            count: examples.
            work: called with each part. After an error it is called again for smaller parts of the same part.

        Raises:
            MemoryError, RuntimeError: there is not enough for a single example.
        """
        todo = self._parts(0, count)
        while todo:
            part = todo.pop(0)
            size = part.stop - part.start
            try:
                work(part)
                continue
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not out_of_memory(error):
                    raise
            # Only here the error is gone, and with it the tensors that its traceback kept alive.
            self.most = -(-size // 2)
            if self._say is not None:
                self._say(f"warning: memory ran out with {size} examples at once; going on with {self.most}")
            todo = self._parts(part.start, count)

    def _parts(self, start: int, stop: int) -> list[slice]:
        step = self.most or max(1, stop - start)
        return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def with_fewer(work: Callable[[int], T], at_once: int, say: Callable[[str], None] | None = None) -> T:
    """Do work again from its beginning with half as many examples at once, as long as memory runs out.

    Args:
        work: called with the number of examples at once; it must leave nothing behind where it fails.
        at_once: examples in the first attempt.
        say: told when they are halved; None tells nobody.

    Raises:
        MemoryError, RuntimeError: there is not enough for a single example.
    """
    while True:
        try:
            return work(at_once)
        except (MemoryError, RuntimeError) as error:
            if at_once == 1 or not out_of_memory(error):
                raise
        # Only here the error is gone, and with it the tensors that its traceback kept alive.
        fewer = -(-at_once // 2)
        if say is not None:
            say(f"warning: memory ran out with {at_once} examples at once; once more with {fewer}")
        at_once = fewer
