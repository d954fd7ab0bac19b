"""One layer of the pruned model while its two sublayers are fitted: nothing is computed twice that a fit leaves alone.

A fit changes W_o or W_2, not what they read. So the inputs of W_o are computed once and read again when the FFN runs,
and both inputs are read again when the layer's output is computed. Without this, attention would run three times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.models.encoder import EncoderLayer
from compress.models.families import SUBLAYER_KINDS, SublayerKind
from compress.pruning.removal import Skip, projection_in_attention
from compress.reconstruction.layerwise import LayerCall, Stop
from compress.reconstruction.replaced import computing

# Inputs of both sublayers of one layer are kept up to this size; beyond it they are computed again.
KEPT_BYTES = 512_000_000


@dataclass(frozen=True)
class Regressors:
    """What a sublayer's output matrix is fitted on, for one batch.

    Attributes:
        call: how the model calls the layer for this batch.
        inputs: of W_o or W_2, [batch, sequence, units x unit size]; meaningless for a removed sublayer.
        residual: what the sublayer's output is added to, [batch, sequence, hidden].
    """

    call: LayerCall
    inputs: Tensor
    residual: Tensor


class StudentLayer:
    """Runs one layer of the pruned model for all batches, one sublayer after the other.

    Args:
        layer: the layer; its W_o and W_2 may change between the calls.
        calls: how the model calls the layer, per batch.
        hidden: the layer's inputs, per batch [batch, sequence, hidden].
        kept_bytes: most memory for inputs that are read again.
    """

    def __init__(
        self, layer: EncoderLayer, calls: Sequence[LayerCall], hidden: Sequence[Tensor], kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._layer, self._calls, self._hidden = layer, calls, hidden
        positions = sum(states.shape[0] * states.shape[1] for states in hidden)
        needed = 4 * positions * sum(width_of(layer, kind) for kind in SUBLAYER_KINDS)
        self._keep = needed <= kept_bytes
        self._kept: dict[SublayerKind, list[Tensor]] = {}

    @torch.no_grad()
    def regressors(self, kind: SublayerKind) -> Iterator[Regressors]:
        """Inputs and residual of a sublayer, batch by batch.

        Args:
            kind: ``attention`` first, then ``ffn``.
        """
        keeps = self._keep and width_of(self._layer, kind) > 0
        kept: list[Tensor] = []
        for number, (call, hidden) in enumerate(zip(self._calls, self._hidden, strict=True)):
            with ExitStack() as stack:
                self._replay(stack, number)
                found = stack.enter_context(_stopped_at(self._layer, kind))
                with suppress(Stop):
                    call(self._layer, hidden)
            if keeps:
                kept.append(found["inputs"])
            yield Regressors(call, found["inputs"], found["residual"])
        if keeps:
            self._kept[kind] = kept

    @torch.no_grad()
    def outputs(self) -> list[Tensor]:
        """The layer's outputs with the weights that it has now, per batch [batch, sequence, hidden]."""
        found = []
        for number, (call, hidden) in enumerate(zip(self._calls, self._hidden, strict=True)):
            with ExitStack() as stack:
                self._replay(stack, number)
                found.append(call(self._layer, hidden).to(hidden.device))
        return found

    def _replay(self, stack: ExitStack, number: int) -> None:
        for kind, kept in self._kept.items():
            stack.enter_context(_replayed(self._layer, kind, kept[number]))


def width_of(layer: EncoderLayer, kind: SublayerKind) -> int:
    """Columns of a sublayer's output matrix; 0 for a removed sublayer.

    Args:
        layer: the layer.
        kind: the sublayer.
    """
    weight = getattr(layer.get(f"{kind}_output"), "weight", None)
    return 0 if weight is None else int(weight.shape[1])


@contextmanager
def _replayed(layer: EncoderLayer, kind: SublayerKind, inputs: Tensor) -> Iterator[None]:
    """Let a sublayer's output matrix read these inputs, and skip what would compute them."""
    with ExitStack() as stack:
        if kind == "attention":
            projection = projection_in_attention(layer.family)
            attention = layer.get("attention")

            def context(*_: Any, **__: Any) -> tuple[Tensor, None]:
                return (inputs if projection is None else attention.get_submodule(projection)(inputs)), None

            stack.enter_context(computing(attention, context))
        else:
            for role, matrices in layer.inputs("ffn").items():
                stack.enter_context(computing(layer.get(role), Skip(matrices).forward))
            handle = layer.get("ffn_output").register_forward_pre_hook(lambda _, __: (inputs,))
            stack.callback(handle.remove)
        yield


@contextmanager
def _stopped_at(layer: EncoderLayer, kind: SublayerKind) -> Iterator[dict[str, Tensor]]:
    """Record a sublayer's inputs and residual, and end the forward pass there."""
    found: dict[str, Tensor] = {}
    module = layer.get(f"{kind}_output")
    hidden_size = len(module.weight) if width_of(layer, kind) else len(module.bias)

    def nothing(inputs: Tensor) -> Tensor:
        # An output of zeros leaves the residual alone in the sum.
        found["inputs"] = inputs
        return inputs.new_zeros(*inputs.shape[:-1], hidden_size)

    def stop(total: Tensor) -> None:
        found["residual"] = total
        raise Stop

    handle = layer.on_sum(kind, stop)
    try:
        with computing(module, nothing):
            yield found
    finally:
        handle.remove()
