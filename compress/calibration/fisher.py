"""Fisher information of the masks of heads and filters: how much the loss depends on each unit.

Source: Kwon et al. 2022, section 4.1 and appendix A: the loss increase of a mask m near 1 is ½ (1 − m)ᵀ I (1 − m), with
I the Fisher information, the mean of g gᵀ over samples, g the gradient of the loss with respect to the gates. The code
published with the paper squares gradients of the *mean* loss of mini-batches; here g is a sample's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.calibration.accumulate import DEFAULT, Accumulation, Passes, Portion, accumulate
from compress.calibration.finite import why_not_finite
from compress.core.errors import DataError
from compress.core.importance import Fisher
from compress.data.batches import Batch, Encoded
from compress.models.encoder import Encoder
from compress.models.placement import exact, exact_device
from compress.pruning.masks import Gates, apply_gates
from compress.tasks import Task


def fisher_information(
    encoder: Encoder,
    task: Task,
    data: Encoded,
    passes: Passes = DEFAULT,
    *,
    label_free: bool | None = None,
    blocks: bool = False,
) -> Fisher:
    """Accumulate squared per-sample gradients of the loss with respect to every gate, all gates open.

    Args:
        encoder: dense, in evaluation mode.
        task: gives the loss.
        data: calibration examples.
        passes: batches, processes, and the seed of the labels that are drawn.
        label_free: draw labels from the model's own predictive distribution (the true Fisher) instead of taking the
            data's; at a gate of 1 the divergence from the dense model has no gradient of its own. None: if the data
            has no labels.
        blocks: also accumulate the blocks within a layer. Their size does not depend on the number of samples.

    Returns:
        Means over the examples; zeros on every process but the first.

    Raises:
        DataError: a gradient is not finite; the message names the layer where that begins.

    Source: Kwon et al. 2022, section 4.1.
    """
    draws = data.labels is None if label_free is None else label_free
    sums = accumulate(_Fisher(encoder, task, draws, blocks), data, passes)
    if not (torch.isfinite(sums.heads).all() and torch.isfinite(sums.filters).all()):
        raise DataError(f"gradients of the loss are not finite: {why_not_finite(encoder, task, data)}")
    count = len(data)
    return Fisher(
        heads=(sums.heads / count).cpu().numpy(),
        filters=(sums.filters / count).cpu().numpy(),
        head_blocks=None if sums.head_blocks is None else (sums.head_blocks / count).cpu().numpy(),
        filter_blocks=None if sums.filter_blocks is None else (sums.filter_blocks / count).cpu().numpy(),
        samples=count,
        label_free=draws,
    )


@dataclass
class _Sums:
    """Sums over examples of squared gradients, and of their products within a layer, as in ``Fisher``."""

    heads: Tensor
    filters: Tensor
    head_blocks: Tensor | None
    filter_blocks: Tensor | None

    @classmethod
    def zeros(cls, encoder: Encoder, blocks: bool) -> _Sums:
        """Of no examples."""
        shape, layers, device = encoder.shape, encoder.shape.layers, encoder.device
        precise = exact_device(device)
        return cls(
            torch.zeros(layers, shape.heads, dtype=torch.float64, device=precise),
            torch.zeros(layers, shape.filters, dtype=torch.float64, device=precise),
            torch.zeros(layers, shape.heads, shape.heads, device=device) if blocks else None,
            torch.zeros(layers, shape.filters, shape.filters, device=device) if blocks else None,
        )

    def tensors(self) -> list[Tensor]:
        every = (self.heads, self.filters, self.head_blocks, self.filter_blocks)
        return [tensor for tensor in every if tensor is not None]

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Bring gradients in, [examples, units] each, of the heads of all layers and of the filters of all layers."""
        layers = len(self.heads)
        # Allocations come first, so that examples are summed wholly or not at all.
        squares = [exact(gradient).square().sum(0) for gradient in gradients]
        for number in range(layers):
            self.heads[number] += squares[number]
            self.filters[number] += squares[layers + number]
            if self.head_blocks is not None and self.filter_blocks is not None:
                self.head_blocks[number].addmm_(gradients[number].T, gradients[number])
                self.filter_blocks[number].addmm_(gradients[layers + number].T, gradients[layers + number])


class _Fisher(Accumulation[_Sums, Tensor]):
    """Squared gradients of gates, one set of gates per sample. Labels are drawn where the data's are not taken."""

    def __init__(self, encoder: Encoder, task: Task, draws: bool, blocks: bool) -> None:
        self._encoder, self._task, self._draws, self._blocks = encoder, task, draws, blocks
        self._open, self._device = Gates.ones(encoder), encoder.device
        self._own = self._open

    def empty(self) -> _Sums:
        return _Sums.zeros(self._encoder, self._blocks)

    def known(self, batch: Batch) -> Tensor | None:
        return None if self._draws else batch.labels

    def forward(self, batch: Batch, rows: slice) -> Tensor:
        self._own = self._open.per_sample(rows.stop - rows.start)
        with apply_gates(self._encoder, self._own):
            answers: Tensor = self._task.forward(
                self._encoder.model, {name: value[rows].to(self._device) for name, value in batch.inputs.items()}
            )
        return answers

    def draw(self, answers: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        return self._task.draw_labels(answers, generator)

    def add(self, sums: _Sums, portion: Portion[Tensor]) -> None:
        loss = self._task.loss(portion.answers, portion.drawn[portion.rows].to(self._device)).sum()
        sums.add(torch.autograd.grad(loss, [*self._own.heads, *self._own.filters]))
