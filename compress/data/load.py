"""Loads files, directories and hub data sets as rows.

Local files are read into memory with pyarrow and the standard library and wrapped as ``datasets.Dataset``. The file
readers of ``datasets`` itself copy every file into a cache on disk first, guess types (a text "007" becomes 7, "NA"
becomes None) and report damage without its place. Data sets of the hub are loaded with ``load_dataset``.
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
from compress.data.batches import sample_indices
from compress.data.columns import read_column, usual_name
from compress.data.hub import existing_path, from_hub, hub_reachable, looks_like_path
from compress.data.images import class_folder, image_table, images_by_class, with_absolute_paths
from compress.data.names import DISPUTED
from compress.data.origin import Origin, Part, select_rows, with_origin
from compress.data.saved import is_saved, is_saved_part, read_saved, saved_folder
from compress.data.tables import SUFFIXES, read_file
from compress.data.text_files import PACKED, data_stem, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Split = Literal["train", "validation"]

# Names of a split's files (and hub splits), most specific first. "test" is last: benchmarks that hide labels hide
# those of the test split, and have a validation split as well.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "validation_matched", "dev_matched", "test"),
}


def sample_rows(dataset: Dataset, n: int | None, seed: int) -> Dataset:
    """Returns a random sample of rows without replacement, in the order of the data, so that only these are tokenised.

    Args:
        dataset: rows.
        n: number of rows; None, or as many as there are, gives all of them.
        seed: equal seeds give equal rows.
    """
    if n is None or n >= len(dataset):
        return dataset
    return select_rows(dataset, sample_indices(len(dataset), n, seed))


def is_one_part(source: str) -> bool:
    """Whether a path has no splits: a file, a folder of classes, or a saved data set without splits."""
    path = Path(source).expanduser()
    return path.is_file() or class_folder(source) is not None or (path.is_dir() and is_saved_part(path))


def load_data(source: str, split: Split, words: bool | None = None) -> Dataset:
    """Reads the rows of a file, directory or hub data set.

    Args:
        source: one of

            - a csv, tsv (as in GLUE: tabs, a header, no quoting), json, jsonl, parquet, CoNLL or text file, which
              may be packed (``.gz``, ``.bz2``, ``.zst``);
            - a folder of ``save_to_disk``;
            - a directory with ``train.*`` and ``validation.*`` (or ``dev.*``, ``test.*``) files;
            - a directory with folders of these names, each with one folder of images per class;
            - a directory with one folder of images per class;
            - the name of a hub data set, or ``name:configuration`` for one of its configurations.
        split: the part of a directory or hub data set; a single file, or a lone folder of classes, is both parts.
        words: whether a tag per word is expected, as for ``read_file``.

    Returns:
        The rows, in memory (data sets of the hub and of ``save_to_disk``: memory-mapped). All columns of csv and tsv
        files are strings; an empty field is an empty string. Rows whose ``gold_label`` is ``-`` are left out.

    Raises:
        DataError: the data is missing, not readable, damaged, or has no rows.
    """
    try:
        path = existing_path(source)
        if path is not None:
            if path.is_dir() and is_saved(path):
                return _without_disputed(_from_disk(path, split))
            classes = _images_of_split(path, split) if path.is_dir() else {}
            if classes:
                return _in_memory(image_table(classes), f"{path.resolve()} {split}", f"'{path}'")
            return _without_disputed(_read_files(_find_split(path, split) if path.is_dir() else [path], words))
    except OSError as error:
        raise DataError(f"cannot read data '{source}': {first_line(error)}") from None
    if looks_like_path(source):
        raise DataError(
            f"data '{source}' does not exist{_path_hint(source)}; give a csv, tsv, jsonl or parquet file, a directory "
            "with train and validation files, or the name of a data set on the hub"
        )
    return _without_disputed(_from_hub(source, split))


def _path_hint(source: str) -> str:
    """Returns a hint that names the deepest directory of a missing path that exists."""
    parent = next((p for p in Path(source).parents if p.is_dir()), None)
    if parent is None or not os.access(parent, os.R_OK):
        return ""
    found = sorted(p.name for p in parent.iterdir() if _is_data(p))[:8]
    return f" ('{parent}' has {', '.join(found)})" if found else f" ('{parent}' does)"


def _is_data(path: Path) -> bool:
    suffix = path.suffix.lower()
    return (Path(path.stem).suffix.lower() if suffix in PACKED else suffix) in SUFFIXES


def _find_split(directory: Path, split: Split) -> list[Path]:
    """Returns the files of a split: ``train.csv``, or shards named as on the hub (``train-00000-of-00002.parquet``)."""
    # Downloaded hub repositories keep their files in data/.
    folders = [directory, directory / "data"]
    files = sorted(f for folder in folders if folder.is_dir() for f in folder.iterdir() if _is_data(f))
    for name in SPLIT_NAMES[split]:
        pattern = re.compile(rf"{name}(-\d+-of-\d+)?", re.IGNORECASE)
        matches = [f for f in files if pattern.fullmatch(data_stem(f))]
        whole = [f for f in matches if data_stem(f).lower() == name]
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


def _read_files(files: list[Path], words: bool | None) -> Dataset:
    import pyarrow as pa

    shown = f"'{files[0]}'" if len(files) == 1 else f"'{files[0]}' and {len(files) - 1} more"
    try:
        found = [read_file(f, words) for f in files]
        tables = [with_absolute_paths(rows.table, f.parent) for rows, f in zip(found, files, strict=True)]
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the parts of {shown} do not have the same columns: {first_line(error)}") from None
    if table.num_rows == 0:
        raise DataError(f"data {shown} has no rows; its columns: {', '.join(table.column_names) or 'none'}")
    stamp = "".join(f"{f.resolve()} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in files)
    parts = [Part(f.name, rows.table.num_rows, rows.line) for rows, f in zip(found, files, strict=True)]
    notes = dict.fromkeys(note for rows in found for note in rows.notes)
    return with_origin(_in_memory(table, stamp, shown), Origin(tuple(parts), notes=tuple(notes)))


def _from_disk(directory: Path, split: Split) -> Dataset:
    folder = saved_folder(directory, SPLIT_NAMES[split])
    with _quiet() as datasets:
        rows = read_saved(folder, datasets)
    return with_origin(rows, Origin((Part(str(folder), len(rows)),)))


def _without_disputed(dataset: Dataset) -> Dataset:
    """Leaves out the rows on whose label the annotators of a benchmark did not agree."""
    column = usual_name(dataset.column_names, (DISPUTED[0],))
    if column is None:
        return dataset
    values = read_column(dataset, column)
    kept = [number for number, value in enumerate(values) if value != DISPUTED[1]]
    if not kept or len(kept) == len(values):
        return dataset
    count = len(values) - len(kept)
    note = f"{count} of {len(values)} rows are left out: their {column} is '-', as the annotators did not agree"
    return select_rows(dataset, kept, note)


def _in_memory(table: pa.Table, stamp: str, shown: str) -> Dataset:
    """Wraps a table as a data set; ``stamp`` identifies its content."""
    with _quiet() as datasets:
        try:
            # Without a fingerprint, datasets would pickle and hash the whole table to make one.
            return datasets.Dataset(
                datasets.table.InMemoryTable(table), fingerprint=hashlib.sha256(stamp.encode()).hexdigest()[:16]
            )
        except (ValueError, TypeError, NotImplementedError, KeyError) as error:
            raise DataError(f"data {shown} has a column of an unsupported type: {first_line(error)}") from None


def _images_of_split(directory: Path, split: Split) -> dict[str, list[Path]]:
    """Returns the images of each class: in the folder of a split, or in the directory itself; empty without any."""
    folders = {folder.name.lower(): folder for folder in sorted(directory.iterdir()) if folder.is_dir()}
    for name in SPLIT_NAMES[split]:
        if name in folders and (found := images_by_class(folders[name])):
            return found
    if any(name in folders for names in SPLIT_NAMES.values() for name in names):
        return {}
    return images_by_class(directory)


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
            splits = from_hub(source, lambda: datasets.get_dataset_split_names(name, configuration or None))
            chosen = next((s for s in SPLIT_NAMES[split] if s in splits), None)
            if chosen is None:
                raise DataError(f"hub data set '{source}' has no {split} split; it has {', '.join(splits)}")
            loaded: Dataset = from_hub(source, lambda: datasets.load_dataset(name, configuration or None, split=chosen))
        except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"cannot load hub data set '{source}': {first_line(error)}; {advice}") from None
    if len(loaded) == 0:
        raise DataError(f"the {chosen} split of hub data set '{source}' has no rows")
    return with_origin(loaded, Origin((Part(f"{source} ({chosen})", len(loaded)),)))


@contextmanager
def _quiet() -> Iterator[Any]:
    """Yields the library ``datasets`` with progress bars and log lines off; restores the user's settings at the end."""
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
