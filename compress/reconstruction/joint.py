"""Joint reconstruction: distills the dense model into the pruned one, with a few passes over the calibration examples.

Layer-by-layer reconstruction (``closed_form.py``) fits every output matrix to its dense output. It leaves two kinds of
errors: those that only show at the head, and those of weights that no sublayer's regression changes (W_q, W_k, W_v,
W_1, norms, the head). Here all weights but the embeddings are trained together. The loss is the divergence of the
outputs plus the distance of the hidden states from the dense model's. No labels are read.

The training is short: only the calibration examples, a number of steps that is fixed beforehand, a learning rate that
falls to 0. The result is kept only if it lowers the held-out divergence from the dense model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
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
# Weight of the hidden states' mean squared error, relative to their variance; the divergence of the outputs has 1.
HIDDEN_WEIGHT = 1.0
_WARM_UP = 0.1


@dataclass(frozen=True)
class JointFit:
    """The result of joint reconstruction.

    Attributes:
        steps: of the optimizer, ``BATCH_SIZE`` examples each.
        before, after: mean held-out divergence from the dense model.
        accepted: whether the result was kept; if not, the weights are restored.
    """

    steps: int
    before: float
    after: float
    accepted: bool


class HiddenStates:
    """Records the output of every encoder layer in each forward pass."""

    def __init__(self, encoder: Encoder) -> None:
        self.states: list[Tensor] = []
        self._handles = [layer.module.register_forward_hook(self._catch) for layer in encoder]

    def _catch(self, _: nn.Module, __: Any, output: Any) -> None:
        self.states.append(output[0] if isinstance(output, tuple) else output)

    def take(self) -> list[Tensor]:
        """Return the states [batch, sequence, hidden] since the last call, first layer first."""
        states, self.states = self.states, []
        return states

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def hidden_distance(taught: list[Tensor], own: list[Tensor], real: Tensor, read: Tensor | None) -> Tensor:
    """Squared error of hidden states at real tokens, relative to their variance.

    Args:
        taught: states of the teacher, [batch, sequence, hidden] per layer.
        own: states of the student, of the same shapes.
        real: real tokens, bool [batch, sequence].
        read: positions of the last hidden state that count, [n]; None for all.

    Returns:
        Scalar, the sum over layers; the last layer counts as much as all others together.
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
        # The head reads the last layer, so it counts as much as all layers before it together.
        total = total + error / (1 if last else max(1, len(own) - 1))
    return total


def _endless(data: Encoded, indices: NDArray[np.int64], generator: np.random.Generator) -> Iterator[Batch]:
    """Batches of examples of about one length, in random order, pass after pass without end."""
    while True:
        # A little noise on the lengths mixes neighbours, so that batches differ from pass to pass.
        order = indices[np.argsort(data.lengths[indices] + generator.uniform(-2, 2, len(indices)), kind="stable")]
        for start in generator.permutation(np.arange(0, len(order), BATCH_SIZE)):
            chosen = order[start : start + BATCH_SIZE]
            yield next(iter(data.select(chosen).batches(len(chosen))))


def steps_within(
    shape: EncoderShape, widths: Widths, data: Encoded, epochs: int, most_flops: float | None = None
) -> int:
    """Number of optimizer steps in so many passes over the training examples, cut off at a bound on their cost.

    A step costs one forward pass of the dense model, and one forward and one backward pass of the pruned model. A
    backward pass costs as much as two forward passes.

    Args:
        shape: the dense encoder.
        widths: heads and filters of the pruned model.
        data: calibration examples; a tenth of them is held out.
        epochs: passes over the training examples.
        most_flops: bound on floating-point operations; None for no bound.

    Returns:
        Steps of ``BATCH_SIZE`` examples.
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
    """All parameters but embeddings: most tokens do not occur in a few thousand texts."""
    frozen = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if id(p) not in frozen]


def fit_jointly(
    dense: Encoder,
    student: Encoder,
    task: Task,
    data: Encoded,
    *,
    epochs: int,
    most_flops: float | None = None,
    seed: int = 0,
) -> JointFit | None:
    """Train the pruned model towards the dense model's outputs and hidden states, in place.

    Args:
        dense: the teacher; unchanged.
        student: the pruned model, reconstructed; all its weights but embeddings may change.
        task: gives outputs and their divergence.
        data: calibration examples; labels are not read.
        epochs: passes over the training part of the examples.
        most_flops: bound on floating-point operations, which can reduce the number of steps; None for no bound.
        seed: of the held-out split and the order of examples.

    Returns:
        Divergence before and after; None if there was no training (no steps, or fewer than ``LEAST_SAMPLES`` examples).
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
    with closing(_Loss(dense, student, task, positions_read(dense, task, data))) as loss_of:
        _train(loss_of, islice(_endless(data, train, generator), steps), parameters, steps)
    after = divergence(dense.model, student.model, task, held_data)
    accepted = after < before
    if not accepted:
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)
    return JointFit(steps, before, after, accepted)


@torch.enable_grad()
def _train(loss_of: _Loss, batches: Iterable[Batch], parameters: list[nn.Parameter], steps: int) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    # Linear warm-up, then linearly down to 0: the small last steps average out the noise of the batches.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1.0, _WARM_UP * steps), 1 - step / steps)
    )
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for batch in batches:
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    finally:
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
        hidden = hidden_distance(self._taught.take(), self._own.take(), batch.mask, self._read)
        return self._task.divergence(outputs, reference).mean() + HIDDEN_WEIGHT * hidden

    def close(self) -> None:
        """Remove the hooks."""
        self._taught.close()
        self._own.close()
