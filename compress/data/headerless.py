"""Reads files without a header line: well-known data sets, tagged words, plain texts.

A data set is recognised by its first row, and only where that row cannot be a header.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# The STS benchmark; some of its rows end in two more fields, the licences of the sentences.
STS = ("genre", "file", "year", "index", "score", "sentence1", "sentence2")


def known_columns(first_row: Sequence[str], *, tabs: bool) -> tuple[str, ...] | None:
    """Returns the column names of a well-known data set that has no header; None for any other file.

    Args:
        first_row: fields of the file's first line.
        tabs: whether the fields are separated by tabs.
    """
    if not tabs or len(first_row) not in (len(STS), len(STS) + 2):
        return None
    is_score = re.fullmatch(r"[0-5](\.\d+)?", first_row[4]) is not None
    return STS if is_score and first_row[3].isdigit() else None


def read_headerless(path: Path, names: Sequence[str]) -> pa.Table:
    """Reads a tab-separated file without header and quoting; fields beyond the names are left out.

    Args:
        path: the file.
        names: names of the columns, in order.

    Returns:
        A table of strings.

    Raises:
        DataError: a row has too few fields.
    """
    import pyarrow as pa

    columns: list[list[str]] = [[] for _ in names]
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for number, row in enumerate(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if not row:
                continue
            if len(row) < len(names):
                raise DataError(
                    f"line {number} of '{path}' has {len(row)} fields, expected {', '.join(names)}, separated by tabs"
                )
            for column, value in zip(columns, row, strict=False):
                column.append(value)
    return pa.table({name: pa.array(column, type=pa.string()) for name, column in zip(names, columns, strict=True)})


def read_lines(path: Path) -> pa.Table:
    """Reads a text file: one word and its tag per line where the first line has both, else one text per line.

    Words and tags (CoNLL) are written as ``word<TAB>tag``, or as columns between spaces, of which the first and the
    last are read. An empty line ends a sentence. Spaces separate columns only in files that end in ``.conll``: in
    other files they belong to the text.

    Returns:
        Columns ``tokens`` and ``tags`` with lists of strings, or one column ``text``.

    Raises:
        DataError: a line has a word without a tag.
    """
    import pyarrow as pa

    lines = path.read_text(encoding="utf-8-sig").splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("-DOCSTART-")), "")
    separator = "\t" if "\t" in first.strip() else None
    if separator is None and path.suffix.lower() != ".conll":
        return pa.table({"text": [line for line in lines if line.strip()]})
    tokens: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens[-1]:
                tokens.append([])
                tags.append([])
            continue
        fields = line.rstrip().split(separator)
        if len(fields) < 2:
            raise DataError(f"line {number} of '{path}' has a word without a tag: {line[:60]!r}")
        tokens[-1].append(fields[0].strip())
        tags[-1].append(fields[-1].strip())
    kept = len(tokens) - (not tokens[-1])
    lists = pa.list_(pa.string())
    return pa.table({"tokens": pa.array(tokens[:kept], type=lists), "tags": pa.array(tags[:kept], type=lists)})
