"""Finds the columns that hold text and labels, and reads them.

Everything here works on names and values; nothing is tokenised. Guesses are returned as sentences to print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError, did_you_mean
from compress.data.names import LABEL_NAMES, PAIR_NAMES, TEXT_NAMES
from compress.data.text_files import SPACES

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Columns:
    """Which columns of the data are used, and how their labels are read.

    Attributes:
        text: one column, or two for pairs.
        label: column of the labels; None without labels: calibration is then label-free.
        guesses: guesses and remarks as sentences to print; empty when all columns were named.
        label_ids: the model's number for each label as the data writes it (see ``label_text``).
        place: column with the position of an answer in its context (``question-answering``); None without one.
    """

    text: tuple[str, ...]
    label: str | None
    guesses: tuple[str, ...] = ()
    label_ids: Mapping[str, int] = field(default_factory=dict)
    place: str | None = None


def choose_columns(
    dataset: Dataset,
    text_column: str | None,
    label_column: str | None,
    label_names: Sequence[str] = LABEL_NAMES,
    text_names: Sequence[str] | None = None,
) -> Columns:
    """Takes the columns that the user named and guesses the others by their names; values are not read.

    Args:
        dataset: rows.
        text_column: a name, or two separated by a comma for pairs; None guesses.
        label_column: a name; None guesses. Where no column has a usual name, the result has no label.
        label_names: usual names of the task's labels, the most specific first.
        text_names: usual names of the task's one text column; None takes pairs and texts of any kind.

    Raises:
        DataError: a named column is missing, or no column is recognised as text; the message lists the columns.
    """
    label = require_column(dataset, label_column, "--label-column") if label_column else None
    if text_column:
        text = parse_text_columns(dataset, text_column)
        if label in text:
            raise DataError(f"column '{label}' is given as text and as label; they must be two columns")
    others = [name for name in dataset.column_names if name != label and not (text_column and name in text)]
    label = label or usual_name(others, label_names)
    if not text_column:
        rest = [name for name in others if name != label]
        one = usual_name(rest, text_names) if text_names else None
        text = (one,) if one else _guess_texts(dataset, rest)

    guesses = []
    if not text_column:
        shown = " and ".join(f"'{name}'" for name in text)
        guesses.append(f"text is taken from {shown} (--text-column names another)")
    if not label_column:
        guesses.append(label_guess(dataset, label))
    return Columns(text=text, label=label, guesses=tuple(guesses))


def label_guess(dataset: Dataset, label: str | None) -> str:
    """Returns the sentence that tells users which column was guessed to hold the labels.

    Args:
        dataset: rows.
        label: the column; None where no column has a usual name.
    """
    if label:
        return f"labels are taken from '{label}' (--label-column names another)"
    return f"none of the columns {column_list(dataset)} looks like labels: label-free (--label-column names one)"


def parse_text_columns(dataset: Dataset, text_column: str) -> tuple[str, ...]:
    """Returns the column or the two columns that ``--text-column`` names.

    Args:
        dataset: rows.
        text_column: one name, or two separated by a comma.

    Raises:
        DataError: a column is missing, or the names are not one or two.
    """
    # A name that contains a comma is still one name.
    parts = [text_column] if text_column in dataset.column_names else text_column.split(",")
    texts = tuple(require_column(dataset, part.strip(SPACES), "--text-column") for part in parts)
    if len(texts) > 2 or len(set(texts)) != len(texts):
        raise DataError(f"--text-column '{text_column}' must name one column, or two different ones for pairs")
    return texts


def _guess_texts(dataset: Dataset, names: Sequence[str]) -> tuple[str, ...]:
    for one, other in PAIR_NAMES:
        first, second = usual_name(names, (one,)), usual_name(names, (other,))
        if first and second:
            return first, second
    single = usual_name(names, TEXT_NAMES)
    if single:
        return (single,)
    hint = _header_hint(dataset)
    if len(names) == 1 and (separator := re.search("[;|\t]", names[0])):
        raise DataError(
            f"the only column is named {names[0][:80]!r}: its separator {separator[0]!r} was not recognised. Separate "
            "columns by commas (or by tabs in .tsv), or name the column with --text-column if it is one text"
        )
    if len(names) == 1 and not hint:
        return (names[0],)
    raise DataError(
        f"cannot tell which column is the text; columns found: {column_list(dataset)}. "
        f"Name it with --text-column (two, separated by a comma, for pairs){hint}"
    )


def usual_name(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Returns the first usual name that the data has, in the data's own spelling; None without any.

    Args:
        names: names of the columns.
        usual: usual names in lower case, the most specific first.
    """
    lowered = {name.strip(SPACES).lower(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def require_column(dataset: Dataset, name: str, option: str) -> str:
    """Returns the name of a column after checking that the data has it.

    Args:
        dataset: rows.
        name: the column.
        option: the command-line option that named it, for the message.

    Raises:
        DataError: the column is missing; the message lists the columns.
    """
    if name not in dataset.column_names:
        raise DataError(
            f"the data has no column '{name}' ({option}); columns found: {column_list(dataset)}."
            f"{did_you_mean(name, list(dataset.column_names))}{_header_hint(dataset)}"
        )
    return name


def column_list(dataset: Dataset) -> str:
    """Returns the names of the columns for a message, at most 20 of them."""
    names = [name if len(name) <= 40 else name[:37] + "..." for name in dataset.column_names]
    return ", ".join(f"'{name}'" for name in names[:20]) + (", ..." if len(names) > 20 else "")


def _header_hint(dataset: Dataset) -> str:
    """Returns advice where the header looks like a row of data; empty where the names look like names."""

    def like_data(name: str) -> bool:
        number = re.fullmatch(r"[-+]?\d+(\.\d+)?", name.strip(SPACES))
        return bool(number) or len(name) > 60 or name.count(" ") > 3

    if not any(map(like_data, dataset.column_names)):
        return ""
    return ". The first line of the file looks like data: put a header line before it, such as label and text"


def read_column(dataset: Dataset, name: str) -> list[Any]:
    """Returns all values of one column.

    Args:
        dataset: rows.
        name: the column.

    Raises:
        DataError: the column is missing.
    """
    if name not in dataset.column_names:
        raise DataError(f"the data has no column '{name}'; columns found: {column_list(dataset)}")
    values: list[Any] = dataset.with_format(None).select_columns([name])[:][name]
    return values


def read_texts(dataset: Dataset, name: str) -> list[str]:
    """Returns all texts of one column; a missing text becomes an empty one, a number its decimal text.

    Args:
        dataset: rows.
        name: the column.

    Raises:
        DataError: the column is missing, or holds other values, such as lists.
    """
    values = read_column(dataset, name)
    other = next((v for v in values if v is not None and not isinstance(v, str | int | float)), None)
    if other is not None:
        raise DataError(
            f"column '{name}' holds {type(other).__name__} values such as {str(other)[:60]}, not text; name another "
            "column with --text-column"
        )
    return ["" if v is None else v if isinstance(v, str) else str(v) for v in values]
