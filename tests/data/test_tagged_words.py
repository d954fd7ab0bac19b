"""A word and its tags per line: every dialect is read as words, and the reader says which column is which."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.errors import DataError
from compress.data.tables import read_file

ALICE = [["Alice", "lives", "in", "Paris"]]
SPANS = [["B-PER", "O", "O", "B-LOC"]]
NAMES = ("train.txt", "train.conll", "train.tsv", "train.iob2", "eng.train")


def _lines(*columns: list[str], separator: str = " ") -> str:
    return "".join(separator.join(fields) + "\n" for fields in zip(*columns, strict=True)) + "\n"


WORDS, TAGS = ALICE[0], SPANS[0]
BLANK = ["_"] * 4
NUMBERS = ["1", "2", "3", "4"]
POS = ["NNP", "VBZ", "IN", "NNP"]


@pytest.mark.parametrize(
    ("sentence", "note"),
    [
        (_lines(WORDS, TAGS), "words are taken from column 1, tags from column 2"),
        (_lines(WORDS, TAGS, separator="\t"), "words are taken from column 1, tags from column 2"),
        (_lines(WORDS, POS, POS, TAGS), "words are taken from column 1, tags from column 4"),
        (_lines(WORDS, BLANK, BLANK, TAGS), "words are taken from column 1, tags from column 4"),
        ("# id 4e0f\tdomain=en\n" + _lines(WORDS, BLANK, BLANK, TAGS), "tags from column 4"),
        ("# id 7\n" + _lines(WORDS, TAGS), "tags from column 2"),
        ("# text = Alice lives\n" + _lines(WORDS, TAGS, separator="\t"), "tags from column 2"),
        ("-DOCSTART- -X- -X- O\n\n" + _lines(WORDS, POS, POS, TAGS), "tags from column 4"),
        (_lines(NUMBERS, WORDS, TAGS), "from column 2, tags from 3; column 1 numbers the words"),
        (
            "#\tsource [2009]\n" + _lines(NUMBERS, WORDS, TAGS, ["O"] * 4, separator="\t"),
            "words are taken from column 2, tags from 3; column 1 numbers the words (--label-column column4",
        ),
        (_lines(WORDS, TAGS, NUMBERS), "words are taken from column 1, tags from 2"),
        (_lines(WORDS, POS, TAGS, BLANK), "tags from 3"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_dialects(tmp_path: Path, name: str, sentence: str, note: str) -> None:
    if name.endswith(".tsv") and "\t" not in sentence.split("\n")[1]:
        return
    file = tmp_path / name
    file.write_text(sentence * 3, encoding="utf-8")
    rows = read_file(file, words=True)
    assert rows.table.column("tokens").to_pylist() == ALICE * 3
    assert rows.table.column("tags").to_pylist() == SPANS * 3
    assert note.replace("tags from column", "tags from") in rows.notes[0]
    assert rows.line is not None
    first = next(i for i, line in enumerate(sentence.split("\n"), start=1) if "Alice" in line and line[0] != "#")
    assert rows.line(0) == first


CONLLU = (
    "# sent_id = 1\n# text = vámonos al mar\n"
    "1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tvamos\tir\tVERB\tV\t_\t0\troot\t_\t{0}\n"
    "2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t{0}\n"
    "2.1\tnada\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "3\t#\t#\tSYM\tS\t_\t1\tpunct\t_\t{1}\n\n"
)


@pytest.mark.parametrize("name", ["es.conllu", "es.conll", "es.txt", "es.tsv"])
def test_conllu(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(CONLLU.format("SpaceAfter=No", "_") * 2, encoding="utf-8")
    rows = read_file(tmp_path / name, words=True)
    table = rows.table.to_pydict()
    assert table["tokens"] == [["vamos", "nos", "#"]] * 2 and table["tags"] == [["VERB", "PRON", "SYM"]] * 2
    assert table["xpos"] == [["V", "P", "S"]] * 2 and "xpos" in rows.notes[0]
    (tmp_path / name).write_text(CONLLU.format("B-PER", "O") * 2, encoding="utf-8")
    assert read_file(tmp_path / name, words=True).table.to_pydict()["tags"] == [["B-PER", "B-PER", "O"]] * 2


def test_words_that_begin_with_a_hash(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("# O\n#tag B-X\nsaid O\n\n# id 5 x\nthe O\n")
    table = read_file(tmp_path / "a.conll", words=True).table.to_pydict()
    assert table["tokens"] == [["#", "said"], ["the"]] or table["tokens"] == [["#", "#tag", "said"], ["the"]]


def test_first_line_names_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("Tag\tWord\nO\tAlice\nO\tlives\n\nO\there\n")
    table = read_file(tmp_path / "a.tsv", words=True).table.to_pydict()
    assert table == {"tokens": [["Alice", "lives"], ["here"]], "tags": [["O", "O"], ["O"]]}


def test_tables_stay_tables(tmp_path: Path) -> None:
    """A table with a sentence per row is no list of words, also for a tagger."""
    (tmp_path / "a.tsv").write_text("tokens\ttags\nAlice lives\tB-PER O\nin Paris\tO B-LOC\n")
    assert read_file(tmp_path / "a.tsv", words=True).table.to_pydict()["tokens"] == ["Alice lives", "in Paris"]


def test_words_in_a_csv_file(tmp_path: Path) -> None:
    """A tagger takes no line of a csv file for a sentence where it is a word and its tag."""
    file = tmp_path / "a.csv"
    for separator in (" ", "\t"):
        file.write_text(f"Alice{separator}B-PER\nlives{separator}O\n\nhere{separator}O\n")
        assert read_file(file, words=True).table.to_pydict()["tokens"] == [["Alice", "lives"], ["here"]]
    file.write_text("a good film\nnobody liked\nit\n")
    with pytest.raises(DataError, match="is plain text, not words with tags"):
        read_file(file, words=True)
    file.write_text("text\nAlice lives\n")
    assert read_file(file, words=True).table.to_pydict() == {"text": ["Alice lives"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a good film\nnobody liked it\nso it goes on\n", "is plain text, not words with tags: line 1 has 3 .* line 3"),
        ("Alice O\nlives O\nin\n" + "x O\n" * 40, "line 3 of .* has a word without a tag: 'in'"),
        ("Alice O\nlives O X\n" + "x O\n" * 40, "line 2 of .* has 3 columns between spaces, most lines have 2"),
        ("Alice\nlives\n\nhere\n", "line 1 of .* has a word without a tag"),
        ("# only\n# comments\n", "has no words|without a tag"),
        ("word O\n" * 300, "has no empty lines: all 300 words"),
        ("\n\n", "has no rows"),
    ],
)
def test_refusals(tmp_path: Path, content: str, message: str) -> None:
    for name in ("a.txt", "a.conll", "a"):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            read_file(tmp_path / name, words=True)


def test_text_tasks_read_texts(tmp_path: Path) -> None:
    """A task of texts takes lines as texts; a table without header is refused by name."""
    file = tmp_path / "a.txt"
    file.write_text("Alice B-PER\nlives O\n")
    assert read_file(file, words=False).table.to_pydict() == {"text": ["Alice B-PER", "lives O"]}
    file.write_text("ham\tgood film\nspam\tbuy\n")
    with pytest.raises(DataError, match=r"between tabs and no header: 'ham\\tgood film'; put a line with the names"):
        read_file(file, words=False)
    file.write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t2\t3\ta\tb\n")
    assert read_file(file, words=False).table.to_pydict()["#2 String"] == ["b"]
