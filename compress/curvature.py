"""Second-order picture of every sublayer: what errors in its output cost, and what its inputs look like.

An error Δy of a sublayer's output raises the divergence of the model's outputs by about ½ Δyᵀ F Δy, F the Fisher
information with respect to y. With ΔW the change of the output matrix, Δy = ΔW x, and Kronecker's factors (K-FAC:
Martens and Grosse 2015) split the expectation over tokens into tr(ΔW H ΔWᵀ G):

- G = Σ g gᵀ, gradients of the loss at the sublayer's output, per sample: which *directions* of the output matter;
- H = Σ w (x - μ)(x - μ)ᵀ / Σ w, the inputs of W_o or W_2, each token weighted by w = |g|², how much it matters at all.
  In the last layer of a classifier that leaves [CLS] alone without being told. Their weighted mean μ is taken off
  because the bias is refitted: what a removed unit gave to every token alike costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.architectures import Encoder
from compress.data import Encoded
from compress.errors import DataError
from compress.layerwise import KINDS, Kind
from compress.tasks import Task

# Tokens per input of the widest matrix that the input factor is estimated from: more change little and cost time.
TOKENS_PER_INPUT = 8


@dataclass(frozen=True)
class Curvature:
    """The two factors of one sublayer, float32, in units of the loss per example.

    Attributes:
        inputs: H, [units x unit size, units x unit size].
        outputs: G, [hidden, hidden].
    """

    inputs: Tensor
    outputs: Tensor


@dataclass
class _Seen:
    x: Tensor
    y: Tensor


@contextmanager
def _watched(encoder: Encoder) -> Iterator[dict[tuple[int, Kind], _Seen]]:
    """While the block runs, catch inputs of W_o and W_2, and the sums with the residual, with their gradients."""
    seen: dict[tuple[int, Kind], _Seen] = {}
    inputs: dict[tuple[int, Kind], Tensor] = {}
    handles = []

    def watch(key: tuple[int, Kind]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        def projection(_: Any, arguments: tuple[Any, ...]) -> None:
            inputs[key] = arguments[0].detach()

        def total(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            y = arguments[0] if arguments[0].requires_grad else arguments[0].detach().requires_grad_()
            seen[key] = _Seen(inputs[key], y)
            return (y, *arguments[1:])

        return projection, total

    try:
        for number, layer in enumerate(encoder):
            for kind in KINDS:
                projection, total = watch((number, kind))
                handles.append(layer.get(f"{kind}_output").register_forward_pre_hook(projection))
                handles.append(layer.get(f"{kind}_sum").register_forward_pre_hook(total))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def curvature(
    encoder: Encoder,
    task: Task,
    data: Encoded,
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> dict[tuple[int, Kind], Curvature]:
    """Estimate both factors of every sublayer of a dense model, from one backward pass per example.

    What is differentiated is the model's outputs in a random direction whose covariance is the Fisher information of
    its own predictions (``Task.fisher_direction``): no labels are read.

    Args:
        encoder: dense, in evaluation mode.
        task: gives outputs and loss.
        data: calibration examples; labels are not read.
        seed: of the directions and of the tokens left out where there are more than needed.
        batch_size: examples in one backward pass.
        progress: called with the fraction done.

    Raises:
        DataError: a gradient is not finite.
    """
    shape = encoder.shape
    generator = torch.Generator().manual_seed(seed)
    sizes = {"attention": shape.heads * shape.head_size, "ffn": shape.filters}
    keys: list[tuple[int, Kind]] = [(number, kind) for number in range(shape.layers) for kind in KINDS]
    inputs = {key: torch.zeros(sizes[key[1]], sizes[key[1]]) for key in keys}
    means = {key: torch.zeros(sizes[key[1]], dtype=torch.float64) for key in keys}
    outputs = {key: torch.zeros(shape.hidden_size, shape.hidden_size) for key in keys}
    weights = dict.fromkeys(keys, 0.0)
    share = min(1.0, TOKENS_PER_INPUT * max(sizes.values()) / max(1.0, float(data.lengths.sum())))
    done = 0
    with _watched(encoder) as seen:
        for batch in data.batches(batch_size):
            answers = task.forward(encoder.model, batch.inputs)
            direction = task.fisher_direction(answers.detach(), generator)
            # The sum: every sample's gradients are its own.
            loss = (answers * direction).sum()
            gradients = dict(zip(keys, torch.autograd.grad(loss, [seen[key].y for key in keys]), strict=True))
            mask = batch.inputs["attention_mask"].bool()
            chosen = mask & (torch.rand(mask.shape, generator=generator) < share)
            for key in keys:
                gradient = gradients[key]
                at_all = gradient[mask]
                outputs[key].addmm_(at_all.T, at_all)
                weight = gradient[chosen].square().sum(-1)
                x = seen[key].x[chosen] * weight.sqrt()[:, None]
                inputs[key].addmm_(x.T, x)
                means[key] += (x.T @ weight.sqrt()).double()
                weights[key] += float(weight.sum())
            seen.clear()
            done += len(batch.indices)
            if progress:
                progress(done / len(data))
    found = {}
    for key in keys:
        total = max(weights[key], 1e-30)
        mean = means[key] / total
        spread = inputs[key].double() / total - torch.outer(mean, mean)
        found[key] = Curvature(spread.float(), outputs[key] / done)
    if not all(np.isfinite(float(c.inputs.sum() + c.outputs.sum())) for c in found.values()):
        raise DataError("the gradients of the calibration loss are not finite; look for NaN or overflow in the model")
    return found
