"""Finds the first layer of a model whose output has NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.batches import Encoded
from compress.models.encoder import Encoder
from compress.tasks import Task


@torch.no_grad()
def why_not_finite(encoder: Encoder, task: Task, data: Encoded) -> str:
    """Say where NaN or infinity first comes up when a model runs on examples, for an error's message.

    Args:
        encoder: the model.
        task: gives its outputs.
        data: examples; they are run until one gives NaN or infinity.

    Returns:
        A clause with the layer and the example, or that only gradients overflow.
    """
    bad: list[tuple[int, Tensor]] = []

    def watch(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def look_at(_: nn.Module, __: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            finite = torch.isfinite(states).flatten(1).all(1)
            if not bool(finite.all()):
                bad.append((number, ~finite))

        return look_at

    handles = [layer.module.register_forward_hook(watch(number)) for number, layer in enumerate(encoder)]
    try:
        with torch.no_grad():
            for batch in data.batches(device=encoder.device):
                answers = task.forward(encoder.model, batch.inputs)
                if bad:
                    number, rows = min(bad, key=lambda found: found[0])
                    example = int(batch.indices[int(rows.nonzero()[0])])
                    return (
                        f"the output of encoder layer {number} has NaN or infinite values for calibration example "
                        f"{example}; use a sound checkpoint, or look at that example"
                    )
                if not bool(torch.isfinite(answers).all()):
                    return "the model's head gives NaN or infinite values; use a sound checkpoint"
    finally:
        for handle in handles:
            handle.remove()
    return "all activations are finite, the gradients overflow; use a sound checkpoint"
