"""A machine that tests can look behind: its clock moves when a model is called, it drifts, and others use its cores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from compress.core.plan import EncoderShape, Widths
from compress.profile.latency_table import LatencyTable, filter_levels
from compress.profile.timing import Clock

SHAPE = EncoderShape(model_type="bert", layers=4, hidden_size=64, heads=4, head_size=16, filters=256)


class Machine(Clock):
    """A clock, and the calls that move it.

    Args:
        drift: how many times slower the machine is at its slowest; it swings between that and 1 every 7 seconds.
        noise: standard deviation of the logarithm of a call's time.
        disturbed: share of the calls that wait for a core, for about as long as they run.
        seed: of noise and disturbances.
    """

    def __init__(self, drift: float = 1.0, noise: float = 0.0, disturbed: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.now = self.busy = self.idle = 0.0
        self.drift, self.noise, self.disturbed = drift, noise, disturbed
        self.random = np.random.default_rng(seed)
        self.order: list[float] = []

    def call(self, ms: float) -> None:
        """A call that takes so long on the undisturbed machine at its fastest."""
        self.order.append(ms)
        swing = 0.5 - 0.5 * math.cos(self.now / 7e9 * 2 * math.pi)
        own = ms * 1e6 * (1 + (self.drift - 1) * swing) * math.exp(self.noise * self.random.standard_normal())
        # Two threads, spinning for each other; waits of both overlap in part.
        waited = own * self.random.uniform(0.3, 3.0) if self.random.random() < self.disturbed else 0.0
        self.now += own + 0.72 * waited
        self.busy += 2 * own
        self.idle += waited

    @contextmanager
    def watching(self) -> Iterator[None]:
        yield

    def wall(self) -> int:
        return round(self.now)

    def worked(self) -> int:
        return round(self.busy)

    def waited(self) -> int:
        return round(self.idle)


def planted_table(shape: EncoderShape = SHAPE, fixed_ms: float = 0.8) -> LatencyTable:
    """A table with a flat start, a slope and a staircase of 32 filters."""
    filters = filter_levels(shape.filters)
    return LatencyTable(
        layers=shape.layers,
        heads=tuple(range(shape.heads + 1)),
        attention_ms=(0.0, *(0.2 + 0.15 * max(0, h - 2) for h in range(1, shape.heads + 1))),
        filters=filters,
        ffn_ms=(0.0, *(0.1 + 0.125 * math.ceil(f / 32) for f in filters[1:])),
        fixed_ms=fixed_ms,
    )


class SimulatedSession:
    """A session of a simulated machine; counts how many are open."""

    open_now = most_open = 0

    def __init__(self, machine: Machine, ms: float) -> None:
        self._machine, self._ms = machine, ms
        type(self).open_now += 1
        type(self).most_open = max(self.most_open, self.open_now)

    def run(self, feed: Mapping[str, Any]) -> None:
        self._machine.call(self._ms)

    def close(self) -> None:
        type(self).open_now -= 1


class Deployment:
    """``build`` and ``open`` of ``take_profile`` for models that follow a table on a simulated machine."""

    def __init__(self, machine: Machine, table: LatencyTable, open_ms: float = 20.0) -> None:
        self.machine, self.table, self.open_ms = machine, table, open_ms
        self.built: list[Widths] = []

    def build(self, widths: Widths) -> bytes:
        self.built.append(widths)
        return json.dumps([widths.heads, widths.filters]).encode()

    def open(self, model: bytes) -> SimulatedSession:
        heads, filters = json.loads(model)
        self.machine.now += self.open_ms * 1e6
        return SimulatedSession(self.machine, self.table.predict(Widths(tuple(heads), tuple(filters))))
