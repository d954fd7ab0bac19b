"""Encoded examples and batches of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        inputs: what the model's ``forward`` takes: int64 [batch, length], or float32 [batch, channels, height, width].
        mask: bool [batch, positions], True where the encoder's input is not padding.
        labels: int64 [batch] or [batch, ...] (floats for regression); None without labels.
        indices: int64 [batch], positions of the examples in their ``Encoded``.
    """

    inputs: dict[str, Tensor]
    mask: Tensor
    labels: Tensor | None
    indices: NDArray[np.int64]

    def to(self, device: torch.device | None) -> Batch:
        """Returns the batch with its tensors on a device; None leaves them where they are."""
        if device is None or device == self.mask.device:
            return self
        return replace(
            self,
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            mask=self.mask.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )

    def parts(self, most: int) -> Iterator[Batch]:
        """Yields the batch in parts of at most so many examples; the whole where it has no more."""
        if len(self.indices) <= most:
            yield self
            return
        for start in range(0, len(self.indices), most):
            rows = slice(start, start + most)
            yield replace(
                self,
                inputs={name: tensor[rows] for name, tensor in self.inputs.items()},
                mask=self.mask[rows],
                labels=None if self.labels is None else self.labels[rows],
                indices=self.indices[rows],
            )


@dataclass(frozen=True)
class Encoded:
    """Examples as the model reads them: images, or rows of tokens of different lengths, cut to the sequence length.

    Attributes:
        features: for each input of the model a list of n rows. Texts have rows of integers, and the rows of one
            example are equally long. Images are arrays of floats, all of one shape.
        labels: [n] or [n, ...]; None without labels.
        padding: the value that fills each feature up in a batch.
        targets: what the task's metric needs beyond a label per example (pairs, questions), for all examples
            together; None where it needs nothing more, and after ``select``.
        positions: positions of the encoder's input per example; None where that is the length of its rows.
        lengths: int64 [n], positions of each example.
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
        """Mean number of tokens per example, special tokens included; 0 without examples."""
        return float(self.lengths.mean()) if len(self) else 0.0

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Encoded:
        """Returns the examples at these positions, in this order, without ``targets``."""
        chosen = [int(i) for i in indices]
        return Encoded(
            features={name: [rows[i] for i in chosen] for name, rows in self.features.items()},
            labels=None if self.labels is None else self.labels[chosen],
            padding=self.padding,
            positions=self.positions,
        )

    def without(self, others: Encoded) -> Encoded:
        """Returns the examples whose inputs are not among those of others, in this order, without ``targets``."""
        known = set(others._contents())
        return self.select([i for i, content in enumerate(self._contents()) if content not in known])

    def _contents(self) -> Iterator[bytes]:
        names = sorted(self.features)
        return (
            b"".join(row.tobytes() for row in rows)
            for rows in zip(*(self.features[name] for name in names), strict=True)
        )

    def take(self, n: int, seed: int) -> Encoded:
        """Returns a random sample without replacement, in the order of the data.

        Args:
            n: number of examples; with ``n`` or fewer examples all are returned.
            seed: equal seeds give equal samples.
        """
        return self if n >= len(self) else self.select(sample_indices(len(self), n, seed))

    def fingerprint(self) -> str:
        """Returns a SHA-256 (hex) of inputs, labels and targets: equal for equal examples in equal order."""
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

    def batches(
        self, batch_size: int = 32, sort_by_length: bool = True, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Yields all examples in batches, each padded to its longest example; the last batch may be smaller.

        Args:
            batch_size: examples in a batch, at least 1.
            sort_by_length: longest first, so that a batch holds similar lengths and little padding, and memory peaks
                in the first batch; False keeps the order. Either way the order is the same in every call.
            device: where the tensors go; None is the processor.

        Raises:
            ValueError: ``batch_size`` is less than 1.
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
            yield Batch(inputs=inputs, mask=mask, labels=labels, indices=indices.astype(np.int64)).to(device)


def fixed_batch(encoded: Encoded, batch_size: int, seq_len: int) -> dict[str, NDArray[Any]]:
    """Builds one batch of exactly the deployment's shape from real examples; latency is timed on it.

    A row is filled with one example after another, so that every position holds a real token.

    Args:
        encoded: the examples, at least one.
        batch_size: rows of the batch.
        seq_len: tokens per row; images ignore it.

    Returns:
        For each input of the model int64 [batch_size, seq_len], the attention mask all ones; for images float32
        [batch_size, channels, height, width].

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


def sample_indices(total: int, n: int, seed: int) -> NDArray[np.int64]:
    """Draws positions without replacement.

    Args:
        total: number of positions to draw from.
        n: number of positions to draw, at most ``total``.
        seed: equal seeds give equal positions.

    Returns:
        The positions in ascending order, int64 [n].
    """
    return np.sort(np.random.default_rng(seed).permutation(total)[:n]).astype(np.int64)


def batches_by_length(lengths: Sequence[int], batch_size: int, order: random.Random) -> Iterator[list[int]]:
    """Yields every index once, in random batches of similar length.

    Similar lengths need little padding: on short sentences an epoch takes about half the time.

    Args:
        lengths: tokens of each example, [n].
        batch_size: examples in a batch; the last one may be smaller.
        order: source of randomness; its state advances.
    """
    indices = list(range(len(lengths)))
    order.shuffle(indices)
    pool = 8 * batch_size
    batches = []
    for start in range(0, len(indices), pool):
        chunk = sorted(indices[start : start + pool], key=lambda index: lengths[index])
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    order.shuffle(batches)
    yield from batches
