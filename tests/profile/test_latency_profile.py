"""Profiles as files: the round trip is exact, and no damage gets past as anything but a ProfileError."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ProfileError
from compress.core.plan import Widths
from compress.profile.take import Profile, fit_piecewise, recalibrate
from compress.profile.target import load_target
from support.profiles import PROFILE, a_profile
from support.simulated_machine import SHAPE


def test_round_trip_is_exact() -> None:
    assert Profile.from_json(PROFILE.to_json()) == PROFILE
    assert Profile.from_json(PROFILE.to_json()).to_json() == PROFILE.to_json()


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6), st.text(max_size=30), st.integers(1, 10**6))
def test_round_trip_of_any_values(scale: float, seconds: float, target: str, seq_len: int) -> None:
    table = PROFILE.table.recalibrated(SHAPE.dense, scale)
    profile = a_profile(seconds=seconds, target=target, seq_len=seq_len).with_table(table)
    assert Profile.from_json(profile.to_json()) == profile


def test_files_and_artifact_directories(tmp_path: Path) -> None:
    PROFILE.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json") == Profile.read(tmp_path) == PROFILE
    with pytest.raises(ProfileError, match=r"there is no profile .*missing\.json"):
        Profile.read(tmp_path / "missing.json")
    with pytest.raises(ProfileError, match="cannot write"):
        PROFILE.write(tmp_path / "no" / "folder.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="cannot read"):
        Profile.read(tmp_path / "binary.json")
    (tmp_path / "cut.json").write_text(PROFILE.to_json()[:200])
    with pytest.raises(ProfileError, match=r"cut\.json"):
        Profile.read(tmp_path / "cut.json")


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += _places(value, (*path, key))
    return found


_PLACES = _places(json.loads(PROFILE.to_json()))
_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.sampled_from(_PLACES), _JUNK, st.booleans())
def test_damage_anywhere_is_a_profile_error_or_still_a_profile(place: tuple[Any, ...], junk: Any, drop: bool) -> None:
    raw = json.loads(PROFILE.to_json())
    parent = raw
    for key in place[:-1]:
        parent = parent[key]
    if drop:
        del parent[place[-1]]
    else:
        parent[place[-1]] = junk
    try:
        read = Profile.from_json(json.dumps(raw))
    except ProfileError as error:
        assert "compress profile" in str(error)
        return
    # What is still accepted is a whole profile: usable, and written as it was read.
    assert read.table.dense_ms >= read.table.predict(SHAPE.dense) - 1e-9
    assert Profile.from_json(read.to_json()) == read


@given(st.integers(0, len(PROFILE.to_json()) - 2))
def test_cut_short(length: int) -> None:
    with pytest.raises(ProfileError):
        Profile.from_json(PROFILE.to_json()[:length])


@given(st.text(max_size=60))
def test_any_other_text(text: str) -> None:
    with pytest.raises(ProfileError):
        Profile.from_json(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{}", '{"format": 2}', '{"format": true}', "1" * 5000])
def test_other_json(text: str) -> None:
    with pytest.raises(ProfileError):
        Profile.from_json(text)


def test_messages_name_the_place() -> None:
    raw = json.loads(PROFILE.to_json())
    raw["table"]["fixed_ms"] = "fast"
    with pytest.raises(ProfileError, match=r"table\.fixed_ms"):
        Profile.from_json(json.dumps(raw))
    raw = json.loads(PROFILE.to_json()) | {"format": 7}
    with pytest.raises(ProfileError, match="format 7, this version of compress reads format 1"):
        Profile.from_json(json.dumps(raw))


def test_matches_names_what_differs() -> None:
    cpu = load_target("cpu")
    PROFILE.matches(SHAPE, 1, 64, cpu)
    for case, words in (
        ((replace(SHAPE, filters=512), 1, 64, cpu), "filters 256, not 512"),
        ((SHAPE, 8, 64, cpu), "batch size 1, not 8"),
        ((SHAPE, 1, 128, cpu), "length 64, not 128"),
        ((SHAPE, 1, 64, cpu.model_copy(update={"name": "edge"})), "target cpu, not edge"),
        ((replace(SHAPE, model_type="distilbert"), 1, 64, cpu), "model type bert, not distilbert"),
    ):
        with pytest.raises(ProfileError, match=words):
            PROFILE.matches(*case)


def test_a_table_of_another_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="the encoder has others"):
        a_profile(shape=replace(SHAPE, layers=5))


def test_median_error() -> None:
    assert PROFILE.median_error == 0.03
    assert a_profile(check=PROFILE.check[:2]).median_error == pytest.approx(0.06)
    assert a_profile(check=()).median_error is None


def test_recalibrated_profile_predicts_the_measurement_and_fits_again() -> None:
    widths = Widths((1, 2, 3, 4), (8, 0, 256, 64))
    predicted = PROFILE.table.predict(widths)
    corrected = recalibrate(PROFILE, widths, predicted * 1.05)
    assert corrected.table.predict(widths) == pytest.approx(predicted * 1.05)
    assert corrected.table.dense_ms == pytest.approx(PROFILE.table.dense_ms)
    assert corrected.ffn_fit == fit_piecewise(corrected.table.filters, corrected.table.ffn_ms)
    assert Profile.from_json(corrected.to_json()) == corrected
