"""Maps labels, as the data writes them, to the numbers that they have in the model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    """Returns the number of each class name of a checkpoint, and of each lower-case spelling that is unambiguous.

    A name that several classes share says nothing and is left out.
    """
    exact: dict[str, set[int]] = {}
    lowered: dict[str, set[int]] = {}
    for number, name in (config.id2label or {}).items():
        text = str(name).strip(SPACES)
        exact.setdefault(text, set()).add(int(number))
        lowered.setdefault(text.lower(), set()).add(int(number))
    return {name: min(numbers) for names in (lowered, exact) for name, numbers in names.items() if len(numbers) == 1}


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one split of the data.

    Attributes:
        split: name of the split for messages, such as ``evaluation data``; empty where there is only one.
        column: the column of labels.
        counts: how often each label occurs, by its ``label_text``.
        stated: class names that the data set declares for its numbers; None without any.
    """

    split: str
    column: str
    counts: Mapping[str, int]
    stated: Sequence[str] | None = None

    @property
    def shown(self) -> str:
        """The column in a message."""
        return f"column '{self.column}'" + (f" of the {self.split}" if self.split else "")


@dataclass(frozen=True)
class LabelReading:
    """What the labels of a run mean: one decision over all splits.

    Attributes:
        numbers: for each split the model's number of each label, by its ``label_text``.
        kind: whether labels are class names or class numbers; None where it makes no difference.
        notes: remarks as sentences to print.
    """

    numbers: tuple[Mapping[str, int], ...]
    kind: Literal["names", "numbers"] | None
    notes: tuple[str, ...] = ()


def label_column(dataset: Dataset, column: str, config: Any, split: str = "") -> LabelColumn | None:
    """Reads the labels of one split, one in each row.

    Args:
        dataset: all rows, so that a wrong label in any of them is found.
        column: the column of labels.
        config: the checkpoint's configuration (``id2label``).
        split: name of the split for messages.

    Returns:
        The labels; None where the whole column is empty.

    Raises:
        DataError: only some rows have labels.
    """
    counts, missing = _count_labels(read_column(dataset, column))
    if _is_unlabelled(counts, config):
        return None
    labels = LabelColumn(split, column, counts, getattr(dataset.features[column], "names", None))
    if missing:
        raise DataError(
            f"{missing} of {len(dataset)} rows have no label in {labels.shown}; remove these rows, or name another "
            "column with --label-column"
        )
    return labels


def tag_column(
    dataset: Dataset, column: str, rows: Sequence[Sequence[Any]], config: Any, split: str = ""
) -> LabelColumn | None:
    """Reads the tags of one split; each row of the column is a list of tags.

    Args:
        dataset: all rows.
        column: the column of tags.
        rows: the tags of each row.
        config: the checkpoint's configuration (``id2label``).
        split: name of the split for messages.

    Returns:
        The tags; None where the whole column is empty.

    Raises:
        DataError: only some words have tags.
    """
    counts, missing = _count_labels([tag for row in rows for tag in row])
    if _is_unlabelled(counts, config):
        return None
    inner = getattr(dataset.features[column], "feature", None)
    tags = LabelColumn(split, column, counts, getattr(inner, "names", None))
    if missing:
        raise DataError(f"{missing} words have no tag in {tags.shown}; every word needs one, such as O")
    return tags


