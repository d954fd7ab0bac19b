"""Where rows come from: the file and row of every row of a data set, also after rows were drawn or held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasets import Dataset

# A data set keeps its origin in an attribute of this name: a column would look like data of the user.
_ATTRIBUTE = "_compress_origin"


@dataclass(frozen=True)
class Part:
    """Rows of one file, or of one split.

    Attributes:
        name: the file, as messages show it.
        count: number of rows.
        line: the line of a row (from 0), from 1; None where lines say nothing.
    """

    name: str
    count: int
    line: Callable[[int], int | None] | None = None


@dataclass(frozen=True)
class Origin:
    """Where the rows of a data set come from.

    Attributes:
        parts: the files, in the order of the rows.
        rows: position of each row among all rows of the files, int64 [n]; None where they are all of them.
        notes: decisions of the readers as sentences to print.
    """

    parts: tuple[Part, ...]
    rows: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    def __deepcopy__(self, memo: Any) -> Origin:
        # The library datasets copies a data set, with its attributes, for every change of format.
        return self


def with_origin(dataset: Dataset, origin: Origin) -> Dataset:
    """Records where the rows of a data set come from.

    Args:
        dataset: the rows; the origin is attached to it.
        origin: their files.

    Returns:
        The same data set.
    """
    setattr(dataset, _ATTRIBUTE, origin)
    return dataset


def select_rows(dataset: Dataset, indices: Sequence[int] | NDArray[np.int64], *notes: str) -> Dataset:
    """Returns some rows of a data set, which keep their origin.

    Args:
        dataset: rows.
        indices: positions of the rows to keep.
        notes: sentences to add to those of the readers.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    selected = dataset.select(chosen)
    origin = _origin(dataset)
    if origin is None:
        return selected
    rows = chosen if origin.rows is None else origin.rows[chosen]
    return with_origin(selected, replace(origin, rows=rows, notes=(*origin.notes, *notes)))


def notes_of(dataset: Dataset | None) -> tuple[str, ...]:
    """Returns the decisions of the readers of a data set as sentences to print."""
    origin = None if dataset is None else _origin(dataset)
    return () if origin is None else origin.notes


def place(dataset: Dataset, number: int) -> str:
    """Returns the row and file of a row for a message, such as ``row 6 (line 7) of 'train.csv'``.

    Args:
        dataset: rows.
        number: position of the row in the data set, from 0.

    Returns:
        The row's number in its file, from 1, without a header; the line is named where it differs. Only the row's
        number where the origin is not known.
    """
    origin = _origin(dataset)
    if origin is None:
        return f"row {number + 1}"
    row = number if origin.rows is None else int(origin.rows[number])
    for part in origin.parts:
        if row < part.count:
            line = part.line(row) if part.line else None
            shown = f" (line {line})" if line is not None and line != row + 1 else ""
            return f"row {row + 1}{shown} of '{part.name}'"
        row -= part.count
    return f"row {number + 1}"


def _origin(dataset: Dataset) -> Origin | None:
    return getattr(dataset, _ATTRIBUTE, None)
