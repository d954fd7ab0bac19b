"""The dense model's answers on the training examples: batches with hidden states and outputs, computed once.

Training passes over the same examples several times, and the teacher does not change. Its hidden states at real tokens
are kept in float32, or in bfloat16 where that takes too much memory. What does not fit then either is computed anew for
every step. So the batches stay what they are from pass to pass; their order changes.

Reconstruction sublayer by sublayer runs the dense model on the first of the examples before. Lessons can listen to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from compress.data.batches import Batch, Encoded
from compress.models.encoder import Encoder
from compress.reconstruction.head import Head
from compress.reconstruction.hidden_states import HiddenStates
from compress.tasks import Task

# Most memory for the teacher's hidden states.
KEPT_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Lesson:
    """One batch with the dense model's answers.

    Attributes:
        batch: the examples.
        outputs: the dense model's, [batch, ...].
        places: for every layer the tokens that count, numbered row by row, [n].
        states: for every layer the dense model's hidden states there, [n, hidden].
        scales: for every layer the weight of the mean squared error: one over the states' variance, and the last layer
            counts as much as all others together.
    """

    batch: Batch
    outputs: Tensor
    places: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    scales: tuple[float, ...]

    def distance(self, own: list[Tensor]) -> Tensor:
        """Squared error of a student's hidden states relative to the teacher's variance, summed over layers.

        Args:
            own: hidden states of the student, [batch, sequence, hidden] per layer.

        Returns:
            A scalar with its graph.
        """
        total = own[0].new_zeros(())
        for state, places, target, scale in zip(own, self.places, self.states, self.scales, strict=True):
            if not len(places):
                continue  # a part of a lesson may have no such token
            error = state.flatten(0, 1).index_select(0, places) - target
            total = total + scale * error.square().mean()
        return total

    def parts(self, most: int) -> Iterator[tuple[Lesson, float]]:
        """Yields parts of at most so many examples with their shares: the shares' sum of losses is that of the whole.

        Args:
            most: examples in a part; the whole lesson comes where it has no more.
        """
        count, length = self.batch.mask.shape
        if count <= most:
            yield self, 1.0
            return
        for number, batch in enumerate(self.batch.parts(most)):
            first, share = number * most, len(batch.indices) / count
            last = first + len(batch.indices)
            within = [(where >= first * length) & (where < last * length) for where in self.places]
            yield (
                Lesson(
                    batch,
                    self.outputs[first:last],
                    tuple(where[own] - first * length for where, own in zip(self.places, within, strict=True)),
                    tuple(states[own] for states, own in zip(self.states, within, strict=True)),
                    # A mean over the part's tokens becomes its part of the mean over all of them.
                    tuple(
                        scale * float(own.float().mean()) / share
                        for scale, own in zip(self.scales, within, strict=True)
                    ),
                ),
                share,
            )


@dataclass
class _Taught:
    """What is kept of the dense model's hidden states of a batch, layer by layer; named as in ``Lesson``."""

    places: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)

    def lesson(self, batch: Batch, outputs: Tensor) -> Lesson:
        """The lesson, once all layers are in."""
        return Lesson(batch, outputs, tuple(self.places), tuple(self.states), tuple(self.scales))


