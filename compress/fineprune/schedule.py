"""The budget as a function of the step: cubic between a constant start and a constant end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A budget that falls with the cube of the time left.

    v(t) = v_f + (v_i - v_f) (1 - (t - t_i) / (T - t_i - t_f))³, v_i before t_i and v_f from T - t_f on. The code
    published with Sanh et al. 2020 computes the same; the formula in the paper leaves t_i out of the divisor.

    Laws: ``at(0)`` is ``start``, ``at(t)`` is ``end`` exactly from ``steps - last`` on, and it never rises.

    Attributes:
        start, end: of the budget; ``end`` <= ``start``.
        steps: T, of the whole phase.
        first: t_i, steps at the start before it falls.
        last: t_f, steps at the end of it, constant.
    """

    start: float
    end: float
    steps: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.end > self.start or self.first < 0 or self.last < 0 or self.first + self.last >= self.steps:
            raise ValueError(f"no budget can fall like this: {self}")

    def at(self, step: int) -> float:
        """The budget in force at a step, 0..steps."""
        if step < self.first:
            return self.start
        if step >= self.steps - self.last:
            return self.end
        done = (step - self.first) / (self.steps - self.first - self.last)
        return self.end + (self.start - self.end) * (1 - done) ** 3

    def frozen(self, step: int) -> bool:
        """Whether the structure does not change any more at a step."""
        return step >= self.steps - self.last


def schedule_of(start: float, end: float, steps: int, first: float, last: float) -> Schedule:
    """A schedule whose constant ends are given as parts of the steps.

    Args:
        start: of the budget.
        end: of the budget, at most ``start``.
        steps: of the phase.
        first: part of the steps before the budget falls.
        last: part of the steps with the final budget.

    Returns:
        The schedule. If the constant ends would fill all steps, they are shortened so that the budget can fall.
    """
    warm, cool = round(first * steps), round(last * steps)
    if warm + cool >= steps:
        warm, cool = 0, max(0, min(cool, steps - 1))
    return Schedule(start, end, steps, warm, cool)
