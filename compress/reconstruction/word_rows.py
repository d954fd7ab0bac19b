"""Rows of the word embeddings that the training examples read: trained as a small table of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.data.batches import Batch

IDS = "input_ids"


class WordRows:
    """The rows of a model's word embeddings that some batches read.

    With the whole table a step of the optimizer would go through tens of thousands of rows, of which the batch reads
    hundreds. Inside ``in_place`` the model has the small table, and takes ``renumbered`` inputs.

    Args:
        table: the model's word embeddings, [words, size].
        batches: all that will be read.

    Attributes:
        values: the rows, [rows, size]; to be trained.
    """

    def __init__(self, table: nn.Embedding, batches: Iterable[Batch]) -> None:
        self._table, self._whole = table, table.weight
        read = torch.zeros(len(self._whole), dtype=torch.bool, device=self._whole.device)
        for batch in batches:
            read[batch.inputs[IDS].flatten()] = True
        # The number of padding must stay: RoBERTa and MPNet count positions by it.
        read[: 1 + (table.padding_idx or 0)] = True
        self._rows = read.nonzero().squeeze(1)
        self._numbers = read.cumsum(0) - 1
        self.values = nn.Parameter(self._whole.detach()[self._rows], requires_grad=False)

    @classmethod
    def of(cls, model: nn.Module, batches: Iterable[Batch]) -> WordRows | None:
        """The rows of a transformers model; None where it reads no words.

        Args:
            model: a transformers model.
            batches: all that will be read.
        """
        try:
            table = model.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            # A family of the user's own may not say.
            return None
        return cls(table, batches) if isinstance(table, nn.Embedding) else None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model reads ``values``; at the end they are written to its own table."""
        self._table.weight = self.values
        try:
            yield
        finally:
            self._table.weight = self._whole
            self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Write ``values`` to the model's own table."""
        self._whole[self._rows] = self.values

    def renumbered(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs for the model inside ``in_place``.

        Args:
            inputs: of a batch that was given at the start, by name.
        """
        return {**inputs, IDS: self._numbers[inputs[IDS]]}
