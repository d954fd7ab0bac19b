"""Kronecker factors of the loss at every sublayer: which output errors cost how much, and how inputs are distributed.

An error Δy of a sublayer's output raises the divergence of the model's outputs by about ½ Δyᵀ F Δy. F is the Fisher
information with respect to y. With ΔW the change of the output matrix, Δy = ΔW x, and Kronecker's factors (K-FAC:
Martens and Grosse 2015) split the expectation over tokens into tr(ΔW H ΔWᵀ G):

- G = Σ g gᵀ, with g the gradient of the loss at the sublayer's output, per sample. It weighs *directions* of output.
- H = Σ w (x - μ)(x - μ)ᵀ / Σ w, with x the inputs of W_o or W_2 and w = |g|² the weight of a token. In the last layer
  of a classifier only [CLS] has a weight, without a special case. The weighted mean μ is subtracted because the bias
  is refitted: a constant contribution of a removed unit costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from compress.calibration.accumulate import DEFAULT, Accumulation, Passes, Portion, accumulate
from compress.calibration.finite import why_not_finite
from compress.core.errors import DataError
from compress.core.plan import EncoderShape
from compress.data.batches import Batch, Encoded
from compress.models.encoder import Encoder
from compress.models.families import SUBLAYER_KINDS, SublayerKind
from compress.models.placement import exact, exact_device
from compress.tasks import Task

# Columns of a block of a symmetric sum. Below the diagonal nothing is summed, which saves nearly half of the products.
_BLOCK = 384
# The input factor is estimated from this many tokens per input of the widest matrix, and both factors from no more
# examples than have so many, or ``LEAST_EXAMPLES``. More cost time and change little: on MiniLM-L6 and SST-2, plans
# from two draws of 1,024 examples were no worse than one from 2,048 (divergence after the closed form 0.0120, 0.0119
# and 0.0125 at half of the MACs, 0.067, 0.067 and 0.075 at 0.3); one from 512 was worse (0.0149).
TOKENS_PER_INPUT = 8
LEAST_EXAMPLES = 1024


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
def _watched(encoder: Encoder) -> Iterator[dict[tuple[int, SublayerKind], _Seen]]:
    """Catch the inputs and outputs of W_o and W_2 in every forward pass of the block.

    The gradient of such an output is also that of its sum with the residual. With norms before the sublayers, that sum
    has other readers as well.
    """
    seen: dict[tuple[int, SublayerKind], _Seen] = {}

    def watch(key: tuple[int, SublayerKind]) -> Callable[..., Tensor]:
        def projection(_: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            y = output if output.requires_grad else output.detach().requires_grad_()
            seen[key] = _Seen(arguments[0].detach(), y)
            return y

        return projection

    handles = [
        layer.get(f"{kind}_output").register_forward_hook(watch((number, kind)))
        for number, layer in enumerate(encoder)
        for kind in SUBLAYER_KINDS
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def curvature(
    encoder: Encoder, task: Task, data: Encoded, passes: Passes = DEFAULT
) -> dict[tuple[int, SublayerKind], Curvature]:
    """Estimate both factors of every sublayer of a dense model, from one backward pass per example.

    The model's outputs are differentiated in a random direction. The covariance of the direction is the Fisher
    information of the model's own predictions (``Task.fisher_direction``): no labels are read.

    Args:
        encoder: dense, in evaluation mode.
        task: gives outputs and loss.
        data: calibration examples; labels are not read.
        passes: batches, processes, and the seed of the directions, and of the examples and tokens left out where there
            are more than needed.

    Returns:
        The factors by layer and kind of sublayer; zeros on every process but the first.

    Raises:
        DataError: the curvature is not finite; the message names the layer where that begins.

    Source: K-FAC, Martens and Grosse 2015, with gradients sampled from the model's predictions.
    """
    data = _enough(data, encoder.shape, passes.seed)
    with _watched(encoder) as seen:
        sums = accumulate(_Curvature(encoder, task, data, seen), data, passes)
    found = {}
    for key in list(sums.weights):
        total = max(float(sums.weights[key]), 1e-30)
        mean = sums.means[key] / total
        # Taken out, so that sums and results are not in memory together.
        spread = exact(_whole(sums.inputs.pop(key))) / total - torch.outer(mean, mean)
        found[key] = Curvature(spread.float(), _whole(sums.outputs.pop(key)) / len(data))
    if not all(np.isfinite(float(c.inputs.sum() + c.outputs.sum())) for c in found.values()):
        raise DataError(f"the curvature of the loss is not finite: {why_not_finite(encoder, task, data)}")
    return found


def _tokens_needed(shape: EncoderShape) -> int:
    """Tokens that are enough for the input factor."""
    return TOKENS_PER_INPUT * max(shape.heads * shape.head_size, shape.filters)


def _enough(data: Encoded, shape: EncoderShape, seed: int) -> Encoded:
    """As many of the examples as are enough for both factors."""
    order = np.random.default_rng(seed).permutation(len(data))
    within = int(np.searchsorted(np.cumsum(data.lengths[order]), _tokens_needed(shape))) + 1
    return data.select(np.sort(order[: max(LEAST_EXAMPLES, within)]))


@dataclass
class _Sums:
    """Sums over examples, by sublayer, named as in the module's docstring: Σ w x xᵀ, Σ w x, Σ g gᵀ, Σ w.

    Of the symmetric ones only blocks from the diagonal on are summed (``_add_gram``).
    """

    inputs: dict[tuple[int, SublayerKind], Tensor]
    means: dict[tuple[int, SublayerKind], Tensor]
    outputs: dict[tuple[int, SublayerKind], Tensor]
    weights: dict[tuple[int, SublayerKind], Tensor]

    @classmethod
    def zeros(cls, shape: EncoderShape, device: torch.device) -> _Sums:
        """Of no examples."""
        sizes: dict[SublayerKind, int] = {"attention": shape.heads * shape.head_size, "ffn": shape.filters}
        keys = [(number, kind) for number in range(shape.layers) for kind in SUBLAYER_KINDS]
        return cls(
            inputs={key: torch.zeros(sizes[key[1]], sizes[key[1]], device=device) for key in keys},
            means={key: torch.zeros(sizes[key[1]], dtype=torch.float64, device=exact_device(device)) for key in keys},
            outputs={key: torch.zeros(shape.hidden_size, shape.hidden_size, device=device) for key in keys},
            weights={key: torch.zeros((), dtype=torch.float64) for key in keys},
        )

    def tensors(self) -> list[Tensor]:
        return [part[key] for part in (self.inputs, self.means, self.outputs, self.weights) for key in self.weights]


class _Drawn(NamedTuple):
    """Random values of a batch: directions of the outputs, and the tokens that count for H, [batch, sequence]."""

    directions: Tensor
    tokens: Tensor


class _Curvature(Accumulation[_Sums, _Drawn]):
    """Both factors, from the gradients at the outputs of all sublayers."""

    def __init__(
        self, encoder: Encoder, task: Task, data: Encoded, seen: dict[tuple[int, SublayerKind], _Seen]
    ) -> None:
        self._encoder, self._task, self._data, self._seen = encoder, task, data, seen
        self._device = encoder.device
        self._share = min(1.0, _tokens_needed(encoder.shape) / max(1.0, float(data.lengths.sum())))

    def empty(self) -> _Sums:
        return _Sums.zeros(self._encoder.shape, self._device)

    def forward(self, batch: Batch, rows: slice) -> Tensor:
        answers: Tensor = self._task.forward(
            self._encoder.model, {name: value[rows].to(self._device) for name, value in batch.inputs.items()}
        )
        return answers

    def forget(self) -> None:
        self._seen.clear()

    def draw(self, answers: Tensor, batch: Batch, generator: torch.Generator) -> _Drawn:
        if not bool(torch.isfinite(answers).all()):
            why = why_not_finite(self._encoder, self._task, self._data)
            raise DataError(f"the model's answers are not finite: {why}")
        directions = self._task.fisher_direction(answers, generator)
        return _Drawn(directions, batch.mask & (torch.rand(batch.mask.shape, generator=generator) < self._share))

    def add(self, sums: _Sums, portion: Portion[_Drawn]) -> None:
        rows, counted = portion.rows, portion.counted
        # The sum over the samples: every sample's gradients are its own.
        loss = (portion.answers * portion.drawn.directions[rows].to(self._device)).sum()
        keys = list(sums.weights)
        gradients = torch.autograd.grad(loss, [self._seen[key].y for key in keys])
        mask, chosen = portion.batch.mask[rows].to(self._device), portion.drawn.tokens[rows].to(self._device)
        for key, gradient in zip(keys, gradients, strict=True):
            if counted[key] >= rows.stop:
                continue
            at_all = gradient[mask]
            weight = gradient[chosen].square().sum(-1)
            x = self._seen[key].x[chosen] * weight.sqrt()[:, None]
            mean = exact(x.T @ weight.sqrt())
            # From here on nothing is allocated: a sublayer is summed wholly or not at all.
            _add_gram(sums.outputs[key], at_all)
            _add_gram(sums.inputs[key], x)
            sums.means[key] += mean
            sums.weights[key] += float(weight.sum())
            counted[key] = rows.stop


def _add_gram(total: Tensor, rows: Tensor) -> None:
    """Add the upper blocks of rowsᵀ rows to a sum, in place; nothing is allocated."""
    for first in range(0, rows.shape[1], _BLOCK):
        total[first : first + _BLOCK, first:].addmm_(rows[:, first : first + _BLOCK].T, rows[:, first:])


def _whole(upper: Tensor) -> Tensor:
    """The symmetric matrix whose part above the diagonal, and whose diagonal, are given."""
    return upper.triu() + upper.triu(1).T
