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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.calibration.finite import why_not_finite
from compress.calibration.oom import Portions
from compress.core.errors import DataError
from compress.data.batches import Batch, Encoded
from compress.distributed.group import Group
from compress.distributed.sharded_sum import summed
from compress.models.encoder import Encoder
from compress.models.families import SUBLAYER_KINDS, SublayerKind
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
def _watched(encoder: Encoder) -> Iterator[dict[tuple[int, SublayerKind], _Seen]]:
    """While the block runs, catch what W_o and W_2 read and give, the latter with its gradient.

    That is the gradient of the sum with the residual too, of which norms before sublayers see only one reader.
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
    encoder: Encoder,
    task: Task,
    data: Encoded,
    *,
    seed: int = 0,
    batch_size: int = 32,
    say: Callable[[str], None] | None = None,
    group: Group | None = None,
) -> dict[tuple[int, SublayerKind], Curvature]:
    """Estimate both factors of every sublayer of a dense model, from one backward pass per example.

    What is differentiated is the model's outputs in a random direction whose covariance is the Fisher information of
    its own predictions (``Task.fisher_direction``): no labels are read.

    Args:
        encoder: dense, in evaluation mode.
        task: gives outputs and loss.
        data: calibration examples; labels are not read.
        seed: of the directions and of the tokens left out where there are more than needed.
        batch_size: examples in one backward pass; where memory does not suffice for so many, it is halved.
        say: told when that happens.
        group: processes that call this together; the first has the result, equal whatever their number, the others
            zeros.

    Raises:
        DataError: the curvature is not finite; the message names the layer where that begins.
    """
    shape = encoder.shape
    generator = torch.Generator().manual_seed(seed)
    sizes: dict[SublayerKind, int] = {"attention": shape.heads * shape.head_size, "ffn": shape.filters}
    keys: list[tuple[int, SublayerKind]] = [(number, kind) for number in range(shape.layers) for kind in SUBLAYER_KINDS]
    share = min(1.0, TOKENS_PER_INPUT * max(sizes.values()) / max(1.0, float(data.lengths.sum())))
    portions = Portions(say)
    with _watched(encoder) as seen:

        def part(batch: Batch) -> _Pass:
            return _Pass(encoder, task, batch, seen, share, generator)

        def add(batch: Batch, sums: _Sums) -> None:
            try:
                portions.each(len(batch.indices), part(batch).into(sums))
            except _NotFinite:
                raise DataError(f"the model's answers are not finite: {why_not_finite(encoder, task, data)}") from None

        sums = summed(
            data.batches(batch_size),
            -(-len(data) // batch_size),
            lambda: _Sums.zeros(keys, sizes, shape.hidden_size),
            add,
            lambda batch: part(batch).skip(),
            group or Group(),
        )
    found = {}
    for key in keys:
        total = max(float(sums.weights[key]), 1e-30)
        mean = sums.means[key] / total
        # Taken out, so that sums and results are not in memory together.
        spread = sums.inputs.pop(key).double() / total - torch.outer(mean, mean)
        found[key] = Curvature(spread.float(), sums.outputs.pop(key) / len(data))
    if not all(np.isfinite(float(c.inputs.sum() + c.outputs.sum())) for c in found.values()):
        raise DataError(f"the curvature of the loss is not finite: {why_not_finite(encoder, task, data)}")
    return found


@dataclass
class _Sums:
    """Sums over examples, by sublayer; see the module's own text."""

    inputs: dict[tuple[int, SublayerKind], Tensor]
    means: dict[tuple[int, SublayerKind], Tensor]
    outputs: dict[tuple[int, SublayerKind], Tensor]
    weights: dict[tuple[int, SublayerKind], Tensor]

    @classmethod
    def zeros(
        cls, keys: Sequence[tuple[int, SublayerKind]], sizes: Mapping[SublayerKind, int], hidden_size: int
    ) -> _Sums:
        """Of no examples."""
        return cls(
            inputs={key: torch.zeros(sizes[key[1]], sizes[key[1]]) for key in keys},
            means={key: torch.zeros(sizes[key[1]], dtype=torch.float64) for key in keys},
            outputs={key: torch.zeros(hidden_size, hidden_size) for key in keys},
            weights={key: torch.zeros((), dtype=torch.float64) for key in keys},
        )

    def tensors(self) -> list[Tensor]:
        return [part[key] for part in (self.inputs, self.means, self.outputs, self.weights) for key in self.weights]


class _NotFinite(Exception):
    """The model answers with NaN or infinity."""


class _Pass:
    """A batch's way into sums, part by part; a part that memory ran out on may come again in smaller ones.

    What is random is drawn once, for the whole batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        task: Task,
        batch: Batch,
        seen: dict[tuple[int, SublayerKind], _Seen],
        share: float,
        generator: torch.Generator,
    ) -> None:
        self._model, self._task, self._batch, self._seen = encoder.model, task, batch, seen
        self._share, self._generator, self._state = share, generator, generator.get_state()
        self._mask = batch.mask
        self._drawn: tuple[Tensor, Tensor] | None = None

    def into(self, sums: _Sums) -> Callable[[slice], None]:
        """What brings a part of the batch into sums."""
        # Examples of this batch that are in the sums of a sublayer.
        return partial(self._add, sums, dict.fromkeys(sums.weights, 0))

    def skip(self) -> None:
        """Draw what the batch would, and leave it out."""
        # One example tells what answers look like; their number is the batch's.
        with torch.no_grad():
            one = self._forward(slice(0, 1))
        self._seen.clear()
        self._draw(one.new_zeros(len(self._mask), *one.shape[1:]))

    def _add(self, sums: _Sums, summed: dict[tuple[int, SublayerKind], int], part: slice) -> None:
        count, size = len(self._mask), part.stop - part.start
        if self._drawn is None and size < count:
            with torch.no_grad():
                self._draw(torch.cat([self._forward(slice(i, i + size)) for i in range(0, count, size)]))
        self._seen.clear()
        answers = self._forward(part)
        direction, all_chosen = self._drawn or self._draw(answers.detach())
        # The sum: every sample's gradients are its own.
        loss = (answers * direction[part]).sum()
        keys = list(summed)
        gradients = torch.autograd.grad(loss, [self._seen[key].y for key in keys])
        mask, chosen = self._mask[part], all_chosen[part]
        for key, gradient in zip(keys, gradients, strict=True):
            if summed[key] >= part.stop:
                continue
            at_all = gradient[mask]
            weight = gradient[chosen].square().sum(-1)
            x = self._seen[key].x[chosen] * weight.sqrt()[:, None]
            mean = (x.T @ weight.sqrt()).double()
            # From here on nothing is allocated: a sublayer is summed wholly or not at all.
            sums.outputs[key].addmm_(at_all.T, at_all)
            sums.inputs[key].addmm_(x.T, x)
            sums.means[key] += mean
            sums.weights[key] += float(weight.sum())
            summed[key] = part.stop
        self._seen.clear()

    def _forward(self, part: slice) -> Tensor:
        answers: Tensor = self._task.forward(
            self._model, {name: value[part] for name, value in self._batch.inputs.items()}
        )
        return answers

    def _draw(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """The direction of every example [like the answers], and the tokens chosen [batch, sequence]."""
        if not bool(torch.isfinite(answers).all()):
            raise _NotFinite
        # Where memory ran out in the middle of it, it is drawn again and must be the same.
        self._generator.set_state(self._state)
        direction = self._task.fisher_direction(answers, self._generator)
        chosen = self._mask & (torch.rand(self._mask.shape, generator=self._generator) < self._share)
        self._drawn = direction, chosen
        return self._drawn
