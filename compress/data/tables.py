"""Reads csv, tsv, jsonl and parquet files as arrow tables; errors name the place of the damage.

Types are not guessed and nothing is written: fields of csv and tsv files stay strings, as in the file.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError
from compress.data.headerless import known_columns, read_headerless, read_lines

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".conll", ".txt")
# A row longer than a block cannot be parsed. Blocks take memory while a file is read.
_CSV_BLOCK_BYTES = 64 * 2**20


def read_table(path: Path) -> pa.Table:
    """Reads one file whole.

    Raises:
        DataError: the file is of an unknown type, empty, damaged, or not UTF-8.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"data file '{path}' has an unknown type '{suffix}'; known are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"data '{path}' is not a regular file; give a file, or a directory with one")
    if path.stat().st_size == 0:
        raise DataError(f"data file '{path}' is empty; it needs a header and rows")
    try:
        if suffix in (".csv", ".tsv"):
            table = _read_csv(path, tabs=suffix == ".tsv")
        elif suffix in (".conll", ".txt"):
            table = read_lines(path)
        else:
            table = _read_parquet(path) if suffix == ".parquet" else _read_json(path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, f"byte 0x{error.object[error.start]:02x}") from None
    except OSError as error:
        raise DataError(f"cannot read data file '{path}': {first_line(error)}") from None
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"data file '{path}' has more than one column '{twice}'; columns: {', '.join(names)}. Give every column "
            "its own name; if the first line is data, put a line with the names before it"
        )
    return table


def _not_utf8(path: Path, where: str) -> DataError:
    return DataError(
        f"data file '{path}' is not UTF-8 text ({where}); convert it, for instance with "
        f"`iconv -f WINDOWS-1252 -t UTF-8`"
    )


def _read_csv(path: Path, tabs: bool) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    delimiter = "\t" if tabs else ","
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            lines = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
            header = next((row for row in lines if row), [])
        except csv.Error as error:
            raise DataError(f"cannot read the header of '{path}': {error}") from None
    names = known_columns(header, tabs=tabs)
    if names is not None:
        return read_headerless(path, names)
    try:
        table = arrow_csv.read_csv(
            str(path),
            # One thread: only then do errors carry the number of the row.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=min(max(path.stat().st_size, 1), _CSV_BLOCK_BYTES)
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, quote_char=False if tabs else '"', newlines_in_values=not tabs
            ),
            convert_options=arrow_csv.ConvertOptions(column_types={name: pa.string() for name in header}),
        )
    except pa.ArrowInvalid as error:
        message = first_line(error)
        if "Empty CSV" in message:
            raise DataError(f"data '{path}' has no rows; its columns: {', '.join(header)}") from None
        if "UTF8" in message:
            row = re.search(r"Row #\d+", message)
            raise _not_utf8(path, row[0].lower() if row else "an invalid byte") from None
        hint = "fields are separated by tabs, without quoting" if tabs else 'fields with commas need "quotes"'
        raise DataError(f"data file '{path}' is malformed: {message} ({hint})") from None
    return table


def _read_json(path: Path) -> pa.Table:
    rows: list[Any] = []
    with path.open(encoding="utf-8-sig") as stream:
        start = stream.read(1024).lstrip()[:1]
        stream.seek(0)
        if start == "[":
            try:
                rows = json.load(stream)
            except (ValueError, RecursionError) as error:
                if isinstance(error, UnicodeDecodeError):
                    raise
                raise DataError(f"data file '{path}' is not valid JSON: {first_line(error)}") from None
        else:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    rows.append(_json_line(path, number, line))
    columns: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"row {number} of '{path}' is {json.dumps(row)[:60]}, not an object such as {{\"text\": ..}}"
            )
        columns.update(dict.fromkeys(row))
    import pyarrow as pa

    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in columns})


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = first_line(error)
        raise DataError(
            f"line {number} of '{path}' is not valid JSON: {reason}; every line must be one object"
        ) from None


def _json_column(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        # Mixed labels such as 0 and "positive": all become text.
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        return pa.array([v and v.encode("utf-8", "replace").decode() for v in texts], type=pa.string())


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # parquet.read_table would read a folder named label=1 as a column.
        table = parquet.ParquetFile(str(path)).read()
        for i, column in enumerate(table.schema):
            if pa.types.is_dictionary(column.type):
                table = table.set_column(i, column.name, table.column(i).cast(column.type.value_type))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"data file '{path}' is not a readable parquet file: {first_line(error)}") from None
    return table.select([name for name in table.column_names if not name.startswith("__index_level_")])


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's message: the rest is advice for its own users."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
