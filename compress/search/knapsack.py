"""Exact search for widths: a multiple-choice knapsack, solved by dynamic programming.

A *sublayer* is the attention or the FFN of one layer. The search chooses how many units each of the 2L sublayers keeps,
so that the loss is least and the cost within the budget. The units are ranked beforehand, so their number decides which
ones stay. Costs are milliseconds of a latency table or MACs; the search does not need to know.

Source: dynamic programming over a quantised budget, as in ZipLM (Kurtic et al., NeurIPS 2023) and SPDY (Frantar and
Alistarh, ICML 2022), which use it with measured layer timings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import BudgetUnreachable

Floats = NDArray[np.float64]

# Operations of the dynamic program, about a second. They give the number of the budget's quanta, within these bounds.
WORK = 3e8
BUCKETS = (4_000, 100_000)
# Sums of the same costs in another order differ by rounding: tolerate so much above the budget.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Sublayer:
    """The choices for one sublayer.

    Attributes:
        widths: possible numbers of units, ascending from 0.
        cost: of each width, in the budget's unit.
        loss: of each width: importance lost by keeping only that many of the best units. 0 at full width, unless a
            price of bytes was added.
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
        gap: upper bound on the distance of the loss from the optimum; None if there is no bound.
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
    """Find the allocation of least loss within the budget, by dynamic programming.

    The budget is quantised. With costs rounded *down* to a quantum, the program solves a relaxed problem. Its loss is a
    lower bound. Its solutions are tried from the full budget downwards until one's true cost is within the budget. With
    costs rounded *up*, every solution is feasible. The better of the two is taken, and then improved with the part of
    the budget that rounding left unused. The gap is the distance to the lower bound; it is 0 if the relaxed solution
    itself fits.

    Args:
        sublayers: the choices for each sublayer.
        budget: for the whole model.
        fixed: cost of everything that is not a sublayer.
        buckets: quanta of the budget; time and memory grow linearly with them. None for as many as take about a second.

    Returns:
        A choice for every sublayer, with its cost, loss and gap.

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
        # The cheapest widths fit, but with costs rounded up they do not.
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
            # The slack undoes floating-point errors of costs that are a whole number of quanta.
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
    """The best solution of the relaxed program whose true cost is within the budget.

    Rounding hides less than one quantum per sublayer, so there is no need to try more buckets than sublayers.
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
