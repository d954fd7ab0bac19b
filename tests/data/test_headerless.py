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
