"""Data in: files, directories and hub data sets become rows, tokenised rows become padded batches.

Local files are read into memory with pyarrow and the standard library and wrapped as ``datasets.Dataset``: the file
readers of ``datasets`` itself copy every file into a cache on disk first, guess types (a text "007" becomes 7, "NA"
becomes nothing) and report damage without saying where. ``load_dataset`` serves what comes from the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compress.core.errors import DataError
from compress.data.batches import _sample
from compress.data.hub import existing, hub_reachable, looks_local
from compress.data.images import classes_of, located, table_of
from compress.data.tables import SUFFIXES, first_line, read_table

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Split = Literal["train", "validation"]

# File names (and hub splits) that hold a split, most specific first. "test" is last: where a benchmark hides its
# labels it is the test split, and a validation split is then there as well.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "test"),
}


def sample_rows(dataset: Dataset, n: int | None, seed: int) -> Dataset:
    """A random sample of ``n`` rows without replacement, in their order in the data: tokenise these, not all.

    Args:
        dataset: rows.
        n: rows wanted; None or at least the number of rows gives all of them.
        seed: equal seeds give equal rows.
    """
    if n is None or n >= len(dataset):
        return dataset
    return dataset.select(_sample(len(dataset), n, seed))


def load_data(source: str, split: Split) -> Dataset:
    """Read rows.

    Args:
        source: a csv, tsv (as GLUE has it: tabs, a header, no quoting), jsonl or parquet file; a directory with
            ``train.*`` and ``validation.*`` (or ``dev.*``, ``test.*``) files, or with folders of these names that hold
            a folder of images for each class, or with a folder for each class; or the name of a hub data set, with
            ``name:configuration`` for one of its configurations.
        split: which part of a directory or hub data set; a single file is both, and so is a lone folder of classes.

    Returns:
        The rows, in memory (a hub data set: memory-mapped from the hub's own cache). All columns of csv and tsv
        files are strings; an empty field is an empty string.

    Raises:
        DataError: nothing there, not readable, damaged, or no rows.
    """
    try:
        path = existing(source)
        if path is not None:
            classes = _classes(path, split) if path.is_dir() else {}
            if classes:
                return _in_memory(table_of(classes), f"{path.resolve()} {split}", f"'{path}'")
            return _as_dataset(_find_split(path, split) if path.is_dir() else [path])
    except OSError as error:
        raise DataError(f"cannot read data '{source}': {first_line(error)}") from None
    if looks_local(source):
        raise DataError(
            f"data '{source}' does not exist{_where(source)}; give a csv, tsv, jsonl or parquet file, a directory with "
            "train and validation files, or the name of a data set on the hub"
        )
    return _from_hub(source, split)


def _where(source: str) -> str:
    """A hint on the deepest directory of a missing path that is there."""
    parent = next((p for p in Path(source).parents if p.is_dir()), None)
    if parent is None or not os.access(parent, os.R_OK):
        return ""
    found = sorted(p.name for p in parent.iterdir() if p.suffix in SUFFIXES)[:8]
    return f" ('{parent}' has {', '.join(found)})" if found else f" ('{parent}' does)"


def _find_split(directory: Path, split: Split) -> list[Path]:
    """The files of a split: ``train.csv``, or shards as the hub names them (``train-00000-of-00002.parquet``)."""
    # Downloaded hub repositories keep their files in data/.
    folders = [directory, directory / "data"]
    files = sorted(f for folder in folders if folder.is_dir() for f in folder.iterdir() if f.suffix in SUFFIXES)
    for name in SPLIT_NAMES[split]:
        pattern = re.compile(rf"{name}(-\d+-of-\d+)?", re.IGNORECASE)
        matches = [f for f in files if pattern.fullmatch(f.stem)]
        whole = [f for f in matches if f.stem.lower() == name]
        if len(whole) > 1 or (whole and len(whole) != len(matches)):
            raise DataError(
                f"'{directory}' has several files for '{name}': {', '.join(f.name for f in matches)}; give one of them"
            )
        if matches:
            return matches
    found = ", ".join(f.name for f in files[:12]) or "no data files"
    raise DataError(
        f"'{directory}' has no {split} data: expected a file named {' or '.join(SPLIT_NAMES[split])} ending in "
        f"{', '.join(SUFFIXES)}; found {found}. Rename it, or give the file itself"
    )


def _as_dataset(files: list[Path]) -> Dataset:
    import pyarrow as pa

    shown = f"'{files[0]}'" if len(files) == 1 else f"'{files[0]}' and {len(files) - 1} more"
    try:
        tables = [located(read_table(f), f.parent) for f in files]
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the parts of {shown} do not have the same columns: {first_line(error)}") from None
    if table.num_rows == 0:
        raise DataError(f"data {shown} has no rows; its columns: {', '.join(table.column_names) or 'none'}")
    stamp = "".join(f"{f.resolve()} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in files)
    return _in_memory(table, stamp, shown)


def _in_memory(table: pa.Table, stamp: str, shown: str) -> Dataset:
    """A table as a data set."""
    with _quiet() as datasets:
        try:
            # Without a fingerprint of ours, datasets would pickle and hash the whole table for one.
            return datasets.Dataset(
                datasets.table.InMemoryTable(table), fingerprint=hashlib.sha256(stamp.encode()).hexdigest()[:16]
            )
        except (ValueError, TypeError, NotImplementedError, KeyError) as error:
            raise DataError(f"data {shown} has a column of an unsupported type: {first_line(error)}") from None


def _classes(directory: Path, split: Split) -> dict[str, list[Path]]:
    """Images by class: of the folder of a split, or of the directory itself; empty where there are none."""
    folders = {folder.name.lower(): folder for folder in sorted(directory.iterdir()) if folder.is_dir()}
    for name in SPLIT_NAMES[split]:
        if name in folders and (found := classes_of(folders[name])):
            return found
    if any(name in folders for names in SPLIT_NAMES.values() for name in names):
        return {}
    return classes_of(directory)


def _from_hub(source: str, split: Split) -> Dataset:
    name, _, configuration = source.partition(":")
    advice = f"if '{source}' was meant as a path, there is no such file or directory"
    if not hub_reachable():
        raise DataError(
            f"data '{source}' is not on this machine and the hub cannot be reached; {advice}. For a data set already "
            "in the hub's cache set HF_HUB_OFFLINE=1"
        )
    with _quiet() as datasets:
        try:
            splits = datasets.get_dataset_split_names(name, configuration or None)
            chosen = next((s for s in SPLIT_NAMES[split] if s in splits), None)
            if chosen is None:
                raise DataError(f"hub data set '{source}' has no {split} split; it has {', '.join(splits)}")
            loaded: Dataset = datasets.load_dataset(name, configuration or None, split=chosen)
        except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"cannot load hub data set '{source}': {first_line(error)}; {advice}") from None
    if len(loaded) == 0:
        raise DataError(f"the {chosen} split of hub data set '{source}' has no rows")
    return loaded


@contextmanager
def _quiet() -> Iterator[Any]:
    """The library ``datasets``, without its progress bars and log lines; the user's settings come back after."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
