"""Measuring, on a simulated machine: what is planted comes out, however the machine drifts and whoever else uses it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.profile import timing
from compress.profile.timing import Clock, Samples, Schedule, measure, relative_times, sample_calls, weighted_medians
from support.simulated_machine import Machine

PLANTED = (5.0, 1.0, 2.5, 9.0, 0.4)


def _calls(machine: Machine, planted: tuple[float, ...] = PLANTED) -> list:
    return [lambda ms=ms: machine.call(ms) for ms in planted]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("machine", "tolerance"),
    [
        ({"drift": 1.0}, 1e-9),
        ({"drift": 3.0}, 0.01),
        ({"drift": 3.0, "noise": 0.05}, 0.03),
        ({"drift": 2.0, "noise": 0.05, "disturbed": 0.5}, 0.04),
        ({"drift": 2.0, "noise": 0.05, "disturbed": 1.0}, 0.06),
    ],
)
def test_ratios_are_those_planted(machine: dict[str, float], tolerance: float, seed: int) -> None:
    simulated = Machine(**machine, seed=seed)
    ratios = relative_times(sample_calls(_calls(simulated), Schedule(rounds=60), seed=seed, clock=simulated))
    assert ratios.value == pytest.approx(np.array(PLANTED) / PLANTED[0], rel=tolerance)
    assert ratios.value[0] == 1.0


def test_medians_one_after_the_other_would_be_off() -> None:
    """The drift of the simulation is strong enough to matter: measured in turn instead of interleaved, ratios fail."""
    machine = Machine(drift=3.0)
    medians = []
    for call in _calls(machine):
        times = []
        for _ in range(200):
            before = machine.wall()
            call()
            times.append(machine.wall() - before)
        medians.append(np.median(times))
    assert max(abs(np.array(medians) / medians[0] / (np.array(PLANTED) / PLANTED[0]) - 1)) > 0.2


def test_spread_says_how_far_ratios_are_off() -> None:
    off, said = [], []
    for seed in range(30):
        machine = Machine(noise=0.1, seed=seed)
        ratios = relative_times(sample_calls(_calls(machine), Schedule(rounds=40), seed=seed, clock=machine))
        off.append(np.log(ratios.value[1:] * PLANTED[0] / PLANTED[1:]))
        said.append(ratios.spread[1:])
    # Both are of the order 0.1 x 1.25 / sqrt(40); the reference's own error is in the ratios as well.
    assert 0.5 < np.std(off) / np.mean(said) < 2.5


def test_undisturbed_times_and_trust() -> None:
    samples = Samples(
        ms=np.array([[10.0, 10.0, 10.0]]), waited_ms=np.array([[0.0, 5.0, 100.0]]), worked_ms=np.array([[20.0] * 3])
    )
    assert samples.undisturbed_ms[0, 0] == 10.0
    assert 5.0 <= samples.undisturbed_ms[0, 1] < 10.0
    assert samples.undisturbed_ms[0, 2] == 2.5
    assert samples.trust[0, 0] == 1.0
    assert 1.0 > samples.trust[0, 1] > samples.trust[0, 2] > 0.0
    assert not Samples(np.ones((3, 2)), np.zeros((3, 2)), np.ones((3, 2))).hopeless


def test_hopeless_machine_is_measured_by_processor_time() -> None:
    """Wall-clock times say nothing here; processor times still have the planted ratio."""
    noise = np.random.default_rng(0).lognormal(2.0, 1.0, size=(20, 2))
    work = np.tile([4.0, 1.0], (20, 1))
    samples = Samples(ms=work / 2 + noise, waited_ms=noise * 2, worked_ms=work)
    assert samples.hopeless
    assert relative_times(samples).value == pytest.approx([1.0, 0.25])


def test_every_round_has_every_call_in_another_order() -> None:
    machine = Machine()
    times = sample_calls(_calls(machine, (1.0, 2.0, 3.0)), Schedule(rounds=20, warmup=0, prime=0), clock=machine).ms
    assert times.shape == (20, 3)
    assert times == pytest.approx(np.tile([1.0, 2.0, 3.0], (20, 1)))
    rounds = np.array(machine.order).reshape(20, 3)
    assert all(sorted(row) == [1.0, 2.0, 3.0] for row in rounds.tolist())
    assert len({tuple(row) for row in rounds.tolist()}) > 3
    again = Machine()
    sample_calls(_calls(again, (1.0, 2.0, 3.0)), Schedule(rounds=20, warmup=0, prime=0), clock=again)
    assert again.order == machine.order, "same seed, same order"


def test_warm_up_priming_and_bursts_are_counted() -> None:
    machine = Machine()
    samples = sample_calls(_calls(machine, (1.0,)), Schedule(rounds=6, warmup=5, prime=2, burst=3), clock=machine)
    assert samples.ms.shape == (6, 1)
    assert len(machine.order) == 5 + 2 * (2 + 3)


def test_the_median_of_a_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([[1.0, 10.0], [9.0, 11.0], [2.0, 12.0], [3.0, 9.0], [4.0, 8.0], [0.0, 7.0]])
    monkeypatch.setattr(timing, "sample_calls", lambda *_, **__: Samples(rows, 0 * rows, rows))
    assert measure([], rounds=2, burst=3).tolist() == [[2.0, 11.0], [3.0, 8.0]]


def test_seconds_are_kept_and_rounds_are_the_least() -> None:
    machine = Machine()
    samples = sample_calls(
        _calls(machine, (10.0, 10.0)), Schedule(rounds=2, seconds=1.0, warmup=0, prime=0), clock=machine
    )
    assert len(samples.ms) == 50
    assert len(sample_calls(_calls(machine), Schedule(rounds=4, seconds=0.0), clock=machine).ms) == 4


def test_garbage_collection_is_off_meanwhile_and_back_on_after_an_error() -> None:
    seen = []

    def fail() -> None:
        seen.append(gc.isenabled())
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError):
        measure([fail], rounds=1, warmup=0, prime=0)
    assert seen == [False]
    assert gc.isenabled()


def test_the_real_clock_moves_forward() -> None:
    times = measure([lambda: sum(range(1000)), lambda: None], rounds=3)
    assert times.shape == (3, 2)
    assert (times > 0).all()
    clock = Clock()
    with clock.watching():
        assert clock.waited() >= 0
    assert clock.worked() > 0


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_weighted_median_with_equal_weights_is_the_median(values: list[float]) -> None:
    column = np.array(values)[:, None]
    assert weighted_medians(column, np.ones_like(column))[0] == pytest.approx(np.median(values))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 4)), min_size=1, max_size=12))
def test_weight_is_repetition(pairs: list[tuple[float, int]]) -> None:
    values, weights = (np.array(column, dtype=float)[:, None] for column in zip(*pairs, strict=True))
    repeated = np.repeat(values, weights[:, 0].astype(int))
    assert weighted_medians(values, weights)[0] == pytest.approx(np.median(repeated))
