"""Joint reconstruction: a few passes over the calibration samples that bring the pruned model's outputs to the dense.

Sublayer by sublayer (``reconstruction/closed_form.py``), every output matrix is fitted to its dense output. What
remains are errors that only show at the head, and weights that no sublayer's regression reaches (W_q, W_k, W_v, W_1,
norms, the head). This stage lowers the divergence of the outputs, and the distance of the hidden states, from the dense
model's over all weights together. It reads no labels.

It is training, but of the least kind: the calibration samples alone, the dense model as the only target, a number of
steps settled beforehand, a rate that falls to nothing. What comes out is kept only if its held-out divergence from the
dense model is below what came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.plan import EncoderShape, Widths
from compress.data.batches import Batch, Encoded
from compress.models.encoder import Encoder, widths_of
from compress.reconstruction.layerwise import divergence, positions_read
from compress.tasks import Task

HELD_OUT = 0.1
LEAST_SAMPLES = 64
BATCH_SIZE = 32
LEARNING_RATE = 1e-4
# Of the hidden states' mean squared error, relative to their variance, beside the divergence of the outputs.
HIDDEN_WEIGHT = 1.0
_WARM_UP = 0.1


@dataclass(frozen=True)
class Tuned:
    """What joint reconstruction did.

    Attributes:
        steps: of the optimizer, ``BATCH_SIZE`` examples each.
        before, after: mean held-out divergence from the dense model.
        accepted: whether the result was kept; otherwise the model is as it was.
    """

    steps: int
    before: float
    after: float
    accepted: bool


class HiddenStates:
    """Catches the output of every encoder layer in each forward pass."""

    def __init__(self, encoder: Encoder) -> None:
        self.states: list[Tensor] = []
        self._handles = [layer.module.register_forward_hook(self._catch) for layer in encoder]

    def _catch(self, _: nn.Module, __: Any, output: Any) -> None:
        self.states.append(output[0] if isinstance(output, tuple) else output)

    def take(self) -> list[Tensor]:
        """The states [batch, sequence, hidden] since the last call, first layer first."""
        states, self.states = self.states, []
        return states

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def hidden_distance(taught: list[Tensor], own: list[Tensor], real: Tensor, read: Tensor | None) -> Tensor:
    """Squared error of hidden states at real tokens, relative to their variance.

    Args:
        taught, own: states of the teacher and of the student, [batch, sequence, hidden] per layer.
        real: real tokens, bool [batch, sequence].
        read: positions of the last hidden state that count; None for all.
    """
    total = own[0].new_zeros(())
    for number, (target, state) in enumerate(zip(taught, own, strict=True)):
        last = number == len(own) - 1
        wanted = real
        if last and read is not None:
            wanted = torch.zeros_like(real)
            wanted[:, read] = real[:, read]
        target = target[wanted]
        error = (state[wanted] - target).square().mean() / target.var(0, correction=0).mean().clamp_min(1e-6)
        # The last layer counts as much as all before it together: it is what the head reads.
        total = total + error / (1 if last else max(1, len(own) - 1))
    return total


def _endless(data: Encoded, indices: NDArray[np.int64], generator: np.random.Generator) -> Iterator[Batch]:
    """Pass after pass over the examples, in batches of about one length, in random order."""
    while True:
        # A little noise on the lengths mixes neighbours, so that batches differ from pass to pass.
        order = indices[np.argsort(data.lengths[indices] + generator.uniform(-2, 2, len(indices)), kind="stable")]
        for start in generator.permutation(np.arange(0, len(order), BATCH_SIZE)):
            chosen = order[start : start + BATCH_SIZE]
            yield next(iter(data.select(chosen).batches(len(chosen))))


def steps_within(
    shape: EncoderShape, widths: Widths, data: Encoded, epochs: int, most_flops: float | None = None
) -> int:
    """Steps of the optimizer in so many passes over the training examples, as far as they stay within a bound.

    A step costs one forward pass of the dense model, and one forward and a backward pass, twice as dear, of the pruned.
    """
    train = len(data) - _held_out(len(data))
    steps = epochs * -(-train // BATCH_SIZE)
    if most_flops is None:
        return steps
    length = data.mean_length
    example = 2 * shape.macs(shape.dense, length) + 6 * shape.macs(widths, length)
    return min(steps, int(most_flops / (BATCH_SIZE * max(example, 1.0))))


def _held_out(examples: int) -> int:
    return max(1, int(HELD_OUT * examples))


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Everything but embeddings: a few thousand texts do not show most tokens."""
    frozen = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if id(p) not in frozen]


def tune(
    dense: Encoder,
    student: Encoder,
    task: Task,
    data: Encoded,
    *,
    epochs: int,
    most_flops: float | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Tuned | None:
    """Lower the divergence of the pruned model's outputs from the dense model's, in place.

    Args:
        dense: the teacher; unchanged.
        student: the pruned model, reconstructed; all its weights but embeddings may change.
        task: gives outputs and their divergence.
        data: calibration examples; labels are not read.
        epochs: passes over the training part of the examples.
        most_flops: bound on the cost; None for none. Fewer steps are made where it is lower.
        seed: of the held-out split and the order of examples.
        progress: called with the fraction done.

    Returns:
        What was reached; None if nothing was tried: no epochs, or fewer than ``LEAST_SAMPLES`` examples.
    """
    steps = steps_within(dense.shape, widths_of(student.model), data, epochs, most_flops)
    if steps < 1 or len(data) < LEAST_SAMPLES:
        return None
    generator = np.random.default_rng(seed)
    held, train = np.split(generator.permutation(len(data)), [_held_out(len(data))])
    held_data = data.select(np.sort(held))
    before = divergence(dense.model, student.model, task, held_data)
    parameters = trained_parameters(student.model)
    start = [p.detach().clone() for p in parameters]
    _train(dense, student, task, data, train, parameters, steps, generator, progress)
    after = divergence(dense.model, student.model, task, held_data)
    accepted = after < before
    if not accepted:
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
    return Tuned(steps, before, after, accepted)


@torch.enable_grad()
def _train(
    dense: Encoder,
    student: Encoder,
    task: Task,
    data: Encoded,
    train: NDArray[np.int64],
    parameters: list[nn.Parameter],
    steps: int,
    generator: np.random.Generator,
    progress: Callable[[float], None] | None,
) -> None:
    loss_of = _Loss(dense, student, task, positions_read(dense, task, data))
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    # Linear warm-up, then linearly to nothing: the last steps average the noise of the batches out.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1.0, _WARM_UP * steps), 1 - step / steps)
    )
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for done, batch in enumerate(islice(_endless(data, train, generator), steps), start=1):
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            if progress:
                progress(done / steps)
    finally:
        loss_of.close()
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


class _Loss:
    """Divergence of the outputs, plus the hidden states' squared error relative to their variance.

    Args:
        read: positions of the last hidden state that the head reads; None for all.
    """

    def __init__(self, dense: Encoder, student: Encoder, task: Task, read: Tensor | None) -> None:
        self._dense, self._student, self._task, self._read = dense.model, student.model, task, read
        self._taught, self._own = HiddenStates(dense), HiddenStates(student)

    def __call__(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            reference = self._task.forward(self._dense, batch.inputs)
        outputs = self._task.forward(self._student, batch.inputs)
        loss = self._task.divergence(outputs, reference).mean()
        hidden = hidden_distance(self._taught.take(), self._own.take(), batch.mask, self._read)
        loss = loss + HIDDEN_WEIGHT * hidden
        return loss

    def close(self) -> None:
        self._taught.close()
        self._own.close()
