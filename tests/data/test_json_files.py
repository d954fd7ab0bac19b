"""JSON in all its usual shapes gives the same rows; another shape is refused with its keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import DataError
from compress.data.tables import read_file

ROWS = [{"text": "good\u2028film", "label": 1}, {"text": "bad", "label": 0}]
CONTEXT = "the good film in paris is great"
QAS = [
    {"id": "a", "question": "what ?", "is_impossible": False, "answers": [{"text": "film", "answer_start": 9}]},
    {"id": "b", "question": "who ?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "paris"}]},
]
ARTICLES = [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": QAS}]}]


def read(folder: Path, content: str, name: str = "a.json") -> dict[str, list[Any]]:
    (folder / name).write_text(content, encoding="utf-8")
    columns: dict[str, list[Any]] = read_file(folder / name).table.to_pydict()
    return columns


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"data": ROWS},
        {"version": "v2", "data": ROWS},
        {"rows": [{"row_idx": 0, "row": r} for r in ROWS]},
        # As pandas writes a table, by its orientations.
        {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]},
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        {str(i): row for i, row in enumerate(ROWS)},
        {"train-7": ROWS[0], "train-9": ROWS[1]},
        {"columns": ["text", "label"], "index": [0, 1], "data": [list(row.values()) for row in ROWS]},
    ],
    ids=["list", "data", "version", "viewer", "columns", "lists", "index", "names", "split"],
)
def test_shapes(tmp_path: Path, value: Any, indent: int | None) -> None:
    expected = {"text": ["good\u2028film", "bad"], "label": [1, 0]}
    assert read(tmp_path, json.dumps(value, indent=indent, ensure_ascii=False)) == expected


def test_objects_one_after_the_other(tmp_path: Path) -> None:
    expected = {"text": ["good\u2028film", "bad"], "label": [1, 0]}
    for indent in (None, 2):
        content = "\n\n".join(json.dumps(row, indent=indent) for row in ROWS)
        assert read(tmp_path, content) == expected == read(tmp_path, content, "a.jsonl")
        rows = read_file(tmp_path / "a.json")
        assert rows.line is not None and (rows.line(0), rows.line(1)) == ((1, 3) if indent is None else (1, 6))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "value", [{"version": "v2.0", "data": ARTICLES}, ARTICLES, {"data": ARTICLES[0]["paragraphs"]}], ids=str
)
def test_squad_as_published(tmp_path: Path, value: Any, indent: int | None) -> None:
    columns = read(tmp_path, json.dumps(value, indent=indent))
    assert columns["question"] == ["what ?", "who ?"] and columns["context"] == [CONTEXT] * 2
    assert columns["answers"] == [{"text": ["film"], "answer_start": [9]}, {"text": [], "answer_start": []}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "train": [{"text": "a"}], "dev": []\n}', "line 1 and has the keys 'train', 'dev'"),
        ('{\n "columns": ["a"], "data": [[1, 2]]\n}', "keys 'columns', 'data'"),
        ('{"train": [{"text": "a"}], "dev": [{"text": "b"}]}', "keys 'train', 'dev'"),
        ('{"text": ["a", "b"], "label": [1]}', "keys 'text', 'label'"),
        ('{\n "text": ["a"],\n}', "line 3 of .* is not valid JSON"),
        ('{"text": "a"}\n{"text": \n', "line 2 of"),
        (
            '{"data": [{"paragraphs": [{"qas": [{"question": "q"}]}]}]}',
            "paragraph 1 of .* .KeyError: 'context'",
        ),
        ('{\n "a": ' + "[" * 100_000, "not valid JSON"),
    ],
)
def test_refusals(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_one_row_stays_a_row(tmp_path: Path) -> None:
    for row in ({"text": "good", "label": 1}, {"tokens": ["good", "film"], "tags": ["O", "O"]}):
        assert read(tmp_path, json.dumps(row)) == {name: [value] for name, value in row.items()}
    assert read(tmp_path, '{"text": ["a", "b"]}', "a.jsonl") == {"text": [["a", "b"]]}
