"""Taking a profile: on a simulated machine the planted table comes out; on the real one the pieces fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compress.core.plan import EncoderShape
from compress.profile.take import ModelSource, Profile, Workload, filter_levels, take_profile
from compress.profile.target import load_target
from support.simulated_machine import SHAPE, Deployment, Machine, SimulatedSession, planted_table


def _take(
    machine: Machine, *, open_ms: float = 20.0, seconds: float = 45.0, **options: Any
) -> tuple[Profile, Deployment]:
    shape = options.pop("shape", SHAPE)
    deployment = Deployment(machine, planted_table(shape), open_ms)
    profile = take_profile(
        ModelSource(deployment.build, deployment.open, {}),
        Workload(shape, load_target("cpu"), batch_size=1, seq_len=64),
        seconds=seconds,
        clock=machine,
        **options,
    )
    return profile, deployment


@pytest.mark.parametrize(
    ("machine", "median", "worst"),
    [
        ({}, 0.005, 0.01),
        ({"drift": 3.0, "noise": 0.03}, 0.02, 0.05),
        ({"drift": 2.0, "noise": 0.05, "disturbed": 0.4}, 0.03, 0.08),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_planted_latencies_are_predicted(machine: dict[str, float], median: float, worst: float, seed: int) -> None:
    simulated = Machine(**machine, seed=seed)
    profile, deployment = _take(simulated, seed=seed)
    # Against the truth, up to the one factor by which the machine is slower than at its best.
    errors = np.array(
        [profile.table.predict(widths) / deployment.table.predict(widths) for widths in set(deployment.built)]
    )
    errors = np.abs(errors / np.median(errors) - 1.0)
    assert np.median(errors) < median
    assert np.quantile(errors, 0.95) < worst
    # And as the profile itself reports it.
    assert len(profile.check) == 8
    assert profile.median_error is not None
    assert profile.median_error < 2 * median


def test_what_a_profile_says_about_itself() -> None:
    profile, _ = _take(Machine(), seed=3)
    assert profile.source == "measured"
    assert (profile.batch_size, profile.seq_len, profile.target, profile.precision) == (1, 64, "cpu", "fp32")
    assert profile.shape == SHAPE
    assert profile.table.heads == tuple(range(SHAPE.heads + 1))
    assert profile.table.filters == filter_levels(SHAPE.filters)
    assert [point.width for point in profile.points if point.kind == "attention"] == list(profile.table.heads)
    assert [point.width for point in profile.points if point.kind == "ffn"] == list(profile.table.filters)
    for point in profile.points:
        assert point.ms == pytest.approx(
            profile.table.attention_at(point.width) if point.kind == "attention" else profile.table.ffn_at(point.width),
            abs=0.06,
        )
    for check in profile.check:
        assert check.error == pytest.approx(check.predicted_ms / check.measured_ms - 1)
    assert Profile.from_json(profile.to_json()) == profile


def test_time_is_kept() -> None:
    machine = Machine()
    profile, _ = _take(machine, seconds=30.0)
    assert 0.9 * 30 < profile.seconds < 1.15 * 30
    assert machine.seconds() == pytest.approx(profile.seconds, abs=0.01)


def test_where_sessions_are_slow_to_open_fewer_widths_are_measured() -> None:
    """Without thinning, one pass alone would take over a minute here."""
    profile, deployment = _take(Machine(), open_ms=1500.0, seconds=30.0)
    assert 9 <= len(profile.table.filters) < len(filter_levels(SHAPE.filters))
    assert profile.table.filters[-1] == SHAPE.filters
    assert profile.seconds < 90
    assert deployment.built.count(SHAPE.dense) == 1, "one pass only"


def test_a_rough_profile_times_fewer_structures_and_still_predicts() -> None:
    (fine, many), (rough, few) = (_take(Machine(noise=0.02), rough=rough, seed=4) for rough in (False, True))
    assert len(few.built) < 0.7 * len(many.built)
    assert (rough.table.heads[0], rough.table.heads[-1]) == (0, SHAPE.heads)
    assert (rough.table.filters[0], rough.table.filters[-1]) == (0, SHAPE.filters)
    assert 0 < len(rough.check) < len(fine.check)
    assert rough.table.dense_ms == pytest.approx(few.table.dense_ms, rel=0.05)
    assert rough.median_error is not None and rough.median_error < 0.05


def test_where_sessions_are_slow_to_open_there_still_is_time_to_time_them() -> None:
    """A pass of opening takes all of the time given here, and more; calls take milliseconds."""
    machine = Machine()
    profile, deployment = _take(machine, open_ms=600.0, seconds=15.0)
    opening = 0.6 * len(deployment.built)
    assert opening > 15.0
    assert 0.4 * 15.0 < profile.seconds - opening < 15.0


@pytest.mark.parametrize("seed", range(2))
def test_where_structures_are_compiled_few_are_and_the_table_has_widths_between(seed: int) -> None:
    machine = Machine(seed=seed)
    deployment = Deployment(machine, planted_table(), open_ms=15_000.0)
    profile = take_profile(
        ModelSource(deployment.build, deployment.open, {}, slow=True),
        Workload(SHAPE, load_target("cpu"), batch_size=1, seq_len=64),
        seconds=30.0,
        clock=machine,
        seed=seed,
    )
    assert len(deployment.built) <= 21 and len(profile.check) == 4
    # A search may choose widths that were not measured.
    assert profile.table.heads == tuple(range(SHAPE.heads + 1))
    assert set(filter_levels(SHAPE.filters)) <= set(profile.table.filters)
    errors = [abs(profile.table.predict(w) / deployment.table.predict(w) - 1) for w in set(deployment.built)]
    assert np.median(errors) < 0.02
    # There is time for timing on top of what compiling takes.
    assert 10.0 < profile.seconds - 15.0 * len(deployment.built) < 60.0


def test_a_first_compilation_that_takes_long_does_not_prolong_the_timing() -> None:
    machine = Machine()
    deployment = Deployment(machine, planted_table(), open_ms=60_000.0)
    first = deployment.open

    def opened(model: bytes) -> SimulatedSession:
        session = first(model)
        deployment.open_ms = 1_000.0
        return session

    profile = take_profile(
        ModelSource(deployment.build, opened, {}, slow=True),
        Workload(SHAPE, load_target("cpu"), batch_size=1, seq_len=64),
        seconds=12.0,
        clock=machine,
    )
    assert 10.0 < profile.seconds - 60.0 - (len(deployment.built) - 1) < 30.0


def test_few_sessions_are_open_at_once_and_none_is_left() -> None:
    SimulatedSession.most_open = 0
    _take(Machine())
    assert SimulatedSession.open_now == 0
    assert SimulatedSession.most_open <= 7


def test_sessions_are_closed_when_a_model_does_not_load() -> None:
    machine = Machine()
    deployment = Deployment(machine, planted_table())
    opened = 0

    def breaks(model: bytes) -> SimulatedSession:
        nonlocal opened
        opened += 1
        if opened == 5:
            raise RuntimeError("out of memory")
        return deployment.open(model)

    with pytest.raises(RuntimeError, match="out of memory"):
        take_profile(
            ModelSource(deployment.build, breaks, {}),
            Workload(SHAPE, load_target("cpu"), batch_size=1, seq_len=64),
            clock=machine,
        )
    assert SimulatedSession.open_now == 0


def test_same_seed_same_structures_other_seed_others() -> None:
    profiles = [_take(Machine(), seed=seed)[0] for seed in (1, 1, 2)]
    structures = [[(check.heads, check.filters) for check in profile.check] for profile in profiles]
    assert structures[0] == structures[1] != structures[2]
    assert profiles[0].table == profiles[1].table


def test_progress_is_told() -> None:
    said: list[str] = []
    _take(Machine(), progress=said.append)
    assert "structures" in said[0]
    assert said[-1] == "100% timed"


@pytest.mark.parametrize("heads", [1, 2])
def test_smallest_encoders(heads: int) -> None:
    shape = EncoderShape("bert", layers=1, hidden_size=8, heads=heads, head_size=8, filters=8)
    profile, deployment = _take(Machine(), shape=shape, seconds=5.0)
    assert profile.table.dense_ms == pytest.approx(deployment.table.dense_ms, rel=0.05)


def test_real_sessions_of_a_real_graph() -> None:
    """The pieces fit together on ONNX Runtime; how long anything takes is not looked at."""
    pytest.importorskip("onnxruntime")
    from compress.export.runtime import open_session
    from support.encoder_graph import encoder_graph

    shape = EncoderShape("bert", layers=2, hidden_size=16, heads=2, head_size=8, filters=32)
    target = load_target("cpu").model_copy(update={"threads": 1})
    feed = {"input_ids": np.arange(8, dtype=np.int64)[None]}
    profile = take_profile(
        ModelSource(lambda widths: encoder_graph(shape, widths), lambda model: open_session(model, target), feed),
        Workload(shape, target, batch_size=1, seq_len=8),
        seconds=1.0,
    )
    assert profile.table.dense_ms > 0
    assert profile.device["threads"] == 1
    assert len(profile.check) == 8
    assert Profile.from_json(profile.to_json()) == profile
