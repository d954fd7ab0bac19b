"""Size of the exported file as a second constraint of the search (``--size-mb``), beside latency or MACs.

A price per byte is added to the losses. The exact search (``search/knapsack.py``) runs at several prices, and the
lowest price at which the file is small enough gives the structure. The value of the relaxation bounds the distance from
the optimum. Source: Lagrangian relaxation of a knapsack with a second constraint (Everett, Operations Research 1963).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import BudgetUnreachable
from compress.core.plan import EncoderShape, Widths
from compress.search.knapsack import Allocation, Sublayer, allocate

Floats = NDArray[np.float64]

# The price is bracketed by factors of 4 and then found by bisection on a logarithmic scale: steps of each, at most.
_BRACKETS, _HALVINGS = 40, 12
# Quanta of the budget while a price is sought: fewer than for the plan itself, to save time.
_BUCKETS = 4_000


@dataclass(frozen=True)
class SizeLimit:
    """The largest size of a file, and the sizes of its parts.

    Attributes:
        limit: largest size of the file in bytes.
        fixed: bytes of everything but heads and filters: embeddings, norms, task head, graph.
        per_head, per_filter: bytes of one head or filter.
    """

    limit: float
    fixed: float
    per_head: float
    per_filter: float

    @classmethod
    def of(cls, limit_mb: float, shape: EncoderShape, dense_bytes: float, bytes_per_weight: float) -> SizeLimit:
        """Derive the sizes of the parts from the size of the dense file.

        Biases count as part of the fixed bytes, so a pruned file is overestimated a little.

        Args:
            limit_mb: largest size in 10^6 bytes.
            shape: dense sizes of the encoder.
            dense_bytes: size of the dense model's file in the same number format.
            bytes_per_weight: of that format.

        Returns:
            The limit, in bytes.
        """
        # A token's MACs are the number of weights, plus 2·s²·d_h per head for the attention scores.
        per_head = (shape.macs_per_head(1) - 2 * shape.head_size) * bytes_per_weight
        per_filter = shape.macs_per_filter(1) * bytes_per_weight
        removable = shape.layers * (shape.heads * per_head + shape.filters * per_filter)
        return cls(1e6 * limit_mb, max(0.0, dense_bytes - removable), per_head, per_filter)

    def used(self, widths: Widths) -> float:
        """Bytes of the file with these widths."""
        return self.fixed + sum(widths.heads) * self.per_head + sum(widths.filters) * self.per_filter

    def fits(self, widths: Widths) -> bool:
        """Whether a file with these widths is small enough."""
        return self.used(widths) <= self.limit

    def check(self) -> None:
        """Check that the file can be small enough without heads and filters.

        Raises:
            BudgetUnreachable: it cannot.
        """
        if self.fixed > self.limit:
            raise BudgetUnreachable(
                f"size {self.limit / 1e6:.4g} MB cannot be reached: embeddings, norms and head alone take "
                f"{self.fixed / 1e6:.3g} MB in this number format, and that is the least reachable. Raise --size-mb, "
                "or try --precision int8 or auto"
            )


def allocate_within(
    sublayers: Sequence[Sublayer],
    sizes: Sequence[Floats],
    most_bytes: float,
    budget: float,
    *,
    fixed: float = 0.0,
    buckets: int | None = None,
) -> Allocation:
    """Find the allocation of least loss within the budget and within a number of bytes.

    Args:
        sublayers: the choices for each sublayer, with costs in the budget's unit.
        sizes: bytes at each width, per sublayer; ascending from 0 at width 0.
        most_bytes: limit for all sublayers together, not negative.
        budget: for the whole model.
        fixed: cost of everything that is not a sublayer.
        buckets: quanta of the budget; None for as many as take about a second.

    Returns:
        A choice for every sublayer. The gap is the distance to the relaxation's bound, which is above 0 even for an
        optimal solution.

    Raises:
        BudgetUnreachable: the fixed part and the cheapest sublayers together exceed the budget.
    """
    plain = allocate(sublayers, budget, fixed=fixed, buckets=buckets)
    if _size(sizes, plain) <= most_bytes:
        return plain
    bound = plain.loss - (plain.gap or 0.0)
    best: Allocation | None = None

    def at(price: float) -> bool:
        """Whether the structure at a price is small enough; keeps the best such structure, and the best bound."""
        nonlocal best, bound
        priced = [replace(s, loss=s.loss + price * size) for s, size in zip(sublayers, sizes, strict=True)]
        found = allocate(priced, budget, fixed=fixed, buckets=min(buckets or _BUCKETS, _BUCKETS))
        bound = max(bound, found.loss - (found.gap or 0.0) - price * most_bytes)
        if _size(sizes, found) > most_bytes:
            return False
        loss = _loss(sublayers, found.levels)
        if best is None or loss < best.loss:
            best = replace(found, loss=loss)
        return True

    price = sum(float(s.loss.max()) for s in sublayers) / max(sum(float(size[-1]) for size in sizes), 1.0)
    price = max(price, 1e-30)
    too_low = 0.0
    for _ in range(_BRACKETS):
        if at(price):
            break
        too_low, price = price, 4 * price
    if best is None:
        # If losses are infinite, no price is high enough. Removing everything always fits.
        levels = (0,) * len(sublayers)
        best = Allocation(levels, fixed + _cost(sublayers, levels), _loss(sublayers, levels), None)
    too_low = too_low or price * 4.0**-_HALVINGS
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(too_low * price))
        if at(middle):
            price = middle
        else:
            too_low = middle
    levels = _use_rest(sublayers, sizes, best.levels, most_bytes, budget - fixed)
    loss = _loss(sublayers, levels)
    return Allocation(levels, fixed + _cost(sublayers, levels), loss, max(0.0, loss - bound))


def _size(sizes: Sequence[Floats], allocation: Allocation) -> float:
    return sum(float(size[level]) for size, level in zip(sizes, allocation.levels, strict=True))


def _cost(sublayers: Sequence[Sublayer], levels: Sequence[int]) -> float:
    return sum(float(s.cost[level]) for s, level in zip(sublayers, levels, strict=True))


def _loss(sublayers: Sequence[Sublayer], levels: Sequence[int]) -> float:
    return sum(float(s.loss[level]) for s, level in zip(sublayers, levels, strict=True))


def _use_rest(
    sublayers: Sequence[Sublayer], sizes: Sequence[Floats], start: Sequence[int], most_bytes: float, available: float
) -> tuple[int, ...]:
    """Widen single sublayers, the largest gain first, while both cost and size stay within their limits."""
    levels = list(start)
    cost = _cost(sublayers, levels)
    size = sum(float(of[level]) for of, level in zip(sizes, levels, strict=True))
    while True:
        best_gain = 0.0
        move: tuple[int, int] | None = None
        for number, (sublayer, of, level) in enumerate(zip(sublayers, sizes, levels, strict=True)):
            fits = (cost - sublayer.cost[level] + sublayer.cost <= available) & (size - of[level] + of <= most_bytes)
            for candidate in np.flatnonzero(fits):
                gain = float(sublayer.loss[level] - sublayer.loss[candidate])
                if gain > best_gain:
                    best_gain, move = gain, (number, int(candidate))
        if move is None:
            return tuple(levels)
        chosen, width = move
        cost += float(sublayers[chosen].cost[width] - sublayers[chosen].cost[levels[chosen]])
        size += float(sizes[chosen][width] - sizes[chosen][levels[chosen]])
        levels[chosen] = width
