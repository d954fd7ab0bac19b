"""Axes: round numbers to label them with, and where values lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at most ``low`` to at least ``high``.

    Law: the first is <= low, the last >= high, and they ascend.

    Args:
        low: least value.
        high: greatest value.
        about: how many steps, roughly.

    Raises:
        ValueError: an end is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"an axis needs finite ends, got {low} and {high}")
    low, high = min(low, high), max(low, high)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    step = round_step((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def round_step(rough: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough * (1 - 1e-9)), 10.0 * power)


def label(value: float, step: float) -> str:
    """A tick as text, with as many decimals as its step has.

    Args:
        value: the tick.
        step: between ticks.
    """
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{round(value, decimals + 1) + 0.0:.{decimals}f}"


@dataclass(frozen=True)
class Axis:
    """Values onto positions.

    Attributes:
        marks: ticks, ascending; they are the axis's ends.
        start, end: positions of the first and the last tick.
    """

    marks: tuple[float, ...]
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, about: int = 5) -> Axis:
        """An axis that has room for all values.

        Args:
            values: at least one.
            start: position of the first tick.
            end: position of the last tick.
            about: how many steps, roughly.
        """
        return cls(tuple(ticks(min(values), max(values), about)), start, end)

    def at(self, value: float) -> float:
        """Position of a value."""
        low, high = self.marks[0], self.marks[-1]
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def labelled(self) -> list[tuple[float, str]]:
        """Position and text of every tick."""
        step = self.marks[1] - self.marks[0]
        return [(self.at(mark), label(mark, step)) for mark in self.marks]
