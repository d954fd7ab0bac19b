"""Runs the dense and the pruned model side by side, one layer at a time.

Reconstruction needs, for all calibration tokens, every sublayer's inputs in the pruned model and its target output from
the dense model. Layer by layer, only the hidden states of one layer are in memory, ``samples x length x hidden``, and
the pruned model's inputs come from layers that are already reconstructed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.batches import Batch, Encoded
from compress.models.encoder import Encoder, EncoderLayer
from compress.models.families import SUBLAYER_KINDS, SublayerKind
from compress.models.placement import device_of, moved, roomy, same_device
from compress.tasks import Task


class Stop(Exception):
    """Raised in a hook: ends a forward pass as soon as the rest is not needed."""


@dataclass(frozen=True)
class LayerCall:
    """How the model calls its encoder layers for one batch.

    Attributes:
        mask: real tokens, bool [batch, sequence].
        indices: positions of the examples in the data.
        arguments: positional and named arguments of each layer's call, or one pair for all layers; without the hidden
            states.
        by_name: whether hidden states are passed by name.
        device: where the layers compute. Hidden states and arguments may wait on the processor.
    """

    mask: Tensor
    indices: NDArray[np.int64]
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    by_name: bool
    device: torch.device

    def __call__(self, layer: EncoderLayer, hidden: Tensor) -> Tensor:
        """The layer's output [batch, sequence, hidden]."""
        arguments, keywords = moved(self.arguments[min(layer.number, len(self.arguments) - 1)], self.device)
        hidden = hidden.to(self.device)
        if self.by_name:
            output = layer.module(*arguments, hidden_states=hidden, **keywords)
        else:
            output = layer.module(hidden, *arguments, **keywords)
        return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def first_inputs(
    encoder: Encoder, task: Task, data: Encoded, batch_size: int, store: torch.device | None = None
) -> list[tuple[LayerCall, Tensor]]:
    """Embed all examples.

    Args:
        encoder: the model's encoder.
        task: runs the model.
        data: examples.
        batch_size: examples in a forward pass.
        store: where inputs and arguments lie afterwards; None is the model's device.

    Returns:
        For every batch, how the model calls its layers, and the first layer's input [batch, sequence, hidden].
    """
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    watched = encoder.layers[:1] if encoder.family.alike_calls else encoder.layers

    def catch(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        caught.append((arguments, keywords))
        if len(caught) == len(watched):
            raise Stop

    result = []
    handles = [layer.module.register_forward_pre_hook(catch, with_kwargs=True) for layer in watched]
    try:
        for batch in data.batches(batch_size, device=encoder.device):
            with suppress(Stop):
                task.forward(encoder.model, batch.inputs)
            arguments, keywords = caught[0]
            by_name = "hidden_states" in keywords
            hidden = keywords["hidden_states"] if by_name else arguments[0]
            others = tuple(
                (a if by_name else a[1:], {k: v for k, v in b.items() if k != "hidden_states"}) for a, b in caught
            )
            place = hidden.device if store is None else store
            call = LayerCall(batch.mask, batch.indices, moved(others, place), by_name, hidden.device)
            caught.clear()
            result.append((call, hidden.to(place)))
    finally:
        for handle in handles:
            handle.remove()
    return result


@contextmanager
def _sums_of(layer: EncoderLayer) -> Iterator[dict[SublayerKind, Tensor]]:
    """Record output plus residual of both sublayers while the block runs."""
    found: dict[SublayerKind, Tensor] = {}
    handles = [layer.on_sum(kind, partial(found.__setitem__, kind)) for kind in SUBLAYER_KINDS]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class Teacher:
    """Target outputs: the dense model's sublayers on a set of examples, one layer at a time.

    Args:
        dense: the model.
        task: runs the model.
        data: the examples.
        batch_size: examples in a forward pass.
        keep: keep the targets of all layers, ``examples x length x hidden x 2 layers`` numbers, so that many students
            can use them. Otherwise the targets of each layer can be read once, in order.
        heard: is told every layer's number and output [batch, sequence, hidden] per batch; None tells nobody.

    Attributes:
        calls: how layers are called, per batch.
        hidden: input of the first layer, per batch [batch, sequence, hidden].
        store: where what is kept of all examples lies: the model's device, or the processor where that has no room.
    """

    def __init__(
        self,
        dense: Encoder,
        task: Task,
        data: Encoded,
        *,
        batch_size: int = 32,
        keep: bool = False,
        heard: Callable[[int, Sequence[Tensor]], None] | None = None,
    ) -> None:
        # Inputs, states and targets of both models at once, or the targets of all layers.
        kept = 2 * len(dense.layers) + 2 if keep else 5
        self.store = roomy(dense.device, kept * 4 * int(data.lengths.sum()) * dense.shape.hidden_size)
        inputs = first_inputs(dense, task, data, batch_size, self.store)
        self.calls = [call for call, _ in inputs]
        self.hidden = [hidden for _, hidden in inputs]
        self._dense, self._heard = dense, heard
        self._next = 0
        self._states = list(self.hidden)
        self._kept = [self._advance() for _ in dense] if keep else None

    def targets(self, number: int) -> dict[SublayerKind, list[Tensor]]:
        """Output plus residual of both sublayers of a layer, per batch."""
        if self._kept is not None:
            return self._kept[number]
        if number != self._next:
            raise ValueError(f"read layer {self._next} next, not {number}; with keep=True any order is possible")
        return self._advance()

    @torch.no_grad()
    def _advance(self) -> dict[SublayerKind, list[Tensor]]:
        layer = self._dense.layers[self._next]
        self._next += 1
        totals: dict[SublayerKind, list[Tensor]] = {kind: [] for kind in SUBLAYER_KINDS}
        for i, call in enumerate(self.calls):
            with _sums_of(layer) as found:
                self._states[i] = call(layer, self._states[i]).to(self.store)
            for kind in SUBLAYER_KINDS:
                totals[kind].append(found[kind].to(self.store))
        if self._heard is not None:
            self._heard(layer.number, self._states)
        return totals


@torch.enable_grad()
def positions_read(encoder: Encoder, task: Task, data: Encoded, batch_size: int = 8) -> Tensor | None:
    """Positions of the last hidden state that the task's head reads.

    The model itself tells: these are the positions whose hidden state has a gradient. A classification head reads only
    [CLS], so the last layer has to be right only there.

    Args:
        encoder: the model's encoder.
        task: runs the model and its head.
        data: examples; the first batch is used.
        batch_size: examples in that batch.

    Returns:
        Positions [n], the same for all examples; None if the head reads more than half of them, or other positions of
        other examples (the last token).
    """
    # The longest and the shortest: a position that depends on the length differs between them.
    order = np.argsort(data.lengths, kind="stable")
    ends = np.unique(np.concatenate([order[: batch_size // 2], order[-(batch_size - batch_size // 2) :]]))
    batch = next(iter(data.select(ends).batches(batch_size, device=encoder.device)))
    caught: list[Tensor] = []

    def catch(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.detach().requires_grad_()
        caught.append(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = encoder.layers[-1].module.register_forward_hook(catch)
    try:
        outputs = task.forward(encoder.model, batch.inputs)
    finally:
        handle.remove()
    # In a random direction, since for example the length of a normalised embedding has no gradient.
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs.device)
    (gradient,) = torch.autograd.grad((outputs * direction).sum(), caught)
    rows = gradient.abs().sum(-1).gt(0)
    read = rows.any(0)
    unlike = bool((rows != read).any())
    return None if unlike or bool(read.sum() * 2 > len(read)) else read.nonzero().squeeze(-1)


class Divergence:
    """The mean divergence of pruned models' outputs from the dense model's, whose outputs are computed once.

    Args:
        dense: the reference.
        task: gives outputs and their divergence.
        data: examples.
        batch_size: examples in a forward pass.
    """

    def __init__(self, dense: nn.Module, task: Task, data: Encoded, batch_size: int = 64) -> None:
        self._dense, self._task, self._data, self._size = dense, task, data, batch_size
        self._references = [task.forward(dense, batch.inputs) for batch in self._batches()]

    def of(self, student: nn.Module) -> float:
        """The mean over examples; 0 without examples.

        Args:
            student: the pruned model.

        Raises:
            ModelError: it lies on another device than the dense model.
        """
        same_device(self._dense, student)
        total = 0.0
        for batch, reference in zip(self._batches(), self._references, strict=True):
            total += float(self._task.divergence(self._task.forward(student, batch.inputs), reference).sum())
        return total / max(1, len(self._data))

    def _batches(self) -> Iterator[Batch]:
        return self._data.batches(self._size, device=device_of(self._dense))
