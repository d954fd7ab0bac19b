"""Reads folders of ``Dataset.save_to_disk`` and ``DatasetDict.save_to_disk``: arrow files with notes, no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError
from compress.data.text_files import first_line

if TYPE_CHECKING:
    from datasets import Dataset

_SEVERAL = "dataset_dict.json"
_ONE = ("dataset_info.json", "state.json")


def is_saved(directory: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (directory / _SEVERAL).is_file() or is_saved_part(directory)


def is_saved_part(directory: Path) -> bool:
    """Whether a folder holds one saved data set without splits."""
    return all((directory / name).is_file() for name in _ONE)


def saved_folder(directory: Path, names: tuple[str, ...]) -> Path:
    """Returns the folder of a split inside a saved data set; the folder itself where it has no splits.

    Args:
        directory: written by ``save_to_disk``.
        names: names of the split, the most specific first.

    Raises:
        DataError: the data set has no such split.
    """
    if is_saved_part(directory):
        return directory
    file = directory / _SEVERAL
    try:
        splits = [str(split) for split in json.loads(file.read_text("utf-8"))["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{file}' does not list the splits of a saved data set: {error!r}") from None
    chosen = next((name for name in names if name in splits), None)
    if chosen is None:
        raise DataError(
            f"saved data set '{directory}' has no split named {' or '.join(names)}; it has {', '.join(splits)}. Give "
            "the folder of one split, or save it under such a name"
        )
    return directory / chosen


def read_saved(folder: Path, datasets: Any) -> Dataset:
    """Reads one saved data set; its rows stay on disk.

    Args:
        folder: from ``saved_folder``.
        datasets: the library.

    Raises:
        DataError: the folder is damaged, or the data set has no rows.
    """
    import pyarrow as pa

    try:
        loaded: Any = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"saved data set '{folder}' cannot be read: {first_line(error)}; save it again") from None
    if not isinstance(loaded, datasets.Dataset) or len(loaded) == 0:
        raise DataError(f"saved data set '{folder}' has no rows; give at least one")
    rows: Dataset = loaded
    return rows
