"""Timing by CUDA events: what is timed, in which order, and what errors do; the driver is a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compress.core.errors import ExportError
from compress.export import cuda_events, measure
from compress.profile import gpu

FEED = {"input_ids": np.ones((1, 4), np.int64)}


class Driver:
    """A GPU's clock, in milliseconds, and the calls that were made to it: what ``cuda.bindings.runtime`` offers."""

    def __init__(self, failing: str = "") -> None:
        self.now, self.failing = 0.0, failing
        self.recorded: dict[int, float] = {}
        self.made = self.destroyed = 0
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name == self.failing:
                return (700,)
            if name in ("cudaEventCreate", "cudaStreamCreate"):
                self.made += 1
                return 0, self.made
            if name == "cudaEventDestroy":
                self.destroyed += 1
            if name == "cudaEventRecord":
                self.recorded[arguments[0]] = self.now
            if name == "cudaEventElapsedTime":
                return 0, self.recorded[arguments[1]] - self.recorded[arguments[0]]
            return (0,)

        return call


class Session:
    def __init__(self, driver: Driver, milliseconds: float) -> None:
        self.driver, self.milliseconds, self.started = driver, milliseconds, 0

    def without_copies(self, feed: Any) -> tuple[Callable[[], None], int]:
        def start() -> None:
            self.started += 1
            # The first calls are slow: clocks rise, memory is set up.
            self.driver.now += self.milliseconds * (10 if self.started <= 5 else 1)

        return start, 7


def test_the_time_is_that_between_the_events_and_warm_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(cuda_events, "runtime", lambda: driver)
    sessions = [Session(driver, 2.0), Session(driver, 0.5)]
    times = cuda_events.without_copies(sessions, FEED, rounds=30)
    assert times is not None
    assert np.allclose(times, [[2.0, 0.5]] * 30)
    assert driver.destroyed == 2
    assert all(session.started > 30 + 5 for session in sessions)
    compared = measure.compare_without_copies(*sessions, FEED, rounds=20)  # type: ignore[arg-type]
    assert compared is not None and compared.speedup.value == pytest.approx(4.0)


def test_clocks_are_those_right_after(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    idle = gpu.Gpu("Tesla T4", "7.5", "550", 15360, 1590, 300)
    busy = gpu.Gpu("Tesla T4", "7.5", "550", 15360, 1590, 1455)
    monkeypatch.setattr(cuda_events, "runtime", lambda: driver)
    monkeypatch.setattr(measure, "gpus", lambda: (idle,))
    monkeypatch.setattr(gpu, "_asked", lambda: (busy,))
    compared = measure.compare_without_copies(Session(driver, 2.0), Session(driver, 1.0), FEED)  # type: ignore[arg-type]
    assert compared is not None
    document = compared.to_json()
    assert (document["clock_mhz"], document["most_clock_mhz"]) == (1455, 1590)
    assert document["dense"] == {"value": 2.0, "ci95": [2.0, 2.0]} and document["rounds"] == 300


def test_sessions_that_run_elsewhere_have_no_such_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_events, "runtime", lambda: None)
    assert cuda_events.new_stream(0) is None
    assert cuda_events.without_copies([Session(Driver(), 1.0)], FEED, rounds=3) is None
    monkeypatch.setattr(cuda_events, "runtime", Driver)
    assert cuda_events.without_copies([object()], FEED, rounds=3) is None
    assert measure.compare_without_copies(object(), object(), FEED) is None  # type: ignore[arg-type]


def test_an_error_of_the_driver_ends_it_and_events_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(failing="cudaEventSynchronize")
    monkeypatch.setattr(cuda_events, "runtime", lambda: driver)
    with pytest.raises(ExportError, match="CUDA reports 700"):
        cuda_events.without_copies([Session(driver, 1.0)], FEED, rounds=3)
    assert driver.destroyed == 2


def test_streams_are_of_the_gpu_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(cuda_events, "runtime", lambda: driver)
    assert cuda_events.new_stream(2) == 1
    cuda_events.free_stream(1)
    assert driver.calls == ["cudaSetDevice", "cudaStreamCreate", "cudaStreamDestroy"]
