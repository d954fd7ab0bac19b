"""Maps labels, as the data writes them, to the numbers that they have in the model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.data.columns import read_column
from compress.data.origin import place
from compress.data.text_files import SPACES

if TYPE_CHECKING:
    from datasets import Dataset


def label_text(value: Any) -> str:
    """Returns a label as text: 1, 1.0 and ``" 1"`` all give ``"1"``; None and NaN give an empty text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip(SPACES)


def model_labels(config: Any) -> dict[str, int]:
    """Returns the number of each class name of a checkpoint, and of each lower-case spelling that is unambiguous."""
    named = {str(name).strip(SPACES): int(number) for number, name in (config.id2label or {}).items()}
    lowered: dict[str, set[int]] = {}
    for name, number in named.items():
        lowered.setdefault(name.lower(), set()).add(number)
    return {name: min(numbers) for name, numbers in lowered.items() if len(numbers) == 1} | named


def label_ids(dataset: Dataset, column: str, config: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    """Maps every label in a column to the model's number: by class name if all labels are names, else by number.

    Args:
        dataset: all rows, so that a wrong label in any of them is found.
        column: the column of labels.
        config: the checkpoint's configuration (``id2label``, ``num_labels``).

    Returns:
        The number of each label, by its ``label_text``, empty where the whole column is empty; and remarks as
        sentences to print.

    Raises:
        DataError: the model does not know a label, or only some rows have labels.
    """
    counts, missing = _count_labels(read_column(dataset, column))
    if _is_unlabelled(counts, config):
        return {}, (f"column '{column}' has no labels: label-free",)
    if missing:
        raise DataError(
            f"{missing} of {len(dataset)} rows have no label in column '{column}'; remove these rows, or name another "
            "column with --label-column"
        )

    return _match_labels(counts, column, config, getattr(dataset.features[column], "names", None))


def tag_ids(
    dataset: Dataset, column: str, rows: Sequence[Sequence[Any]], config: Any
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Maps every tag to the model's number, as ``label_ids`` does; each row of the column is a list of tags.

    Args:
        dataset: all rows.
        column: the column of tags.
        rows: the tags of each row.
        config: the checkpoint's configuration (``id2label``, ``num_labels``).

    Returns:
        As ``label_ids``.

    Raises:
        DataError: the model does not know a tag, or only some words have tags.
    """
    counts, missing = _count_labels([tag for row in rows for tag in row])
    if _is_unlabelled(counts, config):
        return {}, (f"column '{column}' has no tags: label-free",)
    if missing:
        raise DataError(f"{missing} words have no tag in column '{column}'; every word needs one, such as O")
    inner = getattr(dataset.features[column], "feature", None)
    return _match_labels(counts, column, config, getattr(inner, "names", None))


def _count_labels(values: Sequence[Any]) -> tuple[dict[str, int], int]:
    """Returns the count of each label, and the number of missing labels."""
    counts: dict[str, int] = {}
    for value in values:
        text = label_text(value)
        counts[text] = counts.get(text, 0) + 1
    missing = counts.pop("", 0)
    return counts, missing


def _is_unlabelled(counts: Mapping[str, int], config: Any) -> bool:
    # Benchmarks write -1 for the hidden labels of a test split.
    return not counts or (set(counts) == {"-1"} and "-1" not in model_labels(config))


def _match_labels(
    counts: Mapping[str, int], column: str, config: Any, stated: list[str] | None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Maps labels to the model's numbers.

    Args:
        counts: count of each label.
        column: the column of labels, for messages.
        config: the checkpoint's configuration.
        stated: class names that the data set declares for its numbers; None without any.
    """
    known = model_labels(config)

    def number(name: str) -> int | None:
        return known.get(name.strip(SPACES), known.get(name.strip(SPACES).lower()))

    if stated:
        # Hub data sets store numbers and declare the names, in an order that may differ from the model's.
        names = {
            text: number(stated[int(text)]) if text.isdigit() and int(text) < len(stated) else None for text in counts
        }
        if all(n is not None for n in names.values()):
            return {text: n for text, n in names.items() if n is not None}, ()
    by_name = {text: n for text in counts if (n := number(text)) is not None}
    if len(by_name) == len(counts):
        return by_name, ()
    by_number = {text: n for text in counts if (n := _class_number(text)) is not None and 0 <= n < config.num_labels}
    if len(by_number) < len(counts):
        unknown = sorted(set(counts) - set(by_name) - set(by_number))
        if not unknown:
            raise DataError(
                f"column '{column}' has names ('{min(by_name)}') and numbers ('{min(set(counts) - set(by_name))}') as "
                f"labels; use one or the other: {_label_list(config)}"
            )
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(
            f"column '{column}' has labels that the model does not know: "
            f"{', '.join(repr(text[:40]) for text in unknown[:5])}{more}. It knows {_label_list(config)}; "
            "change the data, or name another column with --label-column"
        )
    if not stated:
        return by_number, ()
    note = f"labels are matched by number: the data calls them {', '.join(stated[:8])}, the model {_label_list(config)}"
    return by_number, (note,)


def read_numbers(dataset: Dataset, column: str) -> NDArray[np.float64] | None:
    """Returns the numbers of one column, [n]; None where the whole column is empty.

    Args:
        dataset: rows.
        column: the column of numbers.

    Raises:
        DataError: a value is not a finite number, or only some rows have values.
    """
    texts = [label_text(value) for value in read_column(dataset, column)]
    missing = texts.count("")
    if missing == len(texts):
        return None
    if missing:
        raise DataError(
            f"{missing} of {len(texts)} rows have no number in column '{column}'; remove these rows, or name another "
            "column with --label-column"
        )
    numbers = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            numbers[i] = float(text)
        except ValueError:
            numbers[i] = np.nan
        if not np.isfinite(numbers[i]):
            raise DataError(
                f"column '{column}' has {text[:40]!r} in {place(dataset, i)}, which is not a number; change "
                "it, or name another column with --label-column"
            )
    return numbers


def _class_number(text: str) -> int | None:
    """Parses a class number such as ``"1"``, ``"1.0"`` or ``"true"``; None where the text is not a whole number."""
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    return int(text.split(".")[0]) if re.fullmatch(r"\+?[0-9]{1,9}(\.0*)?", text) else None


def _label_list(config: Any) -> str:
    labels = [f"{number} = {name}" for number, name in sorted((config.id2label or {}).items())]
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
