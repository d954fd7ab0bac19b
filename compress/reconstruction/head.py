"""The dense model behind its last layer: answers from hidden states that were computed before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.models.encoder import Encoder
from compress.reconstruction.replaced import computing
from compress.tasks import Task

# Largest difference of an answer, relative to the answers' size, that is rounding.
_ROUNDING = 1e-4


class Head:
    """Everything of a model but its layers, which are skipped.

    Args:
        encoder: of the model, in evaluation mode.
        task: runs the model.
        batch: examples to try it on; the first is used.

    Attributes:
        right: whether answers from the last hidden state are those of the whole model. Heads that read states of other
            layers need the whole model.
    """

    @torch.no_grad()
    def __init__(self, encoder: Encoder, task: Task, batch: Batch) -> None:
        self._encoder, self._task = encoder, task
        # What the layers return beside their hidden states; None where they return those alone.
        self._more: list[tuple[Any, ...] | None] = []
        last: list[Tensor] = []

        def catch(_: nn.Module, __: Any, output: Any) -> None:
            alone = not isinstance(output, tuple)
            self._more.append(None if alone else output[1:])
            last[:] = [output if alone else output[0]]

        one = next(batch.parts(1))
        handles = [layer.module.register_forward_hook(catch) for layer in encoder]
        try:
            wanted = task.forward(encoder.model, one.inputs)
        finally:
            for handle in handles:
                handle.remove()
        found = self.answers(one, last[0])
        self.right = bool((found - wanted).abs().max() <= _ROUNDING * wanted.abs().max().clamp_min(1.0))

    @torch.no_grad()
    def answers(self, batch: Batch, last: Tensor) -> Tensor:
        """The model's outputs, as the task gives them.

        Args:
            batch: the examples.
            last: output of the last layer for them [batch, sequence, hidden].
        """
        with self._skipping(last):
            return self._task.forward(self._encoder.model, batch.inputs)

    @contextmanager
    def _skipping(self, last: Tensor) -> Iterator[None]:
        """Layers give their input on, and the last one gives ``last``."""
        count = len(self._encoder.layers)
        with ExitStack() as stack:
            for number, (layer, more) in enumerate(zip(self._encoder, self._more, strict=True)):
                given = last if number == count - 1 else None
                stack.enter_context(computing(layer.module, partial(_given_on, more, given)))
            yield


def _given_on(more: tuple[Any, ...] | None, given: Tensor | None, *arguments: Any, **keywords: Any) -> Any:
    """What a skipped layer returns: the given states, or those it was called with."""
    hidden = given
    if hidden is None:
        hidden = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]
    return hidden if more is None else (hidden, *more)