def label_ids(dataset: Dataset, column: str, config: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    """Maps every label in the column of a lone split to the model's number, as ``read_labels`` does.

    Args:
        dataset: all rows, so that a wrong label in any of them is found.
        column: the column of labels.
        config: the checkpoint's configuration (``id2label``, ``num_labels``).

    Returns:
        The number of each label, by its ``label_text``, empty where the whole column is empty; and remarks as
        sentences to print.

    Raises:
        DataError: the model does not know a label, only some rows have labels, or names and numbers contradict.
    """
    labels = label_column(dataset, column, config)
    if labels is None:
        return {}, (f"column '{column}' has no labels: label-free",)
    reading = read_labels([labels], config)
    return dict(reading.numbers[0]), reading.notes


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


def read_labels(splits: Sequence[LabelColumn], config: Any) -> LabelReading:
    """Decides whether labels are class names or class numbers, once for all splits.

    A label may be a name of the model ("positive"), a number of the model ("1"), or a number for which the data set
    itself declares a name (``stated``). All labels of all splits decide together, so that a class which one split
    lacks changes nothing.

    Args:
        splits: the labels of every split that has any.
        config: the checkpoint's configuration (``id2label``, ``num_labels``).

    Raises:
        DataError: the model does not know a label; some labels are names and others numbers; or both readings fit
            and disagree.
    """
    names = [_by_name(labels, config) for labels in splits]
    numbers = [_by_number(labels, config) for labels in splits]
    for labels, by_name, by_number in zip(splits, names, numbers, strict=True):
        _refuse_unknown(labels, by_name, by_number, config)
    named = all(len(found) == len(labels.counts) for labels, found in zip(splits, names, strict=True))
    numbered = all(len(found) == len(labels.counts) for labels, found in zip(splits, numbers, strict=True))
    if not named and not numbered:
        _refuse_mixed(splits, names, numbers, config)
    unlike = [
        (labels, text)
        for labels, by_name, by_number in zip(splits, names, numbers, strict=True)
        for text in sorted(labels.counts)
        if text in by_name and text in by_number and by_name[text] != by_number[text]
    ]
    if named:
        # What the data set declares is no guess; all else may be either.
        guessed = next((pair for pair in unlike if not pair[0].stated), None)
        if numbered and guessed is not None:
            _refuse_ambiguous(*guessed, config)
        return LabelReading(tuple(names), None if numbered and not unlike else "names")
    # A split that declares names which the model knows otherwise contradicts the bare numbers of another one.
    contradicted = next((pair for pair in unlike if pair[0].stated and _declares(pair[0], config)), None)
    if contradicted is not None:
        _refuse_declared(*contradicted, config)
    notes = [
        f"labels are matched by number: the data calls them {', '.join(labels.stated[:8])}, the model "
        f"{label_list(config)}"
        for labels in splits
        if labels.stated and not _declares(labels, config)
    ]
    return LabelReading(tuple(numbers), "numbers", tuple(dict.fromkeys(notes)))


def _by_name(labels: LabelColumn, config: Any) -> dict[str, int]:
    """Returns the model's number of each label that is a class name, or for which the data declares one."""
    known = model_labels(config)
    if labels.stated and _declares(labels, config):
        return {text: _named(labels.stated[int(text)], known) for text in labels.counts}  # type: ignore[misc]
    return {text: number for text in labels.counts if (number := _named(text, known)) is not None}


def _named(name: str, known: Mapping[str, int]) -> int | None:
    spellings = [name.strip(SPACES), name.strip(SPACES).lower()]
    if (whole := _whole_number(name)) is not None:
        # Files of numbers may hold 1.0 for a class called "1".
        spellings.append(str(whole))
    return next((known[spelling] for spelling in spellings if spelling in known), None)


def _by_number(labels: LabelColumn, config: Any) -> dict[str, int]:
    """Returns the model's number of each label that is a number within the head's width."""
    known = model_labels(config)
    found = {}
    for text in labels.counts:
        number = _whole_number(text)
        if number is None and text.lower() in ("true", "false") and _named(text, known) is None:
            number = int(text.lower() == "true")
        if number is not None and 0 <= number < config.num_labels:
            found[text] = number
    return found


def _declares(labels: LabelColumn, config: Any) -> bool:
    """Returns whether the data set declares a name that the model knows for each of its numbers."""
    known, stated = model_labels(config), labels.stated or ()
    # Hub data sets store numbers and declare the names, in an order that may differ from the model's.
    return all(
        text.isascii()
        and text.isdigit()
        and int(text[:9]) < len(stated)
        and _named(stated[int(text)], known) is not None
        for text in labels.counts
    )


def _refuse_unknown(labels: LabelColumn, by_name: Mapping[str, int], by_number: Mapping[str, int], config: Any) -> None:
    unknown = sorted(set(labels.counts) - set(by_name) - set(by_number))
    if not unknown:
        return
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    raise DataError(
        f"{labels.shown} has labels that the model does not know: "
        f"{', '.join(repr(text[:40]) for text in unknown[:5])}{more}. It knows {label_list(config)}; "
        "change the data, or name another column with --label-column"
    )


def _refuse_mixed(
    splits: Sequence[LabelColumn],
    names: Sequence[Mapping[str, int]],
    numbers: Sequence[Mapping[str, int]],
    config: Any,
) -> None:
    """Raises DataError with a label that is only a name and one that is only a number."""
    name, name_in = min((text, i) for i, labels in enumerate(splits) for text in set(labels.counts) - set(numbers[i]))
    number, number_in = min((text, i) for i, labels in enumerate(splits) for text in set(labels.counts) - set(names[i]))
    if name_in == number_in:
        where = f"{splits[name_in].shown} has names ('{name[:40]}') and numbers ('{number[:40]}') as labels"
    else:
        where = (
            f"{splits[name_in].shown} has names ('{name[:40]}') as labels, {splits[number_in].shown} numbers "
            f"('{number[:40]}')"
        )
    raise DataError(f"{where}; use one or the other: {label_list(config)}")


def _refuse_ambiguous(labels: LabelColumn, text: str, config: Any) -> None:
    known = model_labels(config)
    name, number = _named(text, known), _whole_number(text)
    assert name is not None and number is not None
    raise DataError(
        f"label '{text[:40]}' in {labels.shown} can be the class of that name (class {name}) or the class of that "
        f"number (called '{config.id2label[number]}'): the model's class names are numbers, {label_list(config)}. Name "
        "the classes in id2label of config.json so that they cannot be numbers (class 1, class 2), and write these "
        "names in the data, or the numbers from 0"
    )


def _refuse_declared(labels: LabelColumn, text: str, config: Any) -> None:
    assert labels.stated is not None
    raise DataError(
        f"{labels.shown} declares that {text} is '{labels.stated[int(text)]}', the model has {label_list(config)}, and "
        "another split has bare numbers, which do not say whose order they follow; write class names into all splits"
    )


def reading_note(reading: LabelReading, config: Any) -> str | None:
    """Returns the sentence that says how labels are read; None where both readings are the same.

    Args:
        reading: the decision.
        config: the checkpoint's configuration.
    """
    if reading.kind is None:
        return None
    return f"labels are read as class {reading.kind}: the model has {label_list(config)}"


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


def _whole_number(text: str) -> int | None:
    """Parses a number such as ``"1"`` or ``"1.0"``; None where the text is not a whole number."""
    return int(text.split(".")[0]) if re.fullmatch(r"\+?[0-9]{1,9}(\.0*)?", text.strip(SPACES)) else None


def label_list(config: Any) -> str:
    """Returns the model's classes for a message, at most eight of them."""
    labels = [f"{number} = {name}" for number, name in sorted((config.id2label or {}).items())]
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