class Lessons:
    """All lessons, in an order that is drawn anew for every pass.

    Args:
        dense: the teacher.
        task: runs it.
        data: the training examples; labels are not read.
        read: positions of the last hidden state that the head reads, [n]; None for all.
        batch_size: examples in a lesson.
        kept_bytes: most memory for hidden states.
        at_once: examples in a forward pass; None takes whole lessons.
        more: further training examples, in lessons of their own, after the others; None for none.
    """

    def __init__(
        self,
        dense: Encoder,
        task: Task,
        data: Encoded,
        read: Tensor | None,
        batch_size: int,
        kept_bytes: int = KEPT_BYTES,
        at_once: int | None = None,
        more: Encoded | None = None,
    ) -> None:
        self._dense, self._task, self.read = dense, task, read
        self._at_once = batch_size if at_once is None else at_once
        self._batches = list(data.batches(batch_size, device=dense.device))
        self._first = len(self._batches)
        self._batches += () if more is None else more.batches(batch_size, device=dense.device)
        self._token = dense.shape.hidden_size * dense.shape.layers
        every = sum(int(batch.mask.sum()) for batch in self._batches)
        self._dtype = torch.float32 if 4 * every * self._token <= kept_bytes else torch.bfloat16
        self._room = kept_bytes
        self._kept: dict[int, Lesson] = {}
        self._heard: list[_Taught] = []

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def batches(self) -> Sequence[Batch]:
        """What the lessons are about."""
        return self._batches

    def __iter__(self) -> Iterator[Lesson]:
        return map(self._lesson, range(len(self._batches)))

    def hear(self, layer: int, states: Sequence[Tensor]) -> None:
        """Take the dense model's hidden states from a pass over ``data`` that is made anyway, layer after layer.

        Args:
            layer: its number, from 0.
            states: its output on every batch of ``data``, [batch, sequence, hidden].
        """
        batches = self._batches[: self._first]
        if sum(map(self._bytes, batches)) > self._room:
            return
        if layer == 0:
            self._heard = [_Taught() for _ in batches]
        for taught, batch, state in zip(self._heard, batches, states, strict=True):
            self._take(taught, batch, state.to(batch.mask.device))
        if layer == self._dense.shape.layers - 1:
            head = Head(self._dense, self._task, batches[0])
            if head.right:
                for number, (batch, state) in enumerate(zip(batches, states, strict=True)):
                    outputs = head.answers(batch, state.to(batch.mask.device))
                    self._keep(number, self._heard[number].lesson(batch, outputs))
            self._heard = []

    def parts(self, lesson: Lesson) -> Iterator[tuple[Lesson, float]]:
        """Yields parts of a lesson of at most ``at_once`` examples, with their shares of its loss; or the whole.

        Args:
            lesson: one of these.
        """
        return lesson.parts(self._at_once)

    def endless(self, generator: np.random.Generator) -> Iterator[Lesson]:
        """Lessons in random order, pass after pass.

        Args:
            generator: draws the orders.
        """
        while True:
            for number in generator.permutation(len(self._batches)).tolist():
                yield self._lesson(number)

    def _lesson(self, number: int) -> Lesson:
        if number in self._kept:
            return self._kept[number]
        lesson = self._taught(self._batches[number])
        self._keep(number, lesson)
        return lesson

    def _keep(self, number: int, lesson: Lesson) -> None:
        """Keep a lesson if there is room."""
        size = self._bytes(lesson.batch)
        if size <= self._room:
            self._kept[number] = lesson
            self._room -= size

    def _bytes(self, batch: Batch) -> int:
        """Bytes of the dense model's hidden states at a batch's real tokens."""
        return int(batch.mask.sum()) * self._token * self._dtype.itemsize

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Lesson:
        answers, found = [], []
        with closing(HiddenStates(self._dense)) as caught:
            for part in batch.parts(self._at_once):
                answers.append(self._task.forward(self._dense.model, part.inputs))
                found.append(caught.take())
        taught = _Taught()
        for parts in zip(*found, strict=True):
            self._take(taught, batch, _joined(parts))
        return taught.lesson(batch, _joined(answers))

    def _take(self, taught: _Taught, batch: Batch, state: Tensor) -> None:
        """Keep of the next layer's output [batch, sequence, hidden] what counts."""
        layers = self._dense.shape.layers
        last = len(taught.states) == layers - 1
        if last and self.read is not None:
            where = _at(batch.mask, self.read)
        else:
            where = taught.places[0] if taught.places else batch.mask.flatten().nonzero().squeeze(1)
        chosen = state.flatten(0, 1)[where]
        # The head reads the last layer, so it counts as much as all layers before it together.
        share = 1.0 if last else 1 / max(1, layers - 1)
        taught.places.append(where)
        taught.states.append(chosen.to(self._dtype))
        taught.scales.append(share / max(1e-6, float(chosen.var(0, correction=0).mean())))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _at(mask: Tensor, read: Tensor) -> Tensor:
    """Numbers of the real tokens at these positions."""
    wanted = torch.zeros_like(mask)
    within = read[read < mask.shape[1]]
    wanted[:, within] = mask[:, within]
    return wanted.flatten().nonzero().squeeze(1)
