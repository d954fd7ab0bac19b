"""Reads csv, tsv, json, parquet and CoNLL files as arrow tables; errors name the place of the damage.

Types are not guessed and nothing is written: fields of csv and tsv files stay strings, as in the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError
from compress.data.headerless import known_columns, read_headerless, read_plain_text
from compress.data.json_files import read_json
from compress.data.names import LABEL_NAMES, PAIR_NAMES, SCORE_NAMES, TEXT_NAMES, WORD_NAMES
from compress.data.tagged_words import looks_tagged, read_tagged_words
from compress.data.text_files import PACKED, FileRows, TextFile, data_suffix, first_line, split_lines

if TYPE_CHECKING:
    import pyarrow as pa

_TAGGED = (".conll", ".conllu", ".iob", ".iob2", ".bio")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", *_TAGGED, ".txt")
# A row longer than a block cannot be parsed. Blocks take memory while a file is read.
_CSV_BLOCK_BYTES = 64 * 2**20
_SEPARATORS = {",": "commas", ";": "semicolons", "|": "'|'", "\t": "tabs"}


def read_table(path: Path, words: bool | None = None) -> pa.Table:
    """Reads one file whole.

    Args:
        path: the file; csv, tsv, json and text files may be packed (``.gz``, ``.bz2``, ``.zst``).
        words: as for ``read_file``.

    Raises:
        DataError: the file is of an unknown type, empty, damaged, or not text in UTF-8 or UTF-16.
    """
    table: pa.Table = read_file(path, words).table
    return table


def read_file(path: Path, words: bool | None = None) -> FileRows:
    """Reads one file whole, with the line of each row and the decisions of the reader.

    Args:
        path: as for ``read_table``.
        words: whether a tag per word is expected: lines of columns are then words with tags, whatever the ending of
            the file. False reads texts; None goes by the ending and the first line.

    Raises:
        DataError: as for ``read_table``.
    """
    suffix = data_suffix(path)
    if suffix not in SUFFIXES and not words:
        raise DataError(f"data file '{path}' has an unknown type '{suffix}'; known are {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"data '{path}' is not a regular file; give a file, or a directory with one")
    if path.stat().st_size == 0:
        raise DataError(f"data file '{path}' is empty; it needs a header and rows")
    file = TextFile(path)
    try:
        if suffix == ".parquet":
            rows = _read_parquet(path)
        elif suffix in (".jsonl", ".ndjson", ".json"):
            rows = read_json(file)
        elif suffix in (".csv", ".tsv"):
            rows = _read_separated(file, tabs=suffix == ".tsv", words=bool(words))
        else:
            rows = _read_lines(file, suffix, words)
    except UnicodeDecodeError:
        raise file.not_utf8() from None
    except OSError as error:
        raise DataError(f"cannot read data file '{path}': {first_line(error)}") from None
    names = rows.table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"data file '{path}' has more than one column '{twice}'; columns: {', '.join(names)}. Give every column "
            "its own name; if the first line is data, put a line with the names before it"
        )
    return rows


def _read_lines(file: TextFile, suffix: str, words: bool | None) -> FileRows:
    """Reads a text file: words with tags, a table with tabs, or one text per line."""
    text = file.text()
    if "\0" in text[:4096]:
        raise DataError(f"data file '{file.path}' is not a text file; known types are {', '.join(SUFFIXES)}")
    lines = split_lines(text)
    if words or suffix in _TAGGED:
        return read_tagged_words(file.path, lines)
    first = next((line for line in lines if line.strip(" \t") and not line.startswith("-DOCSTART-")), "")
    if any(_is_header(first.split(separator)) for separator in ",;|"):
        return _read_csv(file, tabs=False)
    if "\t" not in first.strip(" \t"):
        return read_plain_text(file.path, lines)
    if _is_header(first.split("\t")) or known_columns(first.split("\t"), tabs=True) is not None:
        return _read_csv(file, tabs=True)
    if words is None:
        return read_tagged_words(file.path, lines)
    filled = [line for line in lines if line.strip(" \t")]
    if any("\t" not in line for line in filled):
        return read_plain_text(file.path, lines)
    raise DataError(
        f"data file '{file.path}' has columns between tabs and no header: {first[:60]!r}; put a line with the names of "
        "the columns before it, such as label and text, and give the file the ending .tsv"
    )


def _is_header(fields: list[str]) -> bool:
    usual = {*TEXT_NAMES, *LABEL_NAMES, *SCORE_NAMES, *(name for pair in PAIR_NAMES for name in pair)}
    return sum(field.strip(" ").lower() in usual for field in fields) >= 2


def _read_separated(file: TextFile, *, tabs: bool, words: bool) -> FileRows:
    if words:
        lines = split_lines(file.text())
        if (tabs or "," not in next(iter(lines), "")) and looks_tagged(lines):
            return read_tagged_words(file.path, lines)
        rows = _read_csv(file, tabs=tabs)
        names = rows.table.column_names
        # A lone column without a usual name is a word and its tag between spaces, or plain text.
        return rows if len(names) > 1 or _is_text_name(names[0]) else read_tagged_words(file.path, lines)
    return _read_csv(file, tabs=tabs)


def _is_text_name(name: str) -> bool:
    return name.strip(" ").lower() in (*WORD_NAMES, *TEXT_NAMES)


def _read_csv(file: TextFile, tabs: bool) -> FileRows:
    path = file.path
    separator = "\t" if tabs else ","
    quotes, skipped, notes = not tabs or _is_quoted(file, separator), 0, []
    if tabs and quotes:
        notes.append(f"'{path.name}' is read with quotes around its fields, as programs write them")
    header, raw = _header(file, separator, quotes=quotes, skipped=skipped)
    stated = re.fullmatch(r"sep=(.)", raw)
    if stated is not None:
        # Excel writes the separator into the first line.
        separator, quotes, skipped = stated[1], True, 1
        header, raw = _header(file, separator, quotes=quotes, skipped=skipped)
    elif (other := _other_separator(header, raw, separator)) is not None:
        separator = other
        quotes = other != "\t" or _quotes_are_sound(file, other)
        header, raw = _header(file, separator, quotes=quotes, skipped=skipped)
        shown = ", ".join(f"'{name}'" for name in header[:8])
        notes.append(f"'{path.name}' is read with {_SEPARATORS[other]} between its columns: {shown}")
    names = known_columns(header, tabs=separator == "\t")
    if names is not None:
        return read_headerless(file, names)
    table = _parse(file, header, separator, quotes=quotes, skipped=skipped)
    return FileRows(table, _Lines(path, separator, quotes, 1 + skipped).line, tuple(notes))


def _parse(file: TextFile, header: list[str], separator: str, *, quotes: bool, skipped: int) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    path, source = file.path, file.for_arrow()
    size = path.stat().st_size if isinstance(source, str) else source.size()
    try:
        return arrow_csv.read_csv(
            source,
            # One thread: only then do errors carry the number of the row.
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=min(max(size, 1), _CSV_BLOCK_BYTES), skip_rows=skipped
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, quote_char='"' if quotes else False, newlines_in_values=quotes
            ),
            convert_options=arrow_csv.ConvertOptions(column_types={name: pa.string() for name in header}),
        )
    except pa.ArrowInvalid as error:
        message = first_line(error)
        if "Empty CSV" in message:
            raise DataError(f"data '{path}' has no rows; its columns: {', '.join(header)}") from None
        if "UTF8" in message:
            raise file.not_utf8() from None
        hint = f"fields are separated by {_SEPARATORS.get(separator, repr(separator))}"
        hint = (
            f'{hint}; fields with {_SEPARATORS.get(separator, "it")} need "quotes"'
            if quotes
            else f"{hint}, without quoting"
        )
        raise DataError(f"data file '{path}' is malformed: {message} ({hint})") from None


def _header(file: TextFile, separator: str, *, quotes: bool, skipped: int) -> tuple[list[str], str]:
    """Returns the names in the first line that is not empty, and that line."""
    with file.stream() as stream:
        for _ in range(skipped):
            stream.readline()
        start = stream.tell() if stream.seekable() else 0
        raw = next((line for line in split_lines(stream.read(2**16)) if line.strip(" \t")), "")
        stream.seek(start)
        try:
            return next((row for row in _rows(stream, separator, quotes=quotes) if row), []), raw
        except csv.Error as error:
            raise DataError(f"cannot read the header of '{file.path}': {error}") from None


def _rows(stream: Iterable[str], separator: str, *, quotes: bool) -> Any:
    """Returns the reader of the standard library, which counts lines."""
    return csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)


def _other_separator(header: list[str], raw: str, separator: str) -> str | None:
    """Returns the separator of a header that the expected one leaves in one piece; None where it has one column."""
    # A name that is in quotes as a whole may hold any character.
    if len(header) != 1 or raw == f'"{header[0]}"':
        return None
    found: dict[str, int] = {}
    for other in _SEPARATORS:
        if other == separator:
            continue
        names = next(csv.reader([raw], delimiter=other), [])
        # Sentences with a semicolon or a comma are no list of names.
        if len(names) > 1 and all(name.strip(" ").count(" ") < 3 and len(name) <= 40 for name in names):
            found[other] = len(names)
    return max(found, key=lambda other: found[other], default=None)


# A field in quotes that would be read wrongly without them: it holds quotes, tabs or line ends.
_QUOTED = re.compile(r'(?:^|(?<=[\t\r\n]))"(?=([^"]*(?:""[^"]*)*))\1"(?=[\t\r\n]|$)')


def _is_quoted(file: TextFile, separator: str) -> bool:
    """Whether a program has put fields into quotes: the files of GLUE have quotes that are part of the texts."""
    text = file.text()
    fields = [found[1] for found in _QUOTED.finditer(text)] if '"' in text else []
    header = text.split("\n", 1)[0].strip("\r").split(separator)
    named = all(len(name) > 1 and name[0] == name[-1] == '"' for name in header)
    return (named or any(re.search('["\t\r\n]', field) for field in fields)) and _quotes_are_sound(file, separator)


def _quotes_are_sound(file: TextFile, separator: str) -> bool:
    """Whether every quote begins or ends a field: else quotes are part of the texts, as in the files of GLUE."""
    widths: set[int] = set()
    with file.stream() as stream:
        try:
            widths.update(len(row) for row in csv.reader(stream, delimiter=separator, strict=True) if row)
        except csv.Error:
            return False
    return len(widths) == 1


class _Lines:
    """Finds the line of a row in a csv file; nothing is read before a message needs it."""

    def __init__(self, path: Path, separator: str, quotes: bool, before: int) -> None:
        self._path, self._separator, self._quotes, self._before = path, separator, quotes, before

    def line(self, row: int) -> int | None:
        """Returns the line in which a row begins, from 1; None where it cannot be told.

        Args:
            row: number of the row, from 0, without the header.
        """
        left, begins = row + self._before, 1
        try:
            with TextFile(self._path).stream() as stream:
                reader = _rows(stream, self._separator, quotes=self._quotes)
                for fields in reader:
                    if fields and left == 0:
                        return begins
                    left -= bool(fields)
                    begins = reader.line_num + 1
        except (csv.Error, OSError, UnicodeDecodeError, DataError):
            return None
        return None


def _read_parquet(path: Path) -> FileRows:
    import pyarrow as pa
    from pyarrow import parquet

    if path.suffix.lower() in PACKED:
        raise DataError(f"data file '{path}' is a packed parquet file; unpack it first: `gzip -dk {path.name}`")
    try:
        # parquet.read_table would read a folder named label=1 as a column.
        table = parquet.ParquetFile(str(path)).read()
        for i, column in enumerate(table.schema):
            if pa.types.is_dictionary(column.type):
                table = table.set_column(i, column.name, table.column(i).cast(column.type.value_type))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"data file '{path}' is not a readable parquet file: {first_line(error)}") from None
    return FileRows(table.select([name for name in table.column_names if not name.startswith("__index_level_")]))
