"""Sums over calibration examples: batches that are halved on out-of-memory, several processes, repeatable draws.

Random values are drawn once for a whole batch. So they do not depend on how a batch is divided when memory runs out,
and every process draws for the batches of the others too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from compress.core.oom import Portions
from compress.data.batches import Batch, Encoded
from compress.distributed.group import Group
from compress.distributed.sharded_sum import Sums, summed

S = TypeVar("S", bound=Sums)
D = TypeVar("D")


@dataclass(frozen=True)
class Passes:
    """How examples go through a model.

    Attributes:
        seed: of random draws.
        batch_size: examples in one backward pass. It bounds memory and does not change the result but for the order
            of float sums. It is halved where memory runs out.
        say: told when that happens; None tells nobody.
        group: processes that share the examples and call this together; None is this process alone. The first process
            has the result, the same whatever their number. The others have zeros.
    """

    seed: int = 0
    batch_size: int = 32
    say: Callable[[str], None] | None = None
    group: Group | None = None


DEFAULT = Passes()


@dataclass(frozen=True)
class Portion(Generic[D]):
    """A part of a batch, after its forward pass.

    Attributes:
        batch: the whole batch.
        rows: which of its examples are in this part.
        answers: the model's outputs for these rows, with their graph.
        drawn: the values drawn for the whole batch, on the processor.
        counted: examples of the batch that a sum has already, by key of the sum. For sums that are added to one after
            the other: when memory runs out between two of them, the same rows come again in smaller portions.
    """

    batch: Batch
    rows: slice
    answers: Tensor
    drawn: D
    counted: Counter[Hashable]


class Accumulation(ABC, Generic[S, D]):
    """A sum over examples. Subclasses define the random values of a batch and how a portion is added."""

    @abstractmethod
    def empty(self) -> S:
        """Sums over no examples."""

    @abstractmethod
    def forward(self, batch: Batch, rows: slice) -> Tensor:
        """The model's outputs, [rows, ...].

        Args:
            batch: the whole batch.
            rows: which of its examples.
        """

    @abstractmethod
    def draw(self, answers: Tensor, batch: Batch, generator: torch.Generator) -> D:
        """Draw the random values of a batch.

        Args:
            answers: outputs for the whole batch, without graph, on the processor; zeros where another process adds the
                batch.
            batch: the examples.
            generator: of all random numbers.
        """

    @abstractmethod
    def add(self, sums: S, portion: Portion[D]) -> None:
        """Add a portion to the sums.

        When memory runs out in the middle, the sums must be as before, or ``portion.counted`` must say which are not.

        Args:
            sums: changed in place.
            portion: after its forward pass, whose graph gives the gradients.
        """

    def known(self, batch: Batch) -> D | None:
        """The values that ``draw`` would give, where they need no draw; else None."""
        return None

    def forget(self) -> None:
        """Let go of whatever ``forward`` left for ``add``."""


def accumulate(accumulation: Accumulation[S, D], data: Encoded, passes: Passes) -> S:
    """Sum over all examples.

    Args:
        accumulation: defines the sums.
        data: calibration examples.
        passes: seed, batches and processes.

    Returns:
        The sums; on every process but the first, those over no examples.

    Raises:
        MemoryError, RuntimeError: there is not enough memory for a single example.
        CompressError: the batches of another process failed.
    """
    generator = torch.Generator().manual_seed(passes.seed)
    portions = Portions(passes.say)

    def add(batch: Batch, sums: S) -> None:
        portions.each(len(batch.indices), partial(_BatchPass(accumulation, batch, generator).add, sums))

    return summed(
        data.batches(passes.batch_size),
        -(-len(data) // passes.batch_size),
        accumulation.empty,
        add,
        lambda batch: _BatchPass(accumulation, batch, generator).skip(),
        passes.group or Group(),
    )


class _BatchPass(Generic[S, D]):
    """One batch on its way into the sums. A part that memory ran out on may come again in smaller parts."""

    def __init__(self, accumulation: Accumulation[S, D], batch: Batch, generator: torch.Generator) -> None:
        self._accumulation, self._batch, self._count = accumulation, batch, len(batch.indices)
        self._generator, self._state = generator, generator.get_state()
        self._drawn = accumulation.known(batch)
        self._counted: Counter[Hashable] = Counter()

    def add(self, sums: S, rows: slice) -> None:
        """Bring a part of the batch into the sums."""
        accumulation, size = self._accumulation, rows.stop - rows.start
        accumulation.forget()
        if self._drawn is None and size < self._count:
            # The draw needs the answers to the whole batch, which no longer fits in one pass.
            with torch.no_grad():
                starts = range(0, self._count, size)
                parts = [accumulation.forward(self._batch, slice(i, min(i + size, self._count))) for i in starts]
                self._draw(torch.cat(parts))
            accumulation.forget()
        answers = accumulation.forward(self._batch, rows)
        drawn = self._draw(answers.detach()) if self._drawn is None else self._drawn
        accumulation.add(sums, Portion(self._batch, rows, answers, drawn, self._counted))
        accumulation.forget()

    def skip(self) -> None:
        """Make the draws of the batch, so that later batches draw the same, without adding it to the sums."""
        if self._drawn is not None:
            return
        # One example gives the shape of the answers; their number is the batch's.
        with torch.no_grad():
            one = self._accumulation.forward(self._batch, slice(0, 1))
        self._accumulation.forget()
        self._draw(one.new_zeros(self._count, *one.shape[1:]))

    def _draw(self, answers: Tensor) -> D:
        # If memory runs out half way through a draw, it is repeated and must give the same values.
        self._generator.set_state(self._state)
        # On the processor, whose random numbers are the same wherever the model runs.
        self._drawn = drawn = self._accumulation.draw(answers.cpu(), self._batch, self._generator)
        return drawn
