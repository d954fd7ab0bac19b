"""A device that takes a fixed multiple of what a profile says."""

from __future__ import annotations

from compress.core.plan import Widths
from compress.core.statistics import Interval
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from support.profiles import PROFILE


class SimulatedDevice:
    """Sublayers take so many times what the profile says; ``least`` is what nothing gets below, in ms."""

    def __init__(self, factor: float, least: float = 0.0) -> None:
        self.factor, self.least, self.timed = factor, least, list[Widths]()

    def compare(self, widths: Widths, _engine: Engine) -> LatencyComparison:
        self.timed.append(widths)
        dense, ours = PROFILE.dense_ms, self.of(widths)
        return LatencyComparison(*(Interval(v, v, v) for v in (dense, ours, dense / ours)), rounds=9)

    def of(self, widths: Widths) -> float:
        table = PROFILE.table
        return max(self.least, table.fixed_ms + self.factor * (table.predict(widths) - table.fixed_ms))
