"""Reads files without a header line: well-known data sets, plain texts.

A data set is recognised by its first row, and only where that row cannot be a header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import DataError
from compress.data.labels_in_texts import refuse_labels_beside
from compress.data.text_files import FileRows, TextFile, split_lines

if TYPE_CHECKING:
    import pyarrow as pa

# The STS benchmark; some of its rows end in two more fields, the licences of the sentences.
STS = ("genre", "file", "year", "index", "score", "sentence1", "sentence2")
_FAST_TEXT = "__label__"
# CoLA: the publication, whether the sentence is acceptable, the mark of its author, the sentence.
COLA = ("source", "label", "mark", "sentence")


def known_columns(first_row: Sequence[str], *, tabs: bool) -> tuple[str, ...] | None:
    """Returns the column names of a well-known data set that has no header; None for any other file.

    Args:
        first_row: fields of the file's first line.
        tabs: whether the fields are separated by tabs.
    """
    if tabs and len(first_row) == len(COLA) and first_row[1] in ("0", "1") and first_row[2] in ("", "*", "?", "?*"):
        return COLA
    if not tabs or len(first_row) not in (len(STS), len(STS) + 2):
        return None
    is_score = re.fullmatch(r"[0-5](\.\d+)?", first_row[4]) is not None
    return STS if is_score and first_row[3].isdigit() else None


def read_headerless(file: TextFile, names: Sequence[str]) -> FileRows:
    """Reads a tab-separated file without header and quoting; fields beyond the names are left out.

    Args:
        file: the file.
        names: names of the columns, in order.

    Returns:
        Rows of strings.

    Raises:
        DataError: a row has too few fields.
    """
    import pyarrow as pa

    columns: list[list[str]] = [[] for _ in names]
    lines: list[int] = []
    for number, line in enumerate(split_lines(file.text()), start=1):
        if not line:
            continue
        # Not the reader of the standard library, which has a limit on the length of a field.
        row = line.split("\t")
        if len(row) < len(names):
            raise DataError(
                f"line {number} of '{file.path}' has {len(row)} fields, expected {', '.join(names)}, separated by tabs"
            )
        lines.append(number)
        for column, value in zip(columns, row, strict=False):
            column.append(value)
    table = pa.table({name: pa.array(column, type=pa.string()) for name, column in zip(names, columns, strict=True)})
    note = f"'{file.path.name}' has no header; its columns are read as {', '.join(names)}"
    return FileRows(table, lines.__getitem__, (note,))


def read_plain_text(path: Path, lines: Sequence[str]) -> FileRows:
    """Reads one text per line, in a column ``text``; empty lines are left out.

    Lines that begin with ``__label__`` (fastText) give a column ``label`` as well.

    Args:
        path: the file, for messages.
        lines: its lines.

    Raises:
        DataError: every line holds a label beside its text, and no line names the columns: the labels would be read
            as part of the texts.
    """
    import pyarrow as pa

    kept = [number for number, line in enumerate(lines) if line.strip(" \t")]
    texts = [lines[number] for number in kept]
    columns, notes = {"text": texts}, []
    if texts and all(text.startswith(_FAST_TEXT) for text in texts):
        columns = _fast_text(path, texts, kept)
        notes.append(f"'{path.name}' is read as in fastText: a label such as {texts[0].split(' ')[0]}, then the text")
    else:
        refuse_labels_beside(path, texts)
    table: pa.Table = pa.table({name: pa.array(column, type=pa.string()) for name, column in columns.items()})
    return FileRows(table, lambda row: kept[row] + 1, tuple(notes))


def _fast_text(path: Path, texts: Sequence[str], numbers: Sequence[int]) -> dict[str, list[str]]:
    labels, rest = [], []
    for number, line in zip(numbers, texts, strict=True):
        label, _, text = line.replace("\t", " ").partition(" ")
        if text.startswith(_FAST_TEXT):
            raise DataError(
                f"line {number + 1} of '{path}' has several labels ({text.split(' ')[0]} is the second); give one "
                "label per text"
            )
        labels.append(label.removeprefix(_FAST_TEXT))
        rest.append(text.lstrip(" "))
    return {"text": rest, "label": labels}
