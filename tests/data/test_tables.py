"""Files: what is in them comes out unchanged, and damage is named with its place."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.tables import read_file, read_table
from support.data import write_rows


def read(directory: Path, name: str, content: bytes | str) -> dict[str, list[Any]]:
    file = directory / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns: dict[str, list[Any]] = read_table(file).to_pydict()
    return columns


def refusal(directory: Path, name: str, content: bytes | str) -> str:
    with pytest.raises(DataError) as caught:
        read(directory, name, content)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_every_format_gives_the_rows(data_file: Path, rows: list[dict[str, Any]]) -> None:
    table = read_table(data_file)
    assert table.column("text").to_pylist() == [row["text"] for row in rows]
    assert [int(label) for label in table.column("label").to_pylist()] == [row["label"] for row in rows]


def test_fields_stay_as_they_are_in_the_file(tmp_path: Path) -> None:
    texts = ["007", "NA", "null", "", "1e5", "2020-01-01", "True", "3.0"]
    columns = read(tmp_path, "a.csv", "text,label\n" + "".join(f"{text},1\n" for text in texts))
    assert columns == {"text": texts, "label": ["1"] * len(texts)}


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    columns = read(tmp_path, "a.tsv", 'label\tsentence\n0\t"the film\n1\tsaid " twice ""\n')
    assert columns == {"label": ["0", "1"], "sentence": ['"the film', 'said " twice ""']}


@pytest.mark.parametrize(
    "rows",
    [
        [('say "so"', "1"), ("plain", "0")],
        [("a\ttab", "1"), ("plain", "0")],
        [("two\nlines", "1"), ('""', "0")],
    ],
)
def test_tsv_that_a_program_has_quoted(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("text", "label"), *rows])
    found = read_file(tmp_path / "a.tsv")
    assert [tuple(row.values()) for row in found.table.to_pylist()] == rows
    assert "with quotes around its fields" in found.notes[0]


def test_windows_files(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\r\ngood,1\r\n") == {"text": ["good"], "label": ["1"]}
    assert read(tmp_path, "a.tsv", b"\xef\xbb\xbftext\tlabel\r\ngood\t1\r\n") == {"text": ["good"], "label": ["1"]}
    assert read(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "good"}\r\n') == {"text": ["good"]}


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20))
@example([("", "")])
@example([("a\r\nb", 'q"')])
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *cells])
    columns = read(tmp_path_factory.getbasetemp(), "round.csv", stream.getvalue())
    assert list(zip(columns["text"], columns["label"], strict=True)) == cells


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.none() | st.integers() | st.text() | st.floats(allow_nan=False) | st.lists(st.integers()),
            min_size=1,
        ),
        min_size=1,
    )
)
def test_json_lines_of_any_shape_are_read(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    columns = read(tmp_path_factory.getbasetemp(), "any.jsonl", lines)
    assert set(columns) == {name for row in rows for name in row}
    assert all(len(values) == len(rows) for values in columns.values())


@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    file = tmp_path_factory.getbasetemp() / f"noise{suffix}"
    file.write_bytes(content)
    try:
        read_table(file)
    except DataError as error:
        assert "noise" in str(error)


def test_json_of_several_types(tmp_path: Path) -> None:
    columns = read(tmp_path, "a.jsonl", '{"label": 0, "n": 1}\n\n{"label": "good", "more": [1]}\n')
    assert columns == {"label": ["0", "good"], "n": [1, None], "more": [None, [1]]}
    assert read(tmp_path, "a.json", '[{"text": "good"},\n {"text": "\\ud800"}]')["text"] == ["good", "?"]


def test_parquet_categories_and_index(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    labels = pa.array(["good", "bad", "good"]).dictionary_encode()
    table = pa.table({"label": labels, "__index_level_0__": [0, 1, 2]})
    # A folder that looks like a partition of a larger table adds no column.
    (tmp_path / "label=1").mkdir()
    parquet.write_table(table, tmp_path / "label=1" / "a.parquet")
    assert read_table(tmp_path / "label=1" / "a.parquet").to_pydict() == {"label": ["good", "bad", "good"]}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_empty_file(tmp_path: Path, suffix: str) -> None:
    assert "is empty" in refusal(tmp_path, f"a{suffix}", "")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings(tmp_path: Path, suffix: str, encoding: str) -> None:
    lines = '{"text": "caf\u00e9"}\n' if suffix.startswith(".json") else "text\nplain\ncaf\u00e9\n"
    if encoding in ("utf-16", "utf-32"):
        # With a byte order mark, which names the encoding.
        assert read(tmp_path, f"a{suffix}", lines.encode(encoding))["text"][-1] == "caf\u00e9"
        return
    message = refusal(tmp_path, f"a{suffix}", lines.encode(encoding))
    assert "not UTF-8" in message and "iconv" in message
    if encoding == "latin-1":
        assert f"byte 0xe9 in line {1 if suffix.startswith('.json') else 3}" in message


def test_wrong_encoding_far_down(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a.csv", b"text,label\n" + b"plain,1\n" * 5000 + b"caf\xe9,0\n")
    assert "not UTF-8" in message and "byte 0xe9 in line 5002" in message


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", "text,label\na,1\nb,c,2\n", "Row #3"),
        ("a.tsv", "text\tlabel\na\t1\nb\n", "Row #3"),
        ("a.csv", 'text,label\n"a,1\n', "Row #2"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2"),
        ("a.jsonl", '{"text": "a"}\n["a"]\n', "row 2"),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 100_000 + "\n", "line 2"),
        ("a.json", '[{"text": "a"}, 3]', "row 2"),
        ("a.json", '[{"text": "a"},', "JSON"),
        ("a.json", '{\n "text": "a"\n}', "line 1"),
    ],
)
def test_malformed(tmp_path: Path, name: str, content: str, place: str) -> None:
    assert place in refusal(tmp_path, name, content)


@pytest.mark.parametrize("kept", [3, 20, -1, -10])
def test_truncated_parquet(tmp_path: Path, rows: list[dict[str, Any]], kept: int) -> None:
    whole = write_rows(tmp_path / "whole.parquet", rows).read_bytes()
    assert "parquet" in refusal(tmp_path, "a.parquet", whole[:kept])


def test_unknown_type(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a.xlsx", "PK")
    assert "'.xlsx'" in message and ".csv" in message


def test_upper_case_type(tmp_path: Path) -> None:
    assert read(tmp_path, "A.CSV", "text\ngood\n") == {"text": ["good"]}


def test_long_rows(tmp_path: Path) -> None:
    text = "word " * 500_000
    assert read(tmp_path, "a.csv", f"text,label\n{text},1\nshort,0\n")["text"] == [text, "short"]
