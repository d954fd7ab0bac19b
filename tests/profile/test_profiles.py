"""Laws of profiles of several shapes: files round-trip, older ones load, between lengths lies what is between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ProfileError
from compress.core.plan import EncoderShape, Widths
from compress.profile.latency_profile import Profile
from compress.profile.profiles import Profiles, interpolate
from compress.profile.roofline import estimate_profile
from compress.profile.target import Target, load_target

SHAPE = EncoderShape("bert", 4, 64, 4, 16, 256)
V100 = load_target("v100")


def taken(batch: int, length: int, **changes: Any) -> Profile:
    return replace(estimate_profile(SHAPE, V100, "fp16", batch, length), source="measured", **changes)


GRID = Profiles(tuple(taken(batch, length) for batch in (1, 8) for length in (64, 128, 256)))


def at(profiles: Profiles, batch: int, length: int, target: Target = V100, precision: str | None = None) -> Profile:
    return profiles.at(SHAPE, batch, length, target, precision)


def test_a_file_round_trips_and_one_shape_is_an_ordinary_profile(tmp_path: Path) -> None:
    GRID.write(tmp_path / "v100.json")
    assert Profiles.read(tmp_path / "v100.json") == GRID
    one = Profiles((GRID.taken[0],))
    one.write(tmp_path / "one.json")
    assert Profile.read(tmp_path / "one.json") == GRID.taken[0]
    assert Profiles.read(tmp_path / "one.json") == one


def test_profiles_of_earlier_versions_load() -> None:
    """They had no entry that says what a profile lies between."""
    raw = json.loads(GRID.taken[0].to_json())
    del raw["interpolated"]
    assert Profiles.from_json(json.dumps(raw)).taken == (GRID.taken[0],)


def test_what_was_taken_is_used_as_it_is() -> None:
    for profile in GRID.taken:
        assert at(GRID, profile.batch_size, profile.seq_len) is profile
        assert profile.interpolated is None and profile.origin == "measured"


@given(
    length=st.integers(65, 255),
    batch=st.sampled_from([1, 8]),
    heads=st.tuples(*[st.integers(0, 4)] * 4),
    filters=st.tuples(*[st.integers(0, 256)] * 4),
)
def test_between_two_lengths_it_lies_between_them_and_says_so(
    length: int, batch: int, heads: Any, filters: Any
) -> None:
    found = at(GRID, batch, length)
    if length == 128:
        assert found.interpolated is None
        return
    low, high = (64, 128) if length < 128 else (128, 256)
    assert found.interpolated == (low, high)
    assert (found.seq_len, found.batch_size, found.source) == (length, batch, "measured")
    assert found.origin == "measured, interpolated"
    widths = Widths(heads, filters)
    ends = [at(GRID, batch, end).table.predict(widths) for end in (low, high)]
    assert min(ends) - 1e-9 <= found.table.predict(widths) <= max(ends) + 1e-9
    assert Profile.from_json(found.to_json()) == found


def test_at_either_end_it_is_that_table_and_halfway_the_mean() -> None:
    low, high = at(GRID, 1, 64), at(GRID, 1, 256)
    for end in (low, high):
        assert interpolate(low, high, end.seq_len).table.dense_ms == pytest.approx(end.table.dense_ms)
    middle = interpolate(low, high, 160)
    assert middle.dense_ms == pytest.approx((low.dense_ms + high.dense_ms) / 2)
    assert middle.points == () and middle.check == ()


def test_tables_of_other_widths_meet_at_the_widths_of_both() -> None:
    low, high = at(GRID, 1, 64), at(GRID, 1, 128)
    kept = [i for i in range(len(low.table.filters)) if i % 2 == 0 or i == len(low.table.filters) - 1]
    thinner = replace(
        low.table,
        filters=tuple(low.table.filters[i] for i in kept),
        ffn_ms=tuple(low.table.ffn_ms[i] for i in kept),
    )
    found = interpolate(low.with_table(thinner), high, 96)
    assert found.table.filters == high.table.filters


@pytest.mark.parametrize(
    ("batch", "length", "words"),
    [
        (1, 32, "no batch size 1 at length 32, and lengths are interpolated, not extrapolated"),
        (8, 512, "no batch size 8 at length 512, and lengths are interpolated, not extrapolated"),
        (4, 128, "no batch size 4 at length 128, and batch sizes are not interpolated"),
    ],
)
def test_beyond_what_was_taken_it_is_refused_with_what_there_is(batch: int, length: int, words: str) -> None:
    with pytest.raises(ProfileError, match=words) as caught:
        at(GRID, batch, length)
    assert "batch size 1 at length 64, batch size 1 at length 128" in str(caught.value)
    assert f"--batch-size {batch} --seq-len {length}" in str(caught.value)


def test_another_encoder_target_or_precision_is_refused_with_what_differs() -> None:
    other = replace(SHAPE, hidden_size=128, head_size=32)
    with pytest.raises(ProfileError, match="hidden size 64, not 128; head size 16, not 32"):
        GRID.at(other, 1, 96, V100)
    with pytest.raises(ProfileError, match="target v100, not t4"):
        at(GRID, 1, 96, load_target("t4"))
    with pytest.raises(ProfileError, match="precision fp16, not fp32"):
        at(GRID, 1, 300, precision="fp32")
    with pytest.raises(ProfileError, match="length 64, not 96"):
        at(Profiles((GRID.taken[0],)), 1, 96)


def test_profiles_that_do_not_belong_together_are_no_file() -> None:
    one = GRID.taken[0]
    for other, words in (
        (replace(one, seq_len=99, target="t4"), "differ in their target: v100 and t4"),
        (replace(one, seq_len=99, source="estimated"), "differ in their source"),
        (one, "a batch size and length twice"),
    ):
        with pytest.raises(ProfileError, match=words):
            Profiles((one, other))
    with pytest.raises(ProfileError, match="at least one"):
        Profiles(())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 2, "profiles": []}',
        '{"format": 2, "profiles": [{}]}',
        '{"format": 2, "profiles": {"a": 1}}',
        '{"format": 2, "profiles": [], "more": 1}',
        '{"format": 3, "profiles": []}',
        '{"format": true, "profiles": []}',
    ],
)
def test_anything_else_is_a_profile_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError):
        Profiles.from_json(text)
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ProfileError, match=r"p\.json"):
        Profiles.read(tmp_path / "p.json")


@given(st.text(max_size=60))
def test_any_text_is_at_worst_a_profile_error(text: str) -> None:
    with pytest.raises(ProfileError):
        Profiles.from_json(text)


def test_a_profile_says_what_it_is_of() -> None:
    """Device, driver, runtime, precision, batch, length, hidden size and head width."""
    described = {
        "gpu": "Tesla V100",
        "driver": "535.183.01",
        "compute_capability": "7.0",
        "runtime": "onnxruntime-cuda",
    }
    raw = json.loads(replace(taken(1, 64), device=described).to_json())
    assert described.items() <= raw["device"].items()
    assert (raw["precision"], raw["batch_size"], raw["seq_len"]) == ("fp16", 1, 64)
    assert (raw["shape"]["hidden_size"], raw["shape"]["head_size"]) == (64, 16)
