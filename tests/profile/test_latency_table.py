"""Latency tables: exact where measured, never falling, recalibrated to what was measured; fits find planted knees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ProfileError
from compress.core.plan import EncoderShape, Widths
from compress.profile.latency_table import (
    LatencyTable,
    Observation,
    PiecewiseLinear,
    filter_levels,
    fit_piecewise,
    fit_table,
)
from support.simulated_machine import SHAPE, planted_table

TABLE = planted_table()


@st.composite
def structures(draw: st.DrawFn) -> Widths:
    def some(most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(0, most)) for _ in range(SHAPE.layers))

    return Widths(some(SHAPE.heads), some(SHAPE.filters))


def test_exact_at_measured_widths_linear_between_and_zero_at_zero() -> None:
    table = LatencyTable(2, (0, 2), (0.0, 1.0), (0, 8, 16), (0.0, 1.0, 3.0), 0.5)
    assert [table.ffn_at(f) for f in (0, 8, 16)] == [0.0, 1.0, 3.0]
    assert table.ffn_at(12) == 2.0
    assert table.attention_at(1) == 0.5
    assert table.predict(Widths((2, 0), (16, 8))) == pytest.approx(0.5 + 1.0 + 3.0 + 1.0)
    assert table.predict(Widths((0, 0), (0, 0))) == table.least_ms == 0.5
    assert table.predict(Widths((2, 2), (16, 16))) == table.dense_ms == 8.5


@given(structures(), structures())
def test_a_wider_structure_never_costs_less(one: Widths, other: Widths) -> None:
    both = Widths(
        tuple(map(max, zip(one.heads, other.heads, strict=True))),
        tuple(map(max, zip(one.filters, other.filters, strict=True))),
    )
    assert TABLE.predict(one) <= TABLE.predict(both) + 1e-12 <= TABLE.dense_ms + 1e-9


@pytest.mark.parametrize("widths", [Widths((5,) * 4, (0,) * 4), Widths((0,) * 4, (-1,) * 4), Widths((0,), (0,))])
def test_structures_the_table_does_not_know(widths: Widths) -> None:
    with pytest.raises(ProfileError):
        TABLE.predict(widths)


@pytest.mark.parametrize(
    "changed",
    [
        {"heads": (0, 1, 3, 2, 4)},
        {"heads": (0, 1, 2)},
        {"heads": (1, 2, 3, 4, 5)},
        {"attention_ms": (0.1, 0.2, 0.2, 0.3, 0.4)},
        {"attention_ms": (0.0, 0.2, 0.1, 0.3, 0.4)},
        {"attention_ms": (0.0, 0.2, 0.2, 0.3, float("nan"))},
        {"attention_ms": (0.0, 0.2, 0.2, 0.3, float("inf"))},
        {"fixed_ms": -1.0},
        {"fixed_ms": float("nan")},
        {"layers": 0},
    ],
)
def test_tables_that_contradict_themselves_cannot_be_made(changed: dict) -> None:
    with pytest.raises(ValueError):
        LatencyTable(**{**TABLE.__dict__, **changed})


@given(st.integers(1, 20_000))
def test_filter_levels_suit_any_width(filters: int) -> None:
    levels = filter_levels(filters)
    assert levels[0] == 0
    assert levels[-1] == filters
    assert list(levels) == sorted(set(levels))
    assert len(levels) <= 41
    assert all(level % 8 == 0 for level in levels[:-1])


@pytest.mark.parametrize("filters", [1536, 2048, 3072, 4096])
def test_about_forty_levels_closer_together_where_narrow(filters: int) -> None:
    levels = filter_levels(filters)
    assert 30 <= len(levels) <= 41
    steps = np.diff(levels)
    assert steps[0] == min(steps)
    assert sum(level <= filters / 4 for level in levels) >= 12


# --- the paper's fit --------------------------------------------------------------------------------------------------


@given(st.integers(0, 18), st.floats(0.01, 10.0), st.floats(0.001, 5.0))
def test_planted_knee_is_recovered(place: int, base: float, slope: float) -> None:
    widths = [0, *range(8, 168, 8)]
    planted = PiecewiseLinear(widths[1 + place], base, slope)
    fit = fit_piecewise(widths, [planted(width) for width in widths])
    assert fit.knee == planted.knee
    assert fit.base_ms == pytest.approx(base)
    assert fit.slope_ms == pytest.approx(slope)


def test_planted_knee_is_recovered_from_noise() -> None:
    widths, planted = list(range(13)), PiecewiseLinear(4, 1.0, 0.2)
    noise = np.random.default_rng(0).normal(0, 0.01, size=13)
    fit = fit_piecewise(widths, [planted(width) + e for width, e in zip(widths, noise, strict=True)])
    assert abs(fit.knee - 4) <= 1
    assert fit.slope_ms == pytest.approx(0.2, rel=0.1)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=20))
def test_any_curve_has_a_fit_that_does_not_fall(ms: list[float]) -> None:
    widths = list(range(len(ms)))
    fit = fit_piecewise(widths, ms)
    assert 1 <= fit.knee <= widths[-1]
    assert fit.slope_ms >= 0
    assert fit(0) == 0
    assert fit(fit.knee) == fit.base_ms


def test_a_single_width_is_flat() -> None:
    assert fit_piecewise([0, 1], [0.0, 3.0]) == PiecewiseLinear(1, 3.0, 0.0)
    with pytest.raises(ValueError):
        fit_piecewise([0], [0.0])


# --- fitting the table ------------------------------------------------------------------------------------------------


def _observations(noise: float, visit_error: float, seed: int = 0, planted: LatencyTable = TABLE) -> list[Observation]:
    """Uniform structures of both kinds and some mixed ones, in visits of six with an error of their own."""
    random = np.random.default_rng(seed)
    layers, middle = planted.layers, (2, 128)
    shapes = [Widths((h,) * layers, (middle[1],) * layers) for h in planted.heads]
    shapes += [Widths((middle[0],) * layers, (f,) * layers) for f in planted.filters]
    shapes += [
        Widths(
            tuple(random.choice(planted.heads, layers).tolist()), tuple(random.choice(planted.filters, layers).tolist())
        )
        for _ in range(6)
    ]
    shapes = [shapes[i] for _ in range(2) for i in random.permutation(len(shapes))]
    errors = np.exp(random.normal(0, visit_error, size=len(shapes) // 6 + 1))
    return [
        Observation(
            widths,
            float(planted.predict(widths) * errors[i // 6] * np.exp(random.normal(0, noise))),
            max(noise, 1e-3),
            i // 6,
        )
        for i, widths in enumerate(shapes)
    ]


def _worst_error(table: LatencyTable, planted: LatencyTable = TABLE) -> float:
    random = np.random.default_rng(99)
    errors = []
    for _ in range(50):
        widths = Widths(
            tuple(random.choice(planted.heads, planted.layers).tolist()),
            tuple(random.choice(planted.filters, planted.layers).tolist()),
        )
        errors.append(abs(table.predict(widths) / planted.predict(widths) - 1))
    return max(errors)


def test_without_noise_the_planted_table_comes_back() -> None:
    table, factors = fit_table(SHAPE, TABLE.heads, TABLE.filters, _observations(0.0, 0.0))
    assert _worst_error(table) < 0.01
    assert table.attention_ms == pytest.approx(TABLE.attention_ms, abs=0.02)
    assert table.ffn_ms == pytest.approx(TABLE.ffn_ms, abs=0.04)
    assert factors == pytest.approx(np.ones(len(factors)), abs=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_errors_of_whole_visits_average_out(seed: int) -> None:
    table, _ = fit_table(SHAPE, TABLE.heads, TABLE.filters, _observations(0.03, 0.08, seed))
    assert _worst_error(table) < 0.08


def test_an_outlier_does_no_harm() -> None:
    seen = _observations(0.01, 0.0)
    for i in (3, 30):
        seen[i] = Observation(seen[i].widths, 5 * seen[i].ms, seen[i].spread, seen[i].visit)
    table, _ = fit_table(SHAPE, TABLE.heads, TABLE.filters, seen)
    assert _worst_error(table) < 0.05


@given(st.integers(0, 2**31))
def test_whatever_was_measured_the_curves_never_fall(seed: int) -> None:
    random = np.random.default_rng(seed)
    seen = [
        Observation(o.widths, float(random.uniform(0.1, 10)), float(random.uniform(0, 0.5)), o.visit)
        for o in _observations(0.0, 0.0)
    ]
    table, factors = fit_table(SHAPE, TABLE.heads, TABLE.filters, seen, bare_ms=0.5)
    assert (np.diff(table.attention_ms) >= 0).all()
    assert (np.diff(table.ffn_ms) >= 0).all()
    assert np.isfinite(factors).all()


def test_a_bare_model_hints_at_the_fixed_part_only_where_data_leave_it_open() -> None:
    seen = _observations(0.0, 0.0)
    hinted, _ = fit_table(SHAPE, TABLE.heads, TABLE.filters, seen, bare_ms=TABLE.fixed_ms * 5)
    assert hinted.fixed_ms == pytest.approx(TABLE.fixed_ms, rel=0.05)


def test_smallest_encoder() -> None:
    shape = EncoderShape("bert", layers=1, hidden_size=8, heads=1, head_size=8, filters=8)
    planted = LatencyTable(1, (0, 1), (0.0, 0.5), (0, 8), (0.0, 0.7), 0.2)
    seen = [
        Observation(Widths((h,), (f,)), planted.predict(Widths((h,), (f,))), 0.01, 0)
        for h, f in ((0, 8), (1, 0), (1, 8))
    ]
    table, _ = fit_table(shape, (0, 1), (0, 8), seen)
    assert table.dense_ms == pytest.approx(1.4, rel=0.01)


# --- recalibration ----------------------------------------------------------------------------------------------------


@given(structures(), st.floats(0.3, 3.0), st.none() | st.floats(1.0, 50.0))
def test_recalibrated_predicts_what_was_measured(widths: Widths, factor: float, dense_ms: float | None) -> None:
    measured = TABLE.predict(widths) * factor
    assert TABLE.recalibrated(widths, measured, dense_ms).predict(widths) == pytest.approx(measured, rel=1e-6)


@given(structures(), st.floats(0.9, 1.1))
def test_recalibrated_keeps_the_dense_latency_where_it_can(widths: Widths, factor: float) -> None:
    inner = any(0 < h < SHAPE.heads for h in widths.heads) and any(40 <= f <= 200 for f in widths.filters)
    if inner and sum(40 <= f <= 200 for f in widths.filters) >= 3:
        table = TABLE.recalibrated(widths, TABLE.predict(widths) * factor)
        assert table.dense_ms == pytest.approx(TABLE.dense_ms)
        assert table.fixed_ms == TABLE.fixed_ms
    given_dense = TABLE.recalibrated(SHAPE.dense, 20.0, dense_ms=20.0)
    assert given_dense.dense_ms == pytest.approx(20.0)


@pytest.mark.parametrize("measured", [0.0, -1.0, float("nan"), float("inf")])
def test_recalibration_refuses_what_no_clock_gives(measured: float) -> None:
    with pytest.raises(ProfileError):
        TABLE.recalibrated(SHAPE.dense, measured)
