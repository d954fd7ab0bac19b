"""One choice of columns for all splits of a run: calibration data, evaluation data.

Each split is looked at by itself first. Where the choices differ, the one that all splits have is taken; where there is
none, or more than one, the data is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.core.errors import DataError
from compress.data.columns import Columns
from compress.data.text_files import SPACES

if TYPE_CHECKING:
    from datasets import Dataset

CALIBRATION, EVALUATION = "calibration data", "evaluation data"

_Names = tuple[str, ...]


def agree_on_columns(splits: Mapping[str, Dataset], chosen: Mapping[str, Columns]) -> dict[str, Columns]:
    """Returns the columns of each split after making them the same in all splits.

    A split may lack the labels. Names that differ only in case and outer spaces count as equal.

    Args:
        splits: rows by name of the split, such as ``evaluation data``.
        chosen: the columns that each split by itself would use.

    Raises:
        DataError: the splits call for different columns.
    """
    texts = {name: columns.text for name, columns in chosen.items()}
    common, notes = _common(splits, texts, "text", "--text-column")
    agreed = {name: replace(columns, text=common[name]) for name, columns in chosen.items()}
    labels = {name: (columns.label,) for name, columns in agreed.items() if columns.label is not None}
    common, more = _common(splits, labels, "labels", "--label-column")
    agreed = {
        name: replace(columns, label=common[name][0]) if name in common else columns for name, columns in agreed.items()
    }
    for name, columns in agreed.items():
        if columns.label in columns.text:
            raise DataError(
                f"column '{columns.label}' of the {name} would be text and label; name the columns with --text-column "
                "and --label-column"
            )
    if notes or more:
        first = next(iter(agreed))
        kept = [guess for guess in agreed[first].guesses if not (notes and guess.startswith("text "))]
        kept = [guess for guess in kept if not (more and guess.startswith("labels "))]
        agreed[first] = replace(agreed[first], guesses=(*kept, *notes, *more))
    return agreed


def _common(
    splits: Mapping[str, Dataset], wanted: Mapping[str, _Names], what: str, option: str
) -> tuple[dict[str, _Names], list[str]]:
    """Returns the columns of each split that wants any, in its own spelling, and remarks as sentences to print."""
    if len({_plain(names) for names in wanted.values()}) < 2:
        return dict(wanted), []
    spelled = {name: {_plain((column,)): column for column in reversed(splits[name].column_names)} for name in wanted}
    fitting = [
        choice
        for choice in dict.fromkeys(map(_plain, wanted.values()))
        if all((part,) in own for own in spelled.values() for part in choice)
    ]
    if len(fitting) == 1:
        (choice,) = fitting
        shown = _shown(choice)
        found = {name: tuple(own[(part,)] for part in choice) for name, own in spelled.items()}
        return found, [f"{what} in all parts of the data: {shown}, which all of them have ({option} names another)"]
    each = ", ".join(f"{_shown(names)} in the {name}" for name, names in wanted.items())
    raise DataError(
        f"the {what} would come from different columns: {each}; rename one of them, so that one choice holds for all, "
        f"or name a column that all of the data has with {option}"
    )


def _plain(names: _Names) -> _Names:
    return tuple(name.strip(SPACES).lower() for name in names)


def _shown(names: _Names) -> str:
    return " and ".join(f"'{name}'" for name in names)


def label_difference(labelled: Mapping[str, bool]) -> str | None:
    """Returns the sentence for a run of which one split has labels and the other has none; None where both are alike.

    Args:
        labelled: whether each split has labels, by name of the split.
    """
    calibration, evaluation = labelled.get(CALIBRATION), labelled.get(EVALUATION)
    if calibration is None or evaluation is None or calibration == evaluation:
        return None
    if calibration:
        return (
            f"warning: the {EVALUATION} has no labels, the {CALIBRATION} has: not the metric is measured, but fidelity "
            "to the dense model"
        )
    return f"the {CALIBRATION} has no labels, the {EVALUATION} has: calibration is label-free, the metric is measured"
