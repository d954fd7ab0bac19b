"""Files without a header: recognised by their first row, read as they come; anything else has its header."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.errors import DataError
from compress.data.headerless import STS, known_columns
from compress.data.tables import read_table

ROW = ["main-captions", "MSRvid", "2012test", "0001", "5.000", 'A "plane" is taking off.', "An air plane."]


def write(path: Path, *rows: list[str]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_sts_benchmark(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "dev.tsv", ROW, [*ROW, "licence", "licence"], [*ROW[:4], "0", "", "Ä"]))
    assert tuple(table.column_names) == STS
    assert table.column("score").to_pylist() == ["5.000", "5.000", "0"]
    assert table.column("sentence1").to_pylist() == ['A "plane" is taking off.'] * 2 + [""]


def test_rows_cut_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2 of .* has 3 fields, expected genre, file"):
        read_table(write(tmp_path / "dev.tsv", ROW, ROW[:3]))


@pytest.mark.parametrize("row", [list(STS), ROW[:6], [*ROW[:4], "6.0", *ROW[5:]], [*ROW[:3], "one", *ROW[4:]]])
def test_other_first_rows_are_headers(row: list[str]) -> None:
    assert known_columns(row, tabs=True) is None
    assert known_columns(ROW, tabs=False) is None and known_columns(ROW, tabs=True) == STS


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_a_line_of_names_makes_a_table_whatever_the_file_is_called(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "train.txt"
    rows = [("good film", "1"), ("bad film", "0")]
    file.write_text("".join(separator.join(row) + "\n" for row in [("text", "label"), *rows]))
    assert read_table_of_texts(file) == {"text": ["good film", "bad film"], "label": ["1", "0"]}


def test_fast_text(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("__label__pos good film\n\n__label__neg bad\n")
    assert read_table_of_texts(file) == {"text": ["good film", "bad"], "label": ["pos", "neg"]}
    file.write_text("__label__pos good film\n__label__neg __label__dull bad\n")
    with pytest.raises(DataError, match=r"line 2 of .* has several labels \(__label__dull is the second\)"):
        read_table_of_texts(file)


def read_table_of_texts(file: Path) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = read_table(file, words=False).to_pydict()
    return columns


def test_fields_of_any_length(tmp_path: Path) -> None:
    """The reader of the standard library has a limit of 131072 characters."""
    table = read_table(write(tmp_path / "cola.tsv", ["gj04", "1", "", "good"], ["gj04", "0", "*", "a" * 200_000]))
    assert [len(text) for text in table.column("sentence").to_pylist()] == [4, 200_000]
