"""Data in: files, directories and hub data sets become rows, tokenised rows become padded batches.

Local files are read into memory with pyarrow and the standard library and wrapped as ``datasets.Dataset``: the file
readers of ``datasets`` itself copy every file into a cache on disk first, guess types (a text "007" becomes 7, "NA"
becomes nothing) and report damage without saying where. ``load_dataset`` serves what comes from the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError
from compress.hub import existing, hub_reachable, looks_local
from compress.images import classes_of, located, table_of
from compress.readers import SUFFIXES, first_line, read_table

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from torch import Tensor

Split = Literal["train", "validation"]

# File names (and hub splits) that hold a split, most specific first. "test" is last: where a benchmark hides its
# labels it is the test split, and a validation split is then there as well.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "test"),
}


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        inputs: what the model's ``forward`` takes: int64 [batch, length], or float32 [batch, channels, height, width].
        mask: positions of the encoder's input that are no padding, bool [batch, positions].
        labels: int64 [batch] or [batch, ...] (floats for regression); None without labels.
        indices: positions of the examples in the ``Encoded`` they came from, int64 [batch].
    """

    inputs: dict[str, Tensor]
    mask: Tensor
    labels: Tensor | None
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Examples as the model reads them: rows of tokens, ragged, already cut to the sequence length, or images.

    Attributes:
        features: for each input of the model a list of n integer rows; the rows of one example are equally long. Or
            arrays of floats, all of one shape.
        labels: [n] or [n, ...]; None without labels.
        padding: the value that fills each feature up in a batch.
        targets: what the task's metric needs beyond a label per example (pairs, questions), for all examples
            together; None where it needs nothing more, and in a selection.
        positions: of the encoder's input that each example takes, where that is not the length of its rows.
    """

    features: dict[str, list[NDArray[Any]]]
    labels: NDArray[Any] | None
    padding: dict[str, int]
    targets: Any = None
    positions: int | None = None
    lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        kind = np.int32 if self.positions is None else np.float32
        features = {k: [np.asarray(row, dtype=kind) for row in rows] for k, rows in self.features.items()}
        object.__setattr__(self, "features", features)
        rows = next(iter(features.values()), [])
        lengths = (len(row) if self.positions is None else self.positions for row in rows)
        object.__setattr__(self, "lengths", np.fromiter(lengths, dtype=np.int64, count=len(rows)))
        for name, others in features.items():
            if name not in self.padding:
                raise ValueError(f"no padding value for '{name}'")
            if self.positions is None and [len(row) for row in others] != self.lengths.tolist():
                raise ValueError(f"rows of '{name}' are not as long as those of '{next(iter(features))}'")
        if self.labels is not None and len(self.labels) != len(rows):
            raise ValueError(f"{len(self.labels)} labels for {len(rows)} examples")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of an example, special tokens included; 0 when there are none."""
        return float(self.lengths.mean()) if len(self) else 0.0

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Encoded:
        """The examples at these positions, in this order."""
        chosen = [int(i) for i in indices]
        return Encoded(
            features={name: [rows[i] for i in chosen] for name, rows in self.features.items()},
            labels=None if self.labels is None else self.labels[chosen],
            padding=self.padding,
            positions=self.positions,
        )

    def take(self, n: int, seed: int) -> Encoded:
        """A random sample of ``n`` examples without replacement, in their order here; all of them if fewer."""
        return self if n >= len(self) else self.select(_sample(len(self), n, seed))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of token ids, labels and targets: equal for equal examples in equal order."""
        digest = hashlib.sha256()
        for name in sorted(self.features):
            digest.update(f"{name} {self.padding[name]} {len(self)}\n".encode())
            digest.update(self.lengths.astype("<i8").tobytes())
            for row in self.features[name]:
                digest.update(row.astype("<i4" if row.dtype.kind == "i" else "<f4").tobytes())
        if self.labels is not None:
            kind = "<f8" if self.labels.dtype.kind == "f" else "<i8"
            digest.update(b"labels" + self.labels.astype(kind).tobytes())
        for value in () if self.targets is None else vars(self.targets).values():
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        return digest.hexdigest()

    def batches(self, batch_size: int = 32, sort_by_length: bool = True) -> Iterator[Batch]:
        """Batches padded to their own longest example; every example once, the last batch may be smaller.

        Args:
            batch_size: examples in a batch, at least 1.
            sort_by_length: longest first, so that a batch holds similar lengths and little padding, and memory peaks
                in the first batch; False keeps the order. Either way the order is the same in every call.
        """
        import torch

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        order = np.argsort(-self.lengths, kind="stable") if sort_by_length else np.arange(len(self))
        for start in range(0, len(self), batch_size):
            indices = order[start : start + batch_size]
            longest = int(self.lengths[indices].max())
            inputs = {}
            for name, rows in self.features.items():
                if self.positions is not None:
                    inputs[name] = torch.from_numpy(np.stack([rows[i] for i in indices]))
                    continue
                block = np.full((len(indices), longest), self.padding[name], dtype=np.int64)
                for line, i in zip(block, indices, strict=True):
                    line[: len(rows[i])] = rows[i]
                inputs[name] = torch.from_numpy(block)
            real = torch.arange(longest)[None, :] < torch.from_numpy(self.lengths[indices])[:, None]
            mask = inputs["attention_mask"].bool() if "attention_mask" in inputs else real
            labels = None if self.labels is None else torch.from_numpy(self.labels[indices])
            yield Batch(inputs=inputs, mask=mask, labels=labels, indices=indices.astype(np.int64))


def fixed_batch(encoded: Encoded, batch_size: int, seq_len: int) -> dict[str, NDArray[Any]]:
    """One batch of exactly the deployment's shape, out of real examples: what latency is timed on.

    Examples follow one another in a row until it is full, so that every position holds a real token.

    Returns:
        for each feature int64 [batch_size, seq_len], the attention mask all ones; or [batch_size, ...] images.

    Raises:
        DataError: there are no examples.
    """
    if encoded.mean_length == 0:
        raise DataError("there is no example to make a batch of; give data with at least one row")
    needed = batch_size * seq_len
    batch: dict[str, NDArray[Any]] = {}
    for name, rows in encoded.features.items():
        if encoded.positions is not None:
            batch[name] = np.stack([rows[i % len(rows)] for i in range(batch_size)])
            continue
        pieces: list[NDArray[np.int32]] = []
        length, example = 0, 0
        while length < needed:
            pieces.append(rows[example % len(rows)])
            length += len(pieces[-1])
            example += 1
        batch[name] = np.concatenate(pieces)[:needed].reshape(batch_size, seq_len).astype(np.int64)
    if "attention_mask" in batch:
        batch["attention_mask"] = np.ones((batch_size, seq_len), dtype=np.int64)
    return batch


def _sample(total: int, n: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(total)[:n]).astype(np.int64)


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
