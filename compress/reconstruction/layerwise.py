"""Dense and pruned model side by side, one layer at a time.

Reconstruction needs, for every sublayer, what it reads in the pruned model and what should come out, for all
calibration tokens. Running both models layer by layer keeps the hidden states of one layer only, ``samples x length x
hidden``, and lets the pruned model's inputs come from the layers already reconstructed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.batches import Encoded
from compress.models.encoder import Encoder, EncoderLayer
from compress.models.families import SUBLAYER_KINDS, SublayerKind
from compress.tasks import Task


class _Stop(Exception):
    """Ends a forward pass where nothing further is needed."""


@dataclass(frozen=True)
class LayerCall:
    """How the model calls its encoder layers for one batch.

    Attributes:
        mask: real tokens, bool [batch, sequence].
        indices: positions of the examples in the data.
        arguments: for each layer, or once for all of them, what it is called with: by position and by name, hidden
            states left out.
        by_name: whether hidden states are passed by name.
    """

    mask: Tensor
    indices: NDArray[np.int64]
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    by_name: bool

    def __call__(self, layer: EncoderLayer, hidden: Tensor) -> Tensor:
        """The layer's output [batch, sequence, hidden]."""
        arguments, keywords = self.arguments[min(layer.number, len(self.arguments) - 1)]
        if self.by_name:
            output = layer.module(*arguments, hidden_states=hidden, **keywords)
        else:
            output = layer.module(hidden, *arguments, **keywords)
        return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def first_inputs(encoder: Encoder, task: Task, data: Encoded, batch_size: int) -> list[tuple[LayerCall, Tensor]]:
    """Embed all examples: for every batch how layers are called, and the hidden states that enter the first one."""
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    watched = encoder.layers[:1] if encoder.family.alike_calls else encoder.layers

    def catch(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        caught.append((arguments, keywords))
        if len(caught) == len(watched):
            raise _Stop

    result = []
    handles = [layer.module.register_forward_pre_hook(catch, with_kwargs=True) for layer in watched]
    try:
        for batch in data.batches(batch_size):
            with suppress(_Stop):
                task.forward(encoder.model, batch.inputs)
            arguments, keywords = caught[0]
            by_name = "hidden_states" in keywords
            hidden = keywords["hidden_states"] if by_name else arguments[0]
            call = LayerCall(
                mask=batch.mask,
                indices=batch.indices,
                arguments=tuple(
                    (a if by_name else a[1:], {k: v for k, v in b.items() if k != "hidden_states"}) for a, b in caught
                ),
                by_name=by_name,
            )
            caught.clear()
            result.append((call, hidden))
    finally:
        for handle in handles:
            handle.remove()
    return result


@dataclass(frozen=True)
class Seen:
    """One sublayer in one batch.

    Attributes:
        inputs: what W_o or W_2 reads, [batch, sequence, units]; meaningless for a removed sublayer.
        output: what it gives, [batch, sequence, hidden], or [hidden] for a removed sublayer.
        total: output plus residual.
    """

    inputs: Tensor
    output: Tensor
    total: Tensor


@contextmanager
def _watched(layer: EncoderLayer, kinds: tuple[SublayerKind, ...], *, stop: bool) -> Iterator[dict[SublayerKind, Seen]]:
    """While the block runs, catch what sublayers read and give; ``stop`` ends the forward pass at the last of them."""
    seen: dict[SublayerKind, tuple[Tensor, Tensor]] = {}
    found: dict[SublayerKind, Seen] = {}

    def watch(kind: SublayerKind) -> Iterator[Any]:
        def projection(_: Any, arguments: tuple[Any, ...], output: Tensor) -> None:
            seen[kind] = (arguments[0], output)

        def total(value: Tensor) -> None:
            found[kind] = Seen(*seen[kind], value)
            if stop and len(found) == len(kinds):
                raise _Stop

        yield layer.get(f"{kind}_output").register_forward_hook(projection)
        yield layer.on_sum(kind, total)

    handles = [handle for kind in kinds for handle in watch(kind)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def look(
    call: LayerCall, layer: EncoderLayer, hidden: Tensor, kinds: tuple[SublayerKind, ...]
) -> dict[SublayerKind, Seen]:
    """Run one layer as far as needed and report what its sublayers of these kinds read and give."""
    with _watched(layer, kinds, stop=True) as found, suppress(_Stop):
        call(layer, hidden)
    return found


class Teacher:
    """What the dense model's sublayers give for a set of examples, one layer at a time.

    Args:
        dense: the model.
        task: runs it.
        data: the examples.
        batch_size: examples in a forward pass.
        keep: remember all layers, so that many students can be taught: ``examples x length x hidden x 2 layers``
            numbers. Otherwise layers have to be asked for in order, once, and one layer's hidden states are held.

    Attributes:
        calls: how layers are called, per batch.
        hidden: what enters the first layer, per batch [batch, sequence, hidden].
    """

    def __init__(self, dense: Encoder, task: Task, data: Encoded, *, batch_size: int = 32, keep: bool = False) -> None:
        inputs = first_inputs(dense, task, data, batch_size)
        self.calls = [call for call, _ in inputs]
        self.hidden = [hidden for _, hidden in inputs]
        self._dense = dense
        self._next = 0
        self._states = list(self.hidden)
        self._kept = [self._advance() for _ in dense] if keep else None

    def targets(self, number: int) -> dict[SublayerKind, list[Tensor]]:
        """Output plus residual of both sublayers of a layer, per batch."""
        if self._kept is not None:
            return self._kept[number]
        if number != self._next:
            raise ValueError(f"layer {self._next} comes next, not {number}; a teacher that keeps goes in any order")
        return self._advance()

    @torch.no_grad()
    def _advance(self) -> dict[SublayerKind, list[Tensor]]:
        layer = self._dense.layers[self._next]
        self._next += 1
        totals: dict[SublayerKind, list[Tensor]] = {kind: [] for kind in SUBLAYER_KINDS}
        for i, call in enumerate(self.calls):
            with _watched(layer, SUBLAYER_KINDS, stop=False) as found:
                self._states[i] = call(layer, self._states[i])
            for kind in SUBLAYER_KINDS:
                totals[kind].append(found[kind].total)
        return totals


@torch.enable_grad()
def positions_read(encoder: Encoder, task: Task, data: Encoded, batch_size: int = 8) -> Tensor | None:
    """Positions of the last hidden state that the task's head reads, as far as they are the same for all examples.

    Found from the model itself: positions whose hidden state has a gradient. Classification heads read [CLS] alone,
    and only there does the last layer have to be right.

    Returns:
        positions [n], or None where the head reads all of them.
    """
    batch = next(iter(data.batches(batch_size)))
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
    # In a random direction: the length of a normalised embedding, for one, has no gradient.
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((outputs * direction).sum(), caught)
    read = gradient.abs().sum(-1).gt(0).any(0)
    return None if bool(read.sum() * 2 > len(read)) else read.nonzero().squeeze(-1)


def divergence(dense: nn.Module, student: nn.Module, task: Task, data: Encoded, batch_size: int = 64) -> float:
    """Mean divergence of a model's outputs from the dense model's; 0 without examples."""
    total = 0.0
    for batch in data.batches(batch_size):
        reference = task.forward(dense, batch.inputs)
        total += float(task.divergence(task.forward(student, batch.inputs), reference).sum())
    return total / max(1, len(data))
