"""Reads JSON in its usual shapes: objects in lines or a list, a list or table in one object, SQuAD's articles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError
from compress.data.text_files import SPACES, FileRows, TextFile, data_suffix, first_line, split_lines

if TYPE_CHECKING:
    import pyarrow as pa

# Names of the list of rows inside one object.
_WRAPPERS = ("data", "rows", "examples", "items", "records", "instances", "questions", "samples")
# Columns that hold a list in every row.
_SENTENCES = ("tokens", "words")


def read_json(file: TextFile) -> FileRows:
    """Reads a JSON file.

    Args:
        file: one object per line, a list of objects, objects over several lines, or one object with a list of rows,
            such as ``{"data": [...]}``, or with the columns or rows of a table, as pandas writes it. Articles as in
            SQuAD give one row per question.

    Raises:
        DataError: it is not valid JSON, or holds no list of rows.
    """
    text = file.text()
    start = text.lstrip(SPACES)[:1]
    lines: list[int] | None = None
    notes: list[str] = []
    if start == "[":
        rows = _load_whole(file, text)
    elif start == "{" and not _is_json(_first_content(text)):
        rows, lines = _several_objects(file, text)
        if len(rows) == 1:
            rows = _only_object(file, rows[0], notes)
            lines = None
    else:
        numbered = [(n, line) for n, line in enumerate(split_lines(text), start=1) if line.strip(SPACES)]
        lines = [number for number, _ in numbered]
        rows = [_json_line(file, number, line) for number, line in numbered]
        if len(rows) == 1 and isinstance(rows[0], dict):
            inside = _rows_inside(rows[0], notes)
            # By the rules of json lines every line is a row.
            if inside is None and data_suffix(file.path) == ".json" and not _is_row(rows[0]):
                inside = _only_object(file, rows[0], notes)
            if inside is not None:
                rows, lines = inside, None
    columns: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"row {number} of '{file.path}' is {json.dumps(row)[:60]}, not an object such as {{\"text\": ..}}"
            )
        columns.update(dict.fromkeys(row))
    flat = _questions(file, rows)
    if flat is not None:
        rows, lines = flat, None
        columns = dict.fromkeys(name for row in rows for name in row)
        notes.append(f"'{file.path.name}' has articles as in SQuAD: {len(rows)} questions")
    import pyarrow as pa

    table: pa.Table = pa.table({name: _json_column([row.get(name) for row in rows]) for name in columns})
    return FileRows(table, lines.__getitem__ if lines is not None else None, tuple(notes))


def _first_content(text: str) -> str:
    return next((line for line in split_lines(text[: 2**24]) if line.strip(SPACES)), "")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _load_whole(file: TextFile, text: str) -> list[Any]:
    try:
        rows: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data file '{file.path}' is not valid JSON: {first_line(error)}") from None
    return rows


def _several_objects(file: TextFile, text: str) -> tuple[list[Any], list[int]]:
    """Reads objects that span several lines; returns them and the line in which each begins."""
    decoder = json.JSONDecoder()
    rows: list[Any] = []
    lines: list[int] = []
    at = last = 0
    while True:
        while at < len(text) and text[at] in SPACES:
            at += 1
        if at == len(text):
            return rows, lines
        begins = (lines[-1] if lines else 1) + _line_ends(text[last:at])
        last = at
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            number = error.lineno if isinstance(error, json.JSONDecodeError) else begins
            reason = first_line(error)
            raise DataError(
                f"line {number} of '{file.path}' is not valid JSON: {reason}; every line must be one object, or the "
                "whole file a list of them"
            ) from None
        rows.append(row)
        lines.append(begins)


def _line_ends(text: str) -> int:
    return text.count("\n") or text.count("\r")


def _only_object(file: TextFile, row: Any, notes: list[str]) -> list[Any]:
    if isinstance(row, dict):
        inside = _rows_inside(row, notes)
        inside = _rows_of_a_table(row, notes) if inside is None else inside
        if inside is not None:
            return inside
    keys = ", ".join(repr(key) for key in list(row)[:8]) if isinstance(row, dict) else str(row)[:40]
    raise DataError(
        f"data file '{file.path}' is one object, which begins in line 1 and has the keys {keys or 'of no name'}; none "
        f"of them is a list of rows named {', '.join(_WRAPPERS[:3])} or alike. Give a list of objects, or one object "
        "per line"
    )


def _rows_inside(found: Mapping[str, Any], notes: list[str]) -> list[Any] | None:
    """Returns the list of rows inside an object, which may say how the data was made in other keys."""
    for name in _WRAPPERS:
        rows = found.get(name)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            notes.append(f"rows are taken from the list '{name}' of the file")
            # The hub's viewer wraps each row once more.
            wrapped = [row.get("row") for row in rows]
            return wrapped if name == "rows" and all(isinstance(row, dict) for row in wrapped) else rows
    return None


def _is_row(found: Mapping[str, Any]) -> bool:
    """Whether an object is one row, not a table: a value is no column, or is the words of one sentence."""
    return any(isinstance(value, (str, int, float)) for value in found.values()) or any(
        isinstance(found.get(name), list) and not _lists_inside(found[name]) for name in _SENTENCES
    )


def _lists_inside(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def _rows_of_a_table(found: Mapping[str, Any], notes: list[str]) -> list[Any] | None:
    """Returns the rows of an object as pandas writes a table: by column, by row, or with the names apart."""
    names, cells = found.get("columns"), found.get("data")
    if isinstance(names, list) and isinstance(cells, list):
        if not all(_is_long(row, len(names)) for row in cells):
            return None
        notes.append(f"the file holds a table with the columns {', '.join(map(str, names))}")
        return [dict(zip(map(str, names), row, strict=True)) for row in cells]
    values = list(found.values())
    if values and all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) != 1 or all(isinstance(v, dict) for value in values for v in value):
            return None
        rows: list[Any] = [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]
    elif values and all(isinstance(value, dict) for value in values):
        keys = list(dict.fromkeys(key for value in values for key in value))
        numbered = all(key.isdigit() for key in keys)
        rows = [{name: found[name].get(key) for name in found} for key in keys] if numbered else values
    else:
        return None
    notes.append(f"the file holds a table of {len(rows)} rows in one object")
    return rows


def _is_long(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length


def _questions(file: TextFile, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Returns one row per question of articles or paragraphs as in SQuAD; None for other rows."""
    if not rows:
        return None
    if all(isinstance(row.get("paragraphs"), list) for row in rows):
        paragraphs = [(row.get("title"), paragraph) for row in rows for paragraph in row["paragraphs"]]
    elif all(isinstance(row.get("qas"), list) and "context" in row for row in rows):
        paragraphs = [(row.get("title"), row) for row in rows]
    else:
        return None
    flat = []
    for number, (title, paragraph) in enumerate(paragraphs, start=1):
        try:
            flat += [_question(title, paragraph["context"], asked) for asked in paragraph["qas"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"paragraph {number} of '{file.path}' is not as in SQuAD ({type(error).__name__}: {error}); it needs "
                "context and qas, each of these with question and answers"
            ) from None
    return flat


def _question(title: Any, context: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    row = {"id": asked.get("id"), "title": title, "context": context, "question": asked["question"]}
    if "answers" in asked or "is_impossible" in asked:
        # Version 2 has plausible answers for questions without an answer; these are not right.
        answers = [] if asked.get("is_impossible") is True else asked.get("answers") or []
        row["answers"] = {
            "text": [answer["text"] for answer in answers],
            "answer_start": [answer.get("answer_start") for answer in answers],
        }
    return row


def _json_line(file: TextFile, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
        raise DataError(
            f"line {number} of '{file.path}' is not valid JSON: {reason}; every line must be one object"
        ) from None


def _json_column(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        # Mixed labels such as 0 and "positive": all become text.
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        return pa.array([v and v.encode("utf-8", "replace").decode() for v in texts], type=pa.string())
