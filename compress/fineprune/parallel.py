"""Training over several processes: how the examples of a step are divided, and gradients and losses summed.

Every process has the same weights, scores and masks, and makes the same steps. Only the examples of a step differ.
Gradients and losses are summed over the processes, each part with its share of the *whole* step. So a step equals that
of one process with all the examples.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.batches import Batch, Encoded, batches_by_length
from compress.distributed.group import Group
from compress.fineprune.distill import Losses, Teaching
from compress.fineprune.recipe import Rates

_EVALUATION_BATCH = 64


class Feeder:
    """The examples of every step, as a function of seed and step alone.

    Args:
        data: examples to train on.
        rates: batch size, and parts of a step.
        order: of the examples: the same on every process.
        device: of the batches.
        group: processes that share each step.
    """

    def __init__(self, data: Encoded, rates: Rates, order: str, device: torch.device, group: Group) -> None:
        self._data, self._rates, self._order, self._device, self._group = data, rates, order, device, group
        self._epoch = -1
        self._batches: list[list[int]] = []

    def parts(self, step: int) -> Iterator[tuple[Batch, float]]:
        """This process's examples of a step, in the recipe's number of parts, with their shares of the whole step.

        Yields nothing if there are fewer examples than processes, as in the short last batch of an epoch.
        """
        indices = self._indices(step)
        own = indices[self._group.rank :: self._group.world]
        count = min(self._rates.accumulate, len(own))
        for number in range(count):
            chunk = own[number::count]
            yield self._batch(chunk), len(chunk) / len(indices)

    def _indices(self, step: int) -> list[int]:
        """Examples of a step, over all processes."""
        epoch, number = divmod(step, math.ceil(len(self._data) / self._rates.batch_size))
        if self._epoch != epoch:
            self._epoch, order = epoch, random.Random(f"{self._order}/{epoch}")
            self._batches = list(batches_by_length(self._data.lengths.tolist(), self._rates.batch_size, order))
        return self._batches[number]

    def _batch(self, indices: Sequence[int]) -> Batch:
        return on_device(next(self._data.select(list(indices)).batches(len(indices))), self._device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on a device.

    Args:
        batch: on the processor.
        device: where its tensors go.
    """
    if device.type == "cpu":
        return batch
    return replace(
        batch,
        inputs={name: t.to(device) for name, t in batch.inputs.items()},
        mask=batch.mask.to(device),
        labels=None if batch.labels is None else batch.labels.to(device),
    )


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
def mean_loss(teaching: Teaching, model: nn.Module, data: Encoded, device: torch.device, group: Group) -> float:
    """Mean loss on examples without that of hidden states; gates on the model apply.

    Args:
        teaching: the losses.
        model: on the device; it is in evaluation mode afterwards.
        data: the examples.
        device: of model and teacher.
        group: processes that each take some of the batches; all of them get the same number.
    """
    model.eval()
    batches = list(data.batches(_EVALUATION_BATCH))
    # Each batch on one process, summed in order: the same number for any number of processes.
    found = torch.zeros(len(batches))
    for number in range(group.rank, len(batches), group.world):
        found[number] = teaching(model, on_device(batches[number], device)).outputs
    group.add([found])
    counts = [len(batch.indices) for batch in batches]
    return sum(loss * count for loss, count in zip(found.tolist(), counts, strict=True)) / max(1, len(data))
