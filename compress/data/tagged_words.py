"""Reads files with one word and its tags per line: CoNLL in its many forms, GermEval, CoNLL-U.

Columns are separated by tabs or by ASCII spaces. An empty line ends a sentence. Lines such as ``# id 7`` are comments,
``-DOCSTART-`` begins a document, and a first column may number the words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import DataError
from compress.data.names import ONE_TAG_NAMES, ONE_WORD_NAMES
from compress.data.text_files import FileRows, split_words

if TYPE_CHECKING:
    import pyarrow as pa

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_SPAN_TAG = re.compile(r"O|[BIESLUM]-.+")
_WORD_NUMBER = re.compile(r"\d+([-.]\d+)?")
_BLANKS = " \t"
# A file in which fewer lines than this share have equally many columns is plain text.
_SAME_COLUMNS = 0.9
# A lone sentence of more words is a file without empty lines.
_LONGEST_SENTENCE = 200


@dataclass(frozen=True)
class _Line:
    number: int
    fields: list[str]


def looks_tagged(lines: Sequence[str]) -> bool:
    """Whether the lines of a tab-separated file are tagged words, not rows of a table.

    Words have empty lines or comments between sentences, or the first of them has a tag such as ``B-PER``.

    Args:
        lines: lines of the file.
    """
    data = [number for number, line in enumerate(lines) if not _is_blank(line)]
    if not data or "\t" not in lines[data[-1]].strip(_BLANKS):
        return False
    first = lines[data[0]]
    gaps = data[-1] - data[0] + 1 > len(data)
    return gaps or first.startswith("#") or _SPAN_TAG.fullmatch(first.split("\t")[-1].strip(" ")) is not None


def read_tagged_words(path: Path, lines: Sequence[str]) -> FileRows:
    """Reads lines of words with tags as sentences.

    Args:
        path: the file, for messages.
        lines: its lines.

    Returns:
        The columns ``tokens`` and ``tags`` with lists of strings. Further columns have the names of CoNLL-U, or
        ``column3`` and so on.

    Raises:
        DataError: the lines do not have equally many columns, a word has no tag, or the file is plain text.
    """
    import pyarrow as pa

    tabs = _tabs(lines)
    sentences, width, header = _sentences(path, lines, tabs)
    numbered = width > 2 and all(_starts_numbering(sentence[0].fields) for sentence in sentences)
    if numbered:
        # Ranges (1-2) and empty nodes (1.1) of CoNLL-U are not words of the sentence.
        sentences = [[line for line in sentence if line.fields[0].isdigit()] for sentence in sentences]
        sentences = [sentence for sentence in sentences if sentence]
    longest = max(map(len, sentences))
    if len(sentences) == 1 and longest > _LONGEST_SENTENCE:
        raise DataError(
            f"data file '{path}' has no empty lines: all {longest} words would be one sentence; put an empty line "
            "after each sentence"
        )
    columns = [[line.fields[i] for sentence in sentences for line in sentence] for i in range(width)]
    names = _names(width, numbered, tabs)
    word, tag = _roles(columns, header, numbered=numbered, conllu=names[1] == "form")
    lengths = [len(sentence) for sentence in sentences]
    table: dict[str, pa.Array] = {"tokens": _lists(columns[word], lengths), "tags": _lists(columns[tag], lengths)}
    others = [i for i in range(numbered, width) if i not in (word, tag) and not _is_placeholder(columns[i])]
    table |= {names[i]: _lists(columns[i], lengths) for i in others}
    starts = [sentence[0].number for sentence in sentences]
    note = f"'{path.name}' has lines of {width} columns: words are taken from column {word + 1}, tags from {tag + 1}"
    if numbered:
        note += "; column 1 numbers the words"
    if others:
        note += f" (--label-column {' or '.join(names[i] for i in others)} takes other tags)"
    return FileRows(pa.table(table), starts.__getitem__, (note,))


def _is_blank(line: str) -> bool:
    return not line.strip(_BLANKS)


def _tabs(lines: Sequence[str]) -> bool:
    """Whether columns are separated by tabs: comments may have tabs where the other lines have spaces."""
    data = [line.strip(_BLANKS) for line in lines if not _is_blank(line)]
    data = [line for line in data if not line.startswith("#")] or data
    return 2 * sum("\t" in line for line in data) >= max(1, len(data))


def _split(line: str, tabs: bool) -> list[str]:
    return [field.strip(" ") for field in line.rstrip(_BLANKS).split("\t")] if tabs else split_words(line)


def _sentences(path: Path, lines: Sequence[str], tabs: bool) -> tuple[list[list[_Line]], int, list[str] | None]:
    """Returns the sentences, the number of columns, and the names of the columns where the first line has them."""
    rows = [_Line(number, _split(line, tabs)) for number, line in enumerate(lines, start=1) if not _is_blank(line)]
    rows = [row for row in rows if not row.fields[0].startswith("-DOCSTART-")]
    if not rows:
        raise DataError(f"data file '{path}' has no rows; give one word and its tag per line")
    plain = [row for row in rows if not row.fields[0].startswith("#")] or [r for r in rows if r.fields[0] != "#"]
    if not plain:
        raise DataError(f"data file '{path}' has no words, only comments; give one word and its tag per line")
    width, same = Counter(len(row.fields) for row in plain).most_common(1)[0]
    if not tabs and same < _SAME_COLUMNS * len(plain):
        first = plain[0]
        other = next(row for row in plain if len(row.fields) != len(first.fields))
        raise DataError(
            f"data file '{path}' is plain text, not words with tags: line {first.number} has {len(first.fields)} "
            f"columns between spaces, line {other.number} has {len(other.fields)}. Give one word and its tag per line, "
            "and an empty line after each sentence"
        )
    header = _header(plain[0].fields)
    # In files that number their words, a word is never in the first column.
    numbers = [_WORD_NUMBER.fullmatch(row.fields[0]) is not None for row in plain[header is not None :]]
    tags = set() if width > 2 and numbers and all(numbers) else {row.fields[-1] for row in plain}
    words = {
        row.number
        for row in rows
        if not row.fields[0].startswith("#") or (len(row.fields) == width and row.fields[-1] in tags)
    }
    if header is not None:
        words.discard(plain[0].number)
    sentences: list[list[_Line]] = [[]]
    kept = {row.number: row for row in rows if row.number in words}
    for number, line in enumerate(lines, start=1):
        if _is_blank(line) or line.lstrip(_BLANKS).startswith("-DOCSTART-"):
            sentences.append([])
        elif number in kept:
            if len(kept[number].fields) != width or width < 2:
                raise _wrong_width(path, kept[number], width, line, tabs)
            sentences[-1].append(kept[number])
    found = [sentence for sentence in sentences if sentence]
    if not found:
        raise DataError(f"data file '{path}' names its columns in line {plain[0].number} and has no words")
    return found, width, header


def _header(fields: Sequence[str]) -> list[str] | None:
    lowered = [field.lower() for field in fields]
    named = any(name in ONE_WORD_NAMES for name in lowered) and any(name in ONE_TAG_NAMES for name in lowered)
    return lowered if named and len(set(lowered)) > 1 else None


def _wrong_width(path: Path, line: _Line, width: int, shown: str, tabs: bool) -> DataError:
    if len(line.fields) < 2:
        return DataError(
            f"line {line.number} of '{path}' has a word without a tag: {shown[:60]!r}; give one word and its tag per "
            "line"
        )
    return DataError(
        f"line {line.number} of '{path}' has {len(line.fields)} columns between {'tabs' if tabs else 'spaces'}, most "
        f"lines have {width}: {shown[:60]!r}; correct the line"
    )


def _starts_numbering(fields: Sequence[str]) -> bool:
    number = _WORD_NUMBER.fullmatch(fields[0])
    return number is not None and re.split("[-.]", fields[0])[0] in ("0", "1")


def _names(width: int, numbered: bool, tabs: bool) -> tuple[str, ...]:
    if width == len(CONLLU) and numbered and tabs:
        return CONLLU
    return tuple(f"column{number}" for number in range(1, width + 1))


def _roles(
    columns: Sequence[Sequence[str]], header: Sequence[str] | None, *, numbered: bool, conllu: bool
) -> tuple[int, int]:
    """Returns the columns of words and tags."""
    word = int(numbered)
    if header is not None:
        word = next((header.index(name) for name in ONE_WORD_NAMES if name in header), word)
        named = next((header.index(name) for name in ONE_TAG_NAMES if name in header), word)
        if named != word:
            return word, named
    others = [i for i in range(numbered, len(columns)) if i != word]
    spans = [i for i in others if all(_SPAN_TAG.fullmatch(tag) for tag in set(columns[i]))]
    if numbered and not conllu and spans == others and len(spans) == 2:
        # GermEval: outer spans come first, spans inside of them second.
        return word, spans[0]
    if spans:
        return word, spans[-1]
    if conllu:
        return word, next((i for i in (3, 4) if not _is_placeholder(columns[i])), len(columns) - 1)
    # Numbers in a last column are heads or sentences rather than tags, where another column has names.
    named_tags = [i for i in others if not _is_placeholder(columns[i]) and not all(t.isdigit() for t in columns[i])]
    return word, (named_tags or others)[-1]


def _is_placeholder(column: Sequence[str]) -> bool:
    return set(column) <= {"_", "-", "-X-", ""}


def _lists(values: Sequence[str], lengths: Sequence[int]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=pa.string()))
