"""Training over several processes: how the examples of a step are divided, and gradients and losses summed.

Every process has the same weights, scores and masks, and makes the same steps. Only the examples of a step differ.
Gradients and losses are summed over the processes, each part with its share of the *whole* step. So a step equals that
of one process with all the examples.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.oom import with_fewer
from compress.data.batches import Batch, Encoded, batches_by_length
from compress.distributed.group import Group
from compress.fineprune.distill import Losses, Teaching
from compress.fineprune.recipe import Rates
from compress.models.placement import device_of

_EVALUATION_BATCH = 64


class Feeder:
    """The examples of every step, as a function of seed and step alone.

    Args:
        data: examples to train on.
        rates: batch size, and parts of a step.
        order: of the examples: the same on every process.
        device: of the batches.
        group: processes that share each step.

    Attributes:
        divided: parts of a step on this process, where it has as many examples.
    """

    def __init__(self, data: Encoded, rates: Rates, order: str, device: torch.device, group: Group) -> None:
        self._data, self._rates, self._order, self._device, self._group = data, rates, order, device, group
        self._epoch, self.divided = -1, rates.accumulate
        self._batches: list[list[int]] = []

    def parts(self, step: int) -> Iterator[tuple[Batch, float]]:
        """This process's examples of a step, in ``divided`` parts, with their shares of the whole step.

        Yields nothing if there are fewer examples than processes, as in the short last batch of an epoch.
        """
        indices = self._indices(step)
        own = indices[self._group.rank :: self._group.world]
        count = min(self.divided, len(own))
        for number in range(count):
            chunk = own[number::count]
            yield self._batch(chunk), len(chunk) / len(indices)

    def divide(self, step: int) -> bool:
        """Have twice as many parts from now on; returns whether this step then has more."""
        own = len(self._indices(step)[self._group.rank :: self._group.world])
        before, self.divided = min(self.divided, own), 2 * self.divided
        return min(self.divided, own) > before

    def _indices(self, step: int) -> list[int]:
        """Examples of a step, over all processes."""
        epoch, number = divmod(step, math.ceil(len(self._data) / self._rates.batch_size))
        if self._epoch != epoch:
            self._epoch, order = epoch, random.Random(f"{self._order}/{epoch}")
            self._batches = list(batches_by_length(self._data.lengths.tolist(), self._rates.batch_size, order))
        return self._batches[number]

    def _batch(self, indices: Sequence[int]) -> Batch:
        return next(self._data.select(list(indices)).batches(len(indices), device=self._device))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Forward passes in a number format while the block runs.

    Args:
        device: of the model.
        precision: ``bf16``, or ``no`` for the weights' own.
    """
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def combine(parameters: Sequence[nn.Parameter], parts: list[tuple[Losses, float]], group: Group) -> Losses:
    """Sum gradients, in place, and losses over the parts of a step on all processes.

    Args:
        parameters: with this process's gradients; a parameter without a gradient on all processes stays without.
        parts: this process's losses, with their shares of the whole step.
        group: who takes part.

    Returns:
        Means over the step's examples, without their graphs; the same on all processes.
    """
    if group.world == 1:
        return _mean(parts)
    own = _mean(parts) if parts else None
    values = [None] * 4 if own is None else [float(own.outputs), _number(own.hidden), own.labels, own.divergence]
    present = [value is not None for value in values] + [p.grad is not None for p in parameters]
    numbers = [0.0 if value is None else value for value in values] + [float(one) for one in present]
    log = torch.tensor(numbers, device=parameters[0].device)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    group.add([*(p.grad for p in parameters if p.grad is not None), log])
    found = log.tolist()
    for parameter, count in zip(parameters, found[8:], strict=True):
        if not count:
            parameter.grad = None
    outputs, hidden, labels, divergence = (v if n else None for v, n in zip(found[:4], found[4:8], strict=True))
    return Losses(
        outputs=torch.tensor(outputs or 0.0),
        hidden=None if hidden is None else torch.tensor(hidden),
        labels=labels,
        divergence=divergence,
    )


def _number(value: Tensor | None) -> float | None:
    return None if value is None else float(value)


def _mean(parts: list[tuple[Losses, float]]) -> Losses:
    """Weighted sum of losses, without their graphs."""

    def of(name: str) -> Any:
        values = [(getattr(losses, name), share) for losses, share in parts]
        return None if values[0][0] is None else sum(share * value for value, share in values)

    outputs = sum(share * losses.outputs.detach() for losses, share in parts)
    hidden = [share * losses.hidden.detach() for losses, share in parts if losses.hidden is not None]
    assert isinstance(outputs, Tensor)
    return Losses(outputs, torch.stack(hidden).sum() if hidden else None, of("labels"), of("divergence"))


@torch.no_grad()
def mean_loss(teaching: Teaching, model: nn.Module, data: Encoded, group: Group) -> float:
    """Mean loss on examples without that of hidden states; gates on the model apply.

    Args:
        teaching: the losses.
        model: in evaluation mode afterwards.
        data: the examples.
        group: processes that each take some of the batches; all of them get the same number.
    """
    model.eval()
    batches = list(data.batches(_EVALUATION_BATCH))
    # Each batch on one process, summed in order: the same number for any number of processes.
    found = torch.zeros(len(batches))
    for number in range(group.rank, len(batches), group.world):
        found[number] = with_fewer(partial(_batch_loss, teaching, model, batches[number]), len(batches[number].indices))
    group.add([found])
    counts = [len(batch.indices) for batch in batches]
    return sum(loss * count for loss, count in zip(found.tolist(), counts, strict=True)) / max(1, len(data))


def _batch_loss(teaching: Teaching, model: nn.Module, batch: Batch, at_once: int) -> float:
    """Mean loss on a batch, with so many of its examples at once."""
    teaching.forget()
    device, count = device_of(model), len(batch.indices)
    if at_once >= count:
        return float(teaching(model, batch.to(device)).outputs)
    parts = [(len(part.indices), teaching(model, part.to(device))) for part in batch.parts(at_once)]
    return sum(size * float(losses.outputs) for size, losses in parts) / count
