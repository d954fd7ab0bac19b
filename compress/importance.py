"""How much the loss cares for each head and filter: the Fisher information of their gates.

Source: Kwon et al. 2022, section 4.1 and appendix A: the loss increase of a mask m near 1 is ½ (1 − m)ᵀ I (1 − m), with
I the Fisher information, the mean of g gᵀ over samples, g the gradient of the loss with respect to the gates. The code
published with the paper squares gradients of the *mean* loss of mini-batches; here g is a sample's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.architectures import Encoder
from compress.data import Encoded
from compress.errors import DataError
from compress.gates import Gates, gated
from compress.tasks import Task


@dataclass(frozen=True)
class Fisher:
    """Fisher information of the gates.

    Attributes:
        heads: diagonal, [layers, heads].
        filters: diagonal, [layers, filters].
        head_blocks: within a layer, [layers, heads, heads]; None if not asked for.
        filter_blocks: within a layer, [layers, filters, filters]; None if not asked for.
        samples: number of examples behind the means.
        label_free: whether labels were drawn from the model's own predictions.
    """

    heads: NDArray[np.float64]
    filters: NDArray[np.float64]
    head_blocks: NDArray[np.float32] | None
    filter_blocks: NDArray[np.float32] | None
    samples: int
    label_free: bool


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
    progress: Callable[[float], None] | None = None,
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
        batch_size: examples in one backward pass; it bounds memory and does not change the result.
        progress: called with the fraction done.

    Raises:
        DataError: a gradient is not finite.
    """
    shape, layers = encoder.shape, encoder.shape.layers
    draw = data.labels is None if label_free is None else label_free
    generator = torch.Generator().manual_seed(seed)
    heads = torch.zeros(layers, shape.heads, dtype=torch.float64)
    filters = torch.zeros(layers, shape.filters, dtype=torch.float64)
    head_blocks = torch.zeros(layers, shape.heads, shape.heads) if blocks else None
    filter_blocks = torch.zeros(layers, shape.filters, shape.filters) if blocks else None
    base = gates or Gates.ones(encoder)
    done = 0
    for batch in data.batches(batch_size):
        size = len(batch.indices)
        own = base.per_sample(size)
        with gated(encoder, own):
            logits = task.forward(encoder.model, batch.inputs)
            labels = task.draw_labels(logits.detach(), generator) if draw or batch.labels is None else batch.labels
            loss = task.loss(logits, labels).sum()
        gradients = torch.autograd.grad(loss, [*own.heads, *own.filters])
        for number in range(layers):
            _accumulate(gradients[number], heads[number], head_blocks, number)
            _accumulate(gradients[layers + number], filters[number], filter_blocks, number)
        done += size
        if progress:
            progress(done / len(data))
    if not (torch.isfinite(heads).all() and torch.isfinite(filters).all()):
        raise DataError("the gradients of the calibration loss are not finite; look for NaN or overflow in the model")
    return Fisher(
        heads=(heads / done).numpy(),
        filters=(filters / done).numpy(),
        head_blocks=None if head_blocks is None else (head_blocks / done).numpy(),
        filter_blocks=None if filter_blocks is None else (filter_blocks / done).numpy(),
        samples=done,
        label_free=draw,
    )


def _accumulate(gradient: Tensor, diagonal: Tensor, blocks: Tensor | None, number: int) -> None:
    diagonal += gradient.double().square().sum(0)
    if blocks is not None:
        blocks[number].addmm_(gradient.T, gradient)
