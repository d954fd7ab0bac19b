"""Sums over examples that do not depend on the number of processes: shards of fixed size, added in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from torch import Tensor

from compress.data.batches import Batch
from compress.distributed.group import Group

# Number of parts of the examples that are summed separately. Further processes have nothing to do.
SHARDS = 8


class Sums(Protocol):
    """Sums of any kind, as tensors."""

    def tensors(self) -> Sequence[Tensor]:
        """All sums, in the same order on every process."""


S = TypeVar("S", bound=Sums)


def summed(
    batches: Iterator[Batch],
    count: int,
    empty: Callable[[], S],
    add: Callable[[Batch, S], None],
    skip: Callable[[Batch], None],
    group: Group,
) -> S:
    """Sum over all batches.

    Shards are consecutive batches, and processes take them in turn. The first process adds a shard's sums to the
    total as soon as they arrive: it holds two at a time, whatever the number of shards.

    Args:
        batches: in the same order everywhere.
        count: how many there are.
        empty: gives sums over no batches.
        add: adds a batch to sums.
        skip: makes the random draws of ``add`` for a batch that another process adds.
        group: processes that take part.

    Returns:
        The total; on every process but the first, the sums over no batches.

    Raises:
        CompressError: the batches of another process failed.
    """
    shards = min(SHARDS, count)
    total: S | None = None
    own = [number for number in range(shards) if number % group.world == group.rank]
    for number in range(shards):
        owner = number % group.world
        if not group.first and number > (own or [-1])[-1]:
            break
        of_shard = islice(batches, (number + 1) * count // shards - number * count // shards)
        if owner != group.rank:
            for batch in of_shard:
                skip(batch)
            if group.first and total is not None:
                group.hear(owner)
                group.receive(owner, total.tensors())
            continue
        sums = empty()
        if group.first:
            for batch in of_shard:
                add(batch, sums)
            if total is None:
                total = sums
            else:
                for whole, part in zip(total.tensors(), sums.tensors(), strict=True):
                    whole += part
            continue
        with group.telling():
            for batch in of_shard:
                add(batch, sums)
        group.report(None)
        group.send(sums.tensors())
    return empty() if total is None else total
