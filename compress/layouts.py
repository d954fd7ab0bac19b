"""Files of well-known data sets that come without a header line: what their columns are.

Recognised by their first row alone, and only where it cannot be a header.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# The STS benchmark; some of its rows end in two more fields, the licences of the sentences.
STS = ("genre", "file", "year", "index", "score", "sentence1", "sentence2")


def headerless(first_row: Sequence[str], *, tabs: bool) -> tuple[str, ...] | None:
    """Names of the columns of a known file without a header; None for any other file."""
    if not tabs or len(first_row) not in (len(STS), len(STS) + 2):
        return None
    is_score = re.fullmatch(r"[0-5](\.\d+)?", first_row[4]) is not None
    return STS if is_score and first_row[3].isdigit() else None


def read_headerless(path: Path, names: Sequence[str]) -> pa.Table:
    """Read a tab-separated file without header and quoting; fields beyond the names are left out.

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
