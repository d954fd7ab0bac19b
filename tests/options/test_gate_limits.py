"""How limits are written: every unit but the right one is refused, with what to write instead."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ConfigError
from compress.options.gate_limits import KINDS, MAX_AGE_DAYS, Gate, merged, parse, read_gate

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("name", "written", "value", "percent", "of"),
    [
        ("max_size_mb", 20, 20.0, False, None),
        ("max_size_mb", "20MB", 20.0, False, None),
        ("max_size_mb", "102.5 % of baseline", 102.5, True, "baseline"),
        ("max_size_mb", "60%", 60.0, True, "dense"),
        ("max_latency_ms", " 5 ms ", 5.0, False, None),
        ("max_latency_ms", "105 % of the baseline", 105.0, True, "baseline"),
        ("min_speedup", "2x", 2.0, False, None),
        ("min_speedup", "95 % of baseline", 95.0, True, "baseline"),
        ("min_accuracy", ".9", 0.9, False, None),
        ("min_accuracy", "99 % of dense", 99.0, True, "dense"),
        ("max_drop", 0, 0.0, False, "dense"),
        ("max_drop", "1e-2 against baseline", 0.01, False, "baseline"),
        ("max_drop", "1 %", 1.0, True, "dense"),
        ("max_macs", 0.5, 0.5, False, None),
        ("max_parity", "0.001", 0.001, False, None),
        ("max_batch_drift", 0, 0.0, False, None),
        ("max_batch_drift", "1e-3", 0.001, False, None),
    ],
)
def test_what_can_be_written(name: str, written: Any, value: float, percent: bool, of: str | None) -> None:
    (limit,) = parse(KINDS[name], written)
    assert (limit.value, limit.percent, limit.of) == (value, percent, of)
    assert parse(KINDS[name], str(limit)) == (limit,)


@pytest.mark.parametrize(
    ("name", "written", "words"),
    [
        ("max_size_mb", "20 ms", "another unit: it is in MB"),
        ("max_size_mb", "20 kB", "20 kB is 0.02"),
        ("max_size_mb", 50_000_000, "looks like another unit"),
        ("max_size_mb", 0, "looks like another unit"),
        ("max_size_mb", -3, "looks like another unit"),
        ("max_size_mb", "20 of baseline", "only a percentage is of something"),
        ("max_latency_ms", "5 s", "2 s is 2000"),
        ("max_latency_ms", "nan", "is not a limit"),
        ("max_latency_ms", "1e999", "looks like another unit"),
        ("max_latency_ms", "5 % of last week", "is not a limit"),
        ("min_speedup", "50 %", "of baseline"),
        ("min_speedup", "50 % of dense", "of baseline"),
        ("min_accuracy", 90, "90.5 points are 0.905"),
        ("min_accuracy", "90 %", "can be read in two ways"),
        ("max_drop", 2, "1.5 points are 0.015"),
        ("max_drop", "1 point", "a bare number, or a percentage"),
        ("max_macs", 1.5, "a half is 0.5"),
        ("max_parity", "1 %", "takes no percentage"),
        ("max_latency_ms", "0 %", "not a sensible percentage"),
        ("max_latency_ms", "-5 % of baseline", "not a sensible percentage"),
        ("max_latency_ms", True, "must be a number"),
        ("max_latency_ms", [], "empty list"),
        ("max_latency_ms", {"model.onnx": 3}, "not a table"),
        ("max_file_size_mb", "60 %", "of baseline"),
        ("max_latency_ms", "", "is not a limit"),
    ],
)
def test_what_cannot(name: str, written: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(KINDS[name], written)
    with pytest.raises(ConfigError, match=f"{name} in 'compress.toml'|{words}"):
        parse(KINDS[name], written, "'compress.toml'")


@given(st.sampled_from(sorted(KINDS)), ANYTHING)
def test_anything_is_limits_or_a_config_error(name: str, written: Any) -> None:
    try:
        limits = parse(KINDS[name], written)
    except ConfigError:
        return
    assert limits and all(limit.kind.name == name for limit in limits)


@given(ANYTHING)
def test_any_table_is_a_gate_or_a_config_error(table: Any) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(read_gate(table, "x"), Gate)


def test_limits_by_file() -> None:
    kind = KINDS["max_file_size_mb"]
    assert [(limit.file, limit.value) for limit in parse(kind, {"a": 1, "b/c": "2 MB"})] == [("a", 1.0), ("b/c", 2.0)]
    assert [(limit.file, limit.value) for limit in parse(kind, ["3", "a=1"])] == [(None, 3.0), ("a", 1.0)]


def test_settings() -> None:
    gate = read_gate({"max_age_days": 3, "device": "EPYC"}, "x")
    assert (gate.max_age_days, gate.device) == (3.0, "EPYC")
    assert read_gate({}, "x") == Gate(max_age_days=MAX_AGE_DAYS)
    for wrong in ({"max_age_days": 0}, {"max_age_days": "3"}, {"max_age_days": True}, {"device": ""}, {"device": 3}):
        with pytest.raises(ConfigError, match="must be"):
            read_gate(wrong, "x")
    with pytest.raises(ConfigError, match="Did you mean 'max_size_mb'"):
        read_gate({"max_sise_mb": 3}, "x")
    with pytest.raises(ConfigError, match="Write 'max_size_mb'"):
        read_gate({"max-size-mb": 3}, "x")


def test_a_limit_of_the_command_line_replaces_the_files_of_its_kind() -> None:
    file = read_gate({"max_size_mb": [20, "102 % of baseline"], "max_drop": 0.01, "max_age_days": 3}, "file")
    given_ = {"max_size_mb": ["50"], "min_speedup": ("2",)}
    gate = merged(read_gate(given_, "command line"), file, given_)
    assert [str(limit) for limit in gate.limits] == ["50 MB", "2 x", "0.01 against dense"]
    assert gate.max_age_days == 3
