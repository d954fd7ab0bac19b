"""How much the loss cares for each head and filter: the Fisher information of their gates.

Source: Kwon et al. 2022, section 4.1 and appendix A: the loss increase of a mask m near 1 is ½ (1 − m)ᵀ I (1 − m), with
I the Fisher information, the mean of g gᵀ over samples, g the gradient of the loss with respect to the gates. The code
published with the paper squares gradients of the *mean* loss of mini-batches; here g is a sample's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from compress.calibration.finite import why_not_finite
from compress.calibration.oom import Portions
from compress.core.errors import DataError
from compress.core.importance import Fisher
from compress.data.batches import Batch, Encoded
from compress.distributed.group import Group
from compress.distributed.sharded_sum import summed
from compress.models.encoder import Encoder
from compress.pruning.masks import Gates, apply_gates
from compress.tasks import Task


def fisher_information(
    encoder: Encoder,
    task: Task,
    data: Encoded,
    *,
    seed: int,
    label_free: bool | None = None,
    blocks: bool = False,
    gates: Gates | None = None,
    batch_size: int = 32,
    say: Callable[[str], None] | None = None,
    group: Group | None = None,
) -> Fisher:
    """Accumulate squared per-sample gradients of the loss with respect to every gate.

    Args:
        encoder: dense, in evaluation mode.
        task: gives the loss.
        data: calibration examples.
        seed: of the labels drawn without labels.
        label_free: draw labels from the model's own predictive distribution (the true Fisher) instead of taking the
            data's; at a gate of 1 the divergence from the dense model has no gradient of its own. None: if the data
            has no labels.
        blocks: also accumulate the blocks within a layer. Their size does not depend on the number of samples.
        gates: where the gradient is taken; None is all ones. Masked units get a value too.
        batch_size: examples in one backward pass; it bounds memory and does not change the result. Where memory does
            not suffice for so many, it is halved.
        say: told when that happens.
        group: processes that call this together; the first has the result, equal whatever their number, the others
            zeros.

    Raises:
        DataError: a gradient is not finite; the message names the layer where that begins.
    """
    draw = data.labels is None if label_free is None else label_free
    generator = torch.Generator().manual_seed(seed)
    portions = Portions(say)

    def part(batch: Batch) -> _Pass:
        return _Pass(encoder, task, batch, gates or Gates.ones(encoder), draw, generator)

    sums = summed(
        data.batches(batch_size),
        -(-len(data) // batch_size),
        lambda: _Sums.zeros(encoder, blocks),
        lambda batch, sums: portions.each(len(batch.indices), part(batch).into(sums)),
        lambda batch: part(batch).skip(),
        group or Group(),
    )
    if not (torch.isfinite(sums.heads).all() and torch.isfinite(sums.filters).all()):
        raise DataError(f"gradients of the loss are not finite: {why_not_finite(encoder, task, data)}")
    count = len(data)
    return Fisher(
        heads=(sums.heads / count).numpy(),
        filters=(sums.filters / count).numpy(),
        head_blocks=None if sums.head_blocks is None else (sums.head_blocks / count).numpy(),
        filter_blocks=None if sums.filter_blocks is None else (sums.filter_blocks / count).numpy(),
        samples=count,
        label_free=draw,
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
        shape, layers = encoder.shape, encoder.shape.layers
        return cls(
            torch.zeros(layers, shape.heads, dtype=torch.float64),
            torch.zeros(layers, shape.filters, dtype=torch.float64),
            torch.zeros(layers, shape.heads, shape.heads) if blocks else None,
            torch.zeros(layers, shape.filters, shape.filters) if blocks else None,
        )

    def tensors(self) -> list[Tensor]:
        every = (self.heads, self.filters, self.head_blocks, self.filter_blocks)
        return [tensor for tensor in every if tensor is not None]

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Bring gradients in, [examples, units] each, of the heads of all layers and of the filters of all layers."""
        layers = len(self.heads)
        # First what needs memory, so that examples are summed wholly or not at all.
        squares = [gradient.double().square().sum(0) for gradient in gradients]
        for number in range(layers):
            self.heads[number] += squares[number]
            self.filters[number] += squares[layers + number]
            if self.head_blocks is not None and self.filter_blocks is not None:
                self.head_blocks[number].addmm_(gradients[number].T, gradients[number])
                self.filter_blocks[number].addmm_(gradients[layers + number].T, gradients[layers + number])


class _Pass:
    """A batch's way into sums, part by part; labels are drawn once, for the whole batch."""

    def __init__(
        self, encoder: Encoder, task: Task, batch: Batch, base: Gates, draw: bool, generator: torch.Generator
    ) -> None:
        self._encoder, self._task, self._batch, self._base = encoder, task, batch, base
        self._generator, self._state = generator, generator.get_state()
        self._labels = None if draw else batch.labels

    def into(self, sums: _Sums) -> Callable[[slice], None]:
        """What brings a part of the batch into sums."""
        return partial(self._add, sums)

    def skip(self) -> None:
        """Draw what the batch would, and leave it out."""
        if self._labels is None:
            # One example tells what answers look like; their number is the batch's.
            with torch.no_grad():
                one, _ = self._forward(slice(0, 1))
            self._draw(one.new_zeros(len(self._batch.indices), *one.shape[1:]))

    def _add(self, sums: _Sums, part: slice) -> None:
        count, size = len(self._batch.indices), part.stop - part.start
        if self._labels is None and size < count:
            with torch.no_grad():
                parts = [slice(i, min(i + size, count)) for i in range(0, count, size)]
                self._draw(torch.cat([self._forward(other)[0] for other in parts]))
        logits, own = self._forward(part)
        labels = self._draw(logits.detach()) if self._labels is None else self._labels
        loss = self._task.loss(logits, labels[part]).sum()
        sums.add(torch.autograd.grad(loss, [*own.heads, *own.filters]))

    def _forward(self, part: slice) -> tuple[Tensor, Gates]:
        """The answers, and the gates they went through."""
        own = self._base.per_sample(part.stop - part.start)
        with apply_gates(self._encoder, own):
            inputs = {name: value[part] for name, value in self._batch.inputs.items()}
            return self._task.forward(self._encoder.model, inputs), own

    def _draw(self, logits: Tensor) -> Tensor:
        """Labels from the model's own predictive distribution."""
        # Where memory ran out in the middle of it, they are drawn again and must be the same.
        self._generator.set_state(self._state)
        self._labels = self._task.draw_labels(logits, self._generator)
        return self._labels
