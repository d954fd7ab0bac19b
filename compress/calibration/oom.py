"""Batches that give way when memory runs out: what was to be one pass becomes passes over halves.

Randomness is drawn for the whole batch, and sums are of examples, so a result does not depend on where memory ended but
for the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Callable

# As torch says it for the processor, for GPUs, and as libraries below it do.
_SAID = ("can't allocate memory", "out of memory", "bad_alloc", "failed to allocate")


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
        most: examples in a part; None as long as memory has sufficed for whole batches.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.most: int | None = None
        self._say = say

    def each(self, count: int, work: Callable[[slice], None]) -> None:
        """Call ``work`` for consecutive parts of ``count`` examples; where memory runs out, for the halves of a part.

        Args:
            count: examples.
            work: must be ready to be called again for parts of a part that it failed on.

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
            # Only here the error is gone, and with it what its traceback keeps in memory.
            self.most = -(-size // 2)
            if self._say is not None:
                self._say(f"warning: memory ran out with {size} examples at once; going on with {self.most}")
            todo = self._parts(part.start, count)

    def _parts(self, start: int, stop: int) -> list[slice]:
        step = self.most or max(1, stop - start)
        return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]
