"""Texts survive: whatever characters are in a text or word come out of every format; only LF, CR LF, CR end a line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.load import load_data
from compress.data.tables import read_table
from compress.data.text_files import split_lines, split_words

ROOT = Path(__file__).resolve().parents[2]
# What Python takes for line ends and blanks, and file formats do not.
ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\xa0\u3000\u2003\u1680"
LETTERS = st.sampled_from("ab#é" + ODD) | st.characters(
    codec="utf-8", exclude_characters="\0\t\n\r\ufeff", exclude_categories=("Cs",)
)
TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=12).filter(lambda text: text.strip(" ")), min_size=1)
WORDS = st.text(LETTERS.filter(lambda c: c != " "), min_size=1, max_size=6).filter(lambda w: w != "-DOCSTART-")
SENTENCES = st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def _read(folder: Path, name: str, content: str | bytes, words: bool | None = None) -> dict[str, list[Any]]:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    columns: dict[str, list[Any]] = read_table(file, words).to_pydict()
    return columns


def _written(texts: list[str], suffix: str, end: str) -> str:
    if suffix == ".txt":
        return "".join(text + end for text in texts)
    if suffix == ".jsonl":
        return "".join(json.dumps({"text": text}, ensure_ascii=False) + end for text in texts)
    if suffix == ".json":
        return json.dumps([{"text": text} for text in texts], ensure_ascii=False, indent=1)
    if suffix == ".tsv":
        return "".join(f"{label}\t{text}{end}" for label, text in [("label", "text"), *((0, text) for text in texts)])
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([["text"], *([text] for text in texts)])
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt"])
@given(texts=TEXTS, end=ENDS)
@example(texts=[f"good{mark}film" for mark in ODD], end="\n")
@example(texts=list(ODD), end="\r\n")
def test_texts_come_back_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, texts: list[str], end: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert _read(folder, f"texts{suffix}", _written(texts, suffix, end), words=False)["text"] == texts


@pytest.mark.parametrize("name", ["words.conll", "words.txt", "words.tsv", "words.iob2", "words"])
@pytest.mark.parametrize("separator", ["\t", " "])
@given(sentences=SENTENCES, end=ENDS)
@example(sentences=[["Alice", mark, "lives"] for mark in ODD], end="\n")
def test_words_come_back_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, name: str, separator: str, sentences: list[list[str]], end: str
) -> None:
    if separator == " " and name.endswith(".tsv"):
        return
    # The first word is plain: a file of words that all begin with # has comments only.
    sentences = [["Paris"], *sentences]
    content = end.join("".join(f"{word}{separator}O{end}" for word in words) for words in sentences)
    assert _read(tmp_path_factory.getbasetemp(), name, content, words=True) == {
        "tokens": sentences,
        "tags": [["O"] * len(words) for words in sentences],
    }


@given(st.lists(st.text(st.sampled_from("ab \t" + ODD), max_size=5)), ENDS)
def test_lines_end_where_they_were_ended(lines: list[str], end: str) -> None:
    assert split_lines("".join(line + end for line in lines)) == lines


def test_words_end_at_ascii_blanks_only() -> None:
    assert split_words(" a\xa0b \t c\u3000\r\n") == ["a\xa0b", "c\u3000"]


def test_no_python_splitting_of_data() -> None:
    """Python's own idea of lines and words must not come back into the rooms that read data."""
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for room in ("data", "tasks")
        for file in sorted((ROOT / "compress" / room).glob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1)
        if re.search(r"\.(splitlines|r?split|[lr]?strip)\(\)", line)
    ]
    assert not found


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".txt"])
@pytest.mark.parametrize("packed", [".gz", ".bz2", ".zst"])
def test_packed_files(tmp_path: Path, suffix: str, packed: str) -> None:
    import pyarrow as pa

    content = _written(["good film", "caf\u00e9"], suffix, "\n").encode()
    if packed == ".zst":
        packed_bytes = bytes(pa.compress(content, codec="zstd", asbytes=True))
    else:
        packed_bytes = gzip.compress(content) if packed == ".gz" else bz2.compress(content)
    name = f"train{suffix}{packed}"
    assert _read(tmp_path, name, packed_bytes)["text"] == ["good film", "caf\u00e9"]
    (tmp_path / "dev.tsv").write_text("label\ttext\n0\tgood\n")
    assert len(load_data(str(tmp_path), "train")) == 2
    with pytest.raises(DataError, match=r"cannot unpack data file .*train"):
        _read(tmp_path, name, packed_bytes[:-5] if packed != ".zst" else b"no zstd")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.csv.xz", "a.parquet.gz"])
def test_archives_are_refused_with_the_command(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="unpack it first: `"):
        _read(tmp_path, name, gzip.compress(b"text\ngood\n"))


def test_packed_latin1_names_byte_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="byte 0xe9 in line 3"):
        _read(tmp_path, "a.csv.gz", gzip.compress(b"text\nplain\ncaf\xe9\n"))


def test_utf16_cut_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="byte order mark of UTF-16LE"):
        _read(tmp_path, "a.csv", "text\ngood\n".encode("utf-16")[:-1])


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", "text;label\ngood, film;1\n", ["text", "label"]),
        ("a.csv", '\ufeff"text";"label"\n"a ; b";1\n', ["text", "label"]),
        ("a.csv", "text|label\ngood|1\n", ["text", "label"]),
        ("a.csv", "text\tlabel\ngood\t1\n", ["text", "label"]),
        ("a.csv", "text;label\rgood;1\r", ["text", "label"]),
        ("a.csv", "sep=;\ntext;label\ngood;1\n", ["text", "label"]),
        ("a.tsv", 'text,label\n"good, film",1\n', ["text", "label"]),
        ("a.tsv", "text;label\ngood;1\n", ["text", "label"]),
        ("a.csv", 'text\n"good; film"\na | b\n', ["text"]),
        ("a.csv", '"text; or so"\n"good; film"\n', ["text; or so"]),
        ("a.csv", "text,label\na;b,1\n", ["text", "label"]),
    ],
)
def test_separators_are_recognised(tmp_path: Path, name: str, content: str, columns: list[str]) -> None:
    found = _read(tmp_path, name, content)
    assert list(found) == columns
    assert len(next(iter(found.values()))) == content.count("\n" if "\n" in content else "\r") - 1 - ("sep=" in content)


def test_lone_quotes_swallow_no_rows(tmp_path: Path) -> None:
    """The files of MRPC have quotes as part of the texts, under any name."""
    rows = ['1\t"He said so', "0\tplain", '1\tended it"', '0\t"']
    for name in ("a.tsv", "a.csv"):
        found = _read(tmp_path, name, "Quality\t#1 String\n" + "".join(row + "\n" for row in rows))
        assert found["#1 String"] == [row.split("\t")[1] for row in rows]


def test_rows_that_do_not_part_are_refused_with_the_separator(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Row #3.*semicolons"):
        _read(tmp_path, "a.csv", "text;label\ngood;1\nbad\n")
