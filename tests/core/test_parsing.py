"""Limits on what is parsed: everything that is no small, shallow, regular document ends in words, at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.parsing import (
    MOST_DEPTH,
    MOST_JSON_BYTES,
    Missing,
    Unreadable,
    parse_json,
    parse_toml,
    printable,
    read_text,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_that_is_small_and_shallow_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[NaN]", "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "nested"),
        ("[" * 1_000_000, "nested"),
        ('{"a":' * 5_000, "nested"),
        ("9" * 10_000, "not JSON"),
        ("[1", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_that_is_none(text: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        parse_json(text)


def test_json_as_deep_as_allowed() -> None:
    parse_json("[" * MOST_DEPTH + "]" * MOST_DEPTH)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a." * 20_000 + "a = 1", "nested"),
        ("[" + "a." * 300 + "a]", "nested"),
        ("a = " + "[" * 10_000, "nested"),
        ("a = " + "{b = " * 10_000, "nested"),
        ("a = " + "9" * 5_000, "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
        ("a = 1\n" + "# " + "x" * 70_000, "longer"),
    ],
)
def test_toml_that_is_none(text: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        parse_toml(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        read_text(tmp_path / "nothing")
    with pytest.raises(Unreadable, match=r"directory|regular"):
        read_text(tmp_path)
    with pytest.raises(Unreadable, match="null"):
        read_text(tmp_path / "a\0b")
    with pytest.raises(Unreadable, match="too long"):
        read_text(tmp_path / ("x" * 300))
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(Unreadable, match=r"not UTF-8 text: .* at byte 3"):
        read_text(tmp_path / "latin")
    with pytest.raises(Unreadable, match="not a regular file"):
        read_text(Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="not a regular file"):
        read_text(tmp_path / "pipe")


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(Unreadable, match=f"larger than {MOST_JSON_BYTES // 2**20} MB"):
        read_text(tmp_path / "sparse")


def test_a_terminal_cannot_be_steered() -> None:
    assert printable("plain – Größe") == "plain – Größe"
    assert printable("\x1b[2Jgone\n\udcff") == "\\x1b[2Jgone\\n\\udcff"
