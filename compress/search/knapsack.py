"""Which widths: exact search by dynamic programming, and the paper's two searches.

A *sublayer* is attention or FFN of one layer; a search chooses how many units each of the 2L sublayers keeps, so that
the loss is least and the cost within the budget. Which units those are is settled before: they are ranked.
Costs are milliseconds of a measured table or MACs; the searches do not care which.

Source of the exact search: a multiple-choice knapsack by dynamic programming over a quantised budget; ZipLM (Kurtic et
al., NeurIPS 2023) and SPDY use the same over measured layer timings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import BudgetUnreachable

Floats = NDArray[np.float64]

# Operations that the dynamic program may take (a second or so), and bounds on the quanta of the budget that gives.
WORK = 3e8
BUCKETS = (4_000, 100_000)
# Sums of the same costs in another order differ by rounding: that much is no excess.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Sublayer:
    """What one sublayer can be.

    Attributes:
        widths: the numbers of units on offer, ascending, first 0.
        cost: of each width, in the budget's unit.
        loss: of each width; what is lost by keeping only the best so many units. 0 at full width, unless something
            else (the price of bytes) was added.
    """

    widths: tuple[int, ...]
    cost: Floats
    loss: Floats


@dataclass(frozen=True)
class Allocation:
    """A choice for every sublayer.

    Attributes:
        levels: index into ``widths``, per sublayer.
        cost: total, fixed part included.
        loss: total.
        gap: upper bound on how much lower the loss of an exact solution could be; None if there is no bound.
    """

    levels: tuple[int, ...]
    cost: float
    loss: float
    gap: float | None

    def widths(self, sublayers: Sequence[Sublayer]) -> tuple[int, ...]:
        """Units kept, per sublayer."""
        return tuple(s.widths[level] for s, level in zip(sublayers, self.levels, strict=True))


def allocate(
    sublayers: Sequence[Sublayer], budget: float, *, fixed: float = 0.0, buckets: int | None = None
) -> Allocation:
    """The allocation of least loss within the budget, by dynamic programming.

    The budget is quantised. With costs rounded *down* to a quantum the program relaxes the problem: its loss is a
    lower bound, and the first of its solutions, from the full budget downwards, whose true cost is within the budget
    is feasible. With costs rounded *up* every solution is feasible. The better of the two is taken, what rounding left
    over is spent, and the distance to the bound is the gap to the true optimum: 0 where the relaxed solution itself
    fits.

    Args:
        sublayers: what each can be.
        budget: for the whole model.
        fixed: cost of everything that is not a sublayer.
        buckets: quanta of the budget; time and memory grow linearly with it. None: as many as take a second or less.

    Raises:
        BudgetUnreachable: the fixed part and the cheapest sublayers together exceed the budget.
    """
    least = fixed + sum(float(s.cost.min()) for s in sublayers)
    if least > budget:
        raise BudgetUnreachable(f"budget {budget:g} is below {least:g}, the least that any structure costs")
    available = (budget - fixed) * (1 + _ROUNDING)
    ideal = tuple(int(len(s.loss) - 1 - np.argmin(s.loss[::-1])) for s in sublayers)
    if sum(float(s.cost[i]) for s, i in zip(sublayers, ideal, strict=True)) <= available:
        return _allocation(sublayers, ideal, fixed, gap=0.0)
    if buckets is None:
        buckets = int(np.clip(WORK / sum(len(s.widths) for s in sublayers), *BUCKETS))
    quantum = available / buckets
    relaxed = _DynamicProgram(sublayers, quantum, buckets, up=False)
    careful = _DynamicProgram(sublayers, quantum, buckets, up=True)
    candidates = [_first_within(sublayers, relaxed, available), careful.levels(buckets)]
    found = [
        _allocation(sublayers, _spend_rest(sublayers, levels, available), fixed, gap=None)
        for levels in candidates
        if levels is not None
    ]
    if not found:
        # Rounding up has left no room for even the cheapest widths, which do fit.
        cheapest = [int(np.argmin(s.cost)) for s in sublayers]
        found = [_allocation(sublayers, _spend_rest(sublayers, cheapest, available), fixed, gap=None)]
    best = min(found, key=lambda allocation: allocation.loss)
    return replace(best, gap=max(0.0, best.loss - float(relaxed.loss[buckets])))


def _allocation(sublayers: Sequence[Sublayer], levels: Sequence[int], fixed: float, gap: float | None) -> Allocation:
    cost = fixed + sum(float(s.cost[i]) for s, i in zip(sublayers, levels, strict=True))
    loss = sum(float(s.loss[i]) for s, i in zip(sublayers, levels, strict=True))
    return Allocation(tuple(int(i) for i in levels), cost, loss, gap)


class _DynamicProgram:
    """Least loss for every budget of 0..buckets quanta, sublayer by sublayer.

    Attributes:
        loss: [buckets + 1]; infinite where nothing fits.
    """

    def __init__(self, sublayers: Sequence[Sublayer], quantum: float, buckets: int, up: bool) -> None:
        self.loss = np.zeros(buckets + 1)
        self._choices: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
        for sublayer in sublayers:
            # The slack keeps a cost that is a whole number of quanta, but for floating point, at that number.
            quanta = sublayer.cost / quantum if quantum > 0 else np.where(sublayer.cost > 0, np.inf, 0.0)
            steps = np.minimum(np.ceil(quanta - 1e-9) if up else np.floor(quanta + 1e-9), buckets + 1).astype(np.int64)
            new = np.full(buckets + 1, np.inf)
            chosen = np.zeros(buckets + 1, dtype=np.int32)
            for level, (step, loss) in enumerate(zip(steps, sublayer.loss, strict=True)):
                if step > buckets:
                    continue
                candidate = self.loss[: buckets + 1 - step] + loss
                view = new[step:]
                better = candidate < view
                view[better] = candidate[better]
                chosen[step:][better] = level
            self.loss = new
            self._choices.append((steps, chosen))

    def levels(self, bucket: int) -> list[int] | None:
        """The levels of the solution for a budget of so many quanta; None if there is none."""
        if not np.isfinite(self.loss[bucket]):
            return None
        levels = []
        for steps, chosen in reversed(self._choices):
            level = int(chosen[bucket])
            levels.append(level)
            bucket -= int(steps[level])
        return levels[::-1]


def _first_within(sublayers: Sequence[Sublayer], relaxed: _DynamicProgram, available: float) -> list[int] | None:
    """The best solution of the relaxed program whose true cost is available.

    Rounding hides less than a quantum per sublayer, so no more than that many buckets have to be tried.
    """
    top = len(relaxed.loss) - 1
    for bucket in range(top, max(-1, top - len(sublayers) - 1), -1):
        levels = relaxed.levels(bucket)
        if levels is None:
            return None
        if sum(float(s.cost[i]) for s, i in zip(sublayers, levels, strict=True)) <= available:
            return levels
    return None


def _spend_rest(sublayers: Sequence[Sublayer], levels: list[int], available: float) -> list[int]:
    """Raise single widths, the largest gain first, as long as the true cost stays within ``available``."""
    levels = list(levels)
    spent = sum(float(s.cost[i]) for s, i in zip(sublayers, levels, strict=True))
    while True:
        best_gain, best_move = 0.0, None
        for number, (sublayer, level) in enumerate(zip(sublayers, levels, strict=True)):
            fits = np.flatnonzero(spent - sublayer.cost[level] + sublayer.cost <= available)
            if len(fits):
                candidate = int(fits[np.argmin(sublayer.loss[fits])])
                gain = float(sublayer.loss[level] - sublayer.loss[candidate])
                if gain > best_gain:
                    best_gain, best_move = gain, (number, candidate)
        if best_move is None:
            return levels
        number, candidate = best_move
        spent += float(sublayers[number].cost[candidate] - sublayers[number].cost[levels[number]])
        levels[number] = candidate
