"""The gate's statistics by simulation, seeded: noise like that of shared virtual machines, and both kinds of error.

What is simulated is at least as bad as what was recorded on a shared machine with two cores (docs/gate.md): a machine
whose speed drifts as a random walk that is pulled back (autocorrelated over seconds, factors of up to about 1.5),
spells in which others halve it, noise of single calls with a heavy tail, a slower change of each model's own speed
(autocorrelated over rounds), and a new place in memory at every loading.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.core.statistics import Interval, ratio_interval
from compress.gate import decision
from compress.gate.decision import LOOKS, VISITS, exactly, judged, over_visits, overall, recorded_ratio
from compress.profile.timing import Samples, relative_times

ROUNDS = 30


def autocorrelated(random: np.random.Generator, shape: tuple[int, ...], memory: float, spread: float) -> NDArray[Any]:
    """A stationary AR(1) process along the last axis."""
    steps = random.standard_normal(shape) * spread * np.sqrt(1 - memory**2)
    steps[..., 0] = random.standard_normal(shape[:-1]) * spread
    for i in range(1, shape[-1]):
        steps[..., i] += memory * steps[..., i - 1]
    return steps


def timed(random: np.random.Generator, visits: int, slowdown: float, rounds: int = ROUNDS) -> NDArray[Any]:
    """Milliseconds of a candidate and its baseline, [visits, rounds, 2], the candidate ``slowdown`` times slower."""
    # What both have in common: the machine. Two calls of a round are neighbours in time.
    drift = autocorrelated(random, (visits * rounds * 2,), memory=0.995, spread=0.2)
    others = np.where(autocorrelated(random, (visits * rounds * 2,), 0.98, 1.0) > 1.3, np.log(2.0), 0.0)
    machine = (drift + others).reshape(visits, rounds, 2)
    # What each has for itself.
    loading = random.normal(scale=0.01, size=(visits, 1, 2))
    own = autocorrelated(random, (visits, 2, rounds), memory=0.9, spread=0.01).swapaxes(1, 2)
    calls = random.normal(scale=0.03, size=(visits, rounds, 2))
    spikes = (random.random((visits, rounds, 2)) < 0.05) * np.log1p(random.pareto(1.5, size=(visits, rounds, 2)))
    return 5.0 * np.exp(machine + loading + own + calls + spikes) * np.array([slowdown, 1.0])


def ratio_of_visit(ms: NDArray[Any]) -> float:
    """As timing.py has it; nothing tells what disturbed the calls, which is the worse case."""
    return float(relative_times(Samples(ms, np.zeros_like(ms), ms), reference=1).value[0])


def decided(random: np.random.Generator, slowdown: float, limit: float) -> str:
    """The whole procedure: look, and measure on while the limit is open."""
    ratios: list[float] = []
    for _ in range(LOOKS):
        ratios += [ratio_of_visit(visit) for visit in timed(random, VISITS, slowdown)]
        verdict = judged(over_visits(ratios), limit, "at most")
        if verdict != "inconclusive":
            break
    return verdict


def shares(runs: int, slowdown: float, limit: float) -> dict[str, float]:
    random = np.random.default_rng(7)
    found = [decided(random, slowdown, limit) for _ in range(runs)]
    return {verdict: found.count(verdict) / runs for verdict in ("pass", "fail", "inconclusive")}


def test_no_difference_raises_no_alarm() -> None:
    # The hardest case: a limit of exactly "as fast as the baseline", which equal models neither keep nor break.
    assert shares(400, slowdown=1.0, limit=1.0)["fail"] < 0.01


def test_no_difference_passes_where_some_is_allowed() -> None:
    found = shares(200, slowdown=1.0, limit=1.05)
    assert found["fail"] == 0 and found["pass"] > 0.95


def test_ten_per_cent_are_caught() -> None:
    found = shares(300, slowdown=1.10, limit=1.05)
    assert found["fail"] >= 0.95 and found["pass"] == 0


def test_at_the_limit_neither_is_said() -> None:
    found = shares(100, slowdown=1.05, limit=1.05)
    assert found["fail"] <= 0.02 and found["pass"] <= 0.02


def test_calls_taken_for_independent_would_raise_alarms() -> None:
    """Why visits are the units: the plain interval of as many calls is too narrow."""
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(100):
        ms = timed(random, 1, 1.0, rounds=VISITS * ROUNDS)[0]
        alarms += judged(ratio_interval(ms[:, 0], ms[:, 1], resamples=300), 1.0, "at most") == "fail"
    assert alarms > 10


def test_records_of_equal_models_raise_no_alarm() -> None:
    """Two validations, each of a model against the dense one, days apart."""
    random = np.random.default_rng(3)

    def record(speedup: float) -> Interval:
        ms = timed(random, 1, speedup, rounds=150)[0]  # the dense model is the slower one
        return ratio_interval(ms[:, 0], ms[:, 1], resamples=300)

    alarms = caught = 0
    for _ in range(100):
        alarms += judged(recorded_ratio(record(2.0), record(2.0)), 1.0, "at most") == "fail"
        caught += judged(recorded_ratio(record(2.0 / 1.2), record(2.0)), 1.05, "at most") == "fail"
    # Rarer alarms would need wider intervals; a record is one loading, and this noise has twice the spread measured.
    assert alarms <= 4 and caught > 75


def test_interval_of_visits_is_students() -> None:
    values = [1.0, 1.02, 0.99, 1.01]
    found = over_visits(values, confidence=0.95)
    logs = np.log(values)
    half = 3.182446 * logs.std(ddof=1) / 2
    np.testing.assert_allclose(
        np.log([found.value, found.low, found.high]), logs.mean() + np.array([0, -half, half]), atol=1e-6
    )
    same = over_visits([2.0] * 8)
    assert (same.value, same.low, same.high) == pytest.approx((2.0, 2.0, 2.0))


def test_coverage_of_the_interval() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        found = over_visits(np.exp(random.normal(scale=0.02, size=VISITS)), confidence=0.95)
        inside += found.low <= 1.0 <= found.high
    assert 0.92 < inside / 400 < 0.98


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
    ],
)
def test_the_worst_verdict_is_the_whole_ones(verdicts: list[Any], expected: str) -> None:
    assert overall(verdicts) == expected


def test_no_limits_have_no_verdict() -> None:
    with pytest.raises(ValueError, match="no limits"):
        overall([])


@pytest.mark.parametrize(
    ("found", "direction", "expected"),
    [
        (Interval(4, 3, 5), "at most", "pass"),
        (Interval(5, 4, 6), "at most", "inconclusive"),
        (Interval(6, 5.1, 7), "at most", "fail"),
        (Interval(6, 5, 7), "at least", "pass"),
        (Interval(5, 4, 6), "at least", "inconclusive"),
        (Interval(4, 3, 4.9), "at least", "fail"),
        (exactly(5), "at most", "pass"),
        (exactly(5), "at least", "pass"),
    ],
)
def test_the_whole_interval_decides(found: Interval, direction: Any, expected: str) -> None:
    assert judged(found, 5.0, direction) == expected


def test_paired_drop_sees_what_an_unpaired_one_cannot() -> None:
    random = np.random.default_rng(0)
    before = (random.random(1000) < 0.9).astype(float)
    after = before.copy()
    after[np.flatnonzero(before)[:20]] = 0.0
    paired = decision.paired_drop(before, after)
    assert paired.value == pytest.approx(0.02) and judged(paired, 0.01, "at most") == "fail"
    unpaired = decision.unpaired_drop(Interval(0.9, 0.88, 0.92), Interval(0.88, 0.86, 0.9))
    assert unpaired.value == pytest.approx(0.02) and judged(unpaired, 0.01, "at most") == "inconclusive"


def test_units_and_reciprocals() -> None:
    assert decision.reciprocal(Interval(2.0, 1.0, 4.0)) == Interval(0.5, 0.25, 1.0)
    assert decision.scaled(Interval(2.0, 1.0, 4.0), 10) == Interval(20.0, 10.0, 40.0)
