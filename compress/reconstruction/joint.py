"""Joint reconstruction: distills the dense model into the pruned one, with a few passes over the calibration examples.

Layer-by-layer reconstruction (``closed_form.py``) fits every output matrix to its dense output. It leaves two kinds of
errors: those that only show at the head, and those of weights that no sublayer's regression changes (W_q, W_k, W_v,
W_1, norms, the head). Here all weights are trained together, but for embeddings of positions, of segments, and of
words that do not occur. The loss is the divergence of the outputs plus the distance of the hidden states from the dense
model's. No labels are read. So any text will do, and further examples of the user's data help more than further passes
over the same ones.

The training is short: a number of steps that is fixed beforehand. The learning rate falls to 0. How high it starts
depends on how much there is to repair: a rate that helps at a tenth of the MACs destroys at half of them. So a pilot
tries a few rates for a few steps. Where none lowers the divergence on examples held out, there is no training. Those
examples take no part in the layer-by-layer fit either: on examples that it was fitted to, its result looks better than
it is, and any training looks worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from compress.core.trace import span
from compress.models.encoder import Encoder, widths_of
from compress.models.placement import same_device
from compress.reconstruction.hidden_states import HiddenStates
from compress.reconstruction.layerwise import positions_read
from compress.reconstruction.lessons import Lesson, Lessons
from compress.reconstruction.material import BATCH_SIZE, Length, Material, steps_within
from compress.reconstruction.word_rows import WordRows
from compress.tasks import Task

LEAST_SAMPLES = 64
# The more there is to repair, the higher a rate helps. The pilot begins at ``RATE * distance ** POWER``. At 0.5, 0.3,
# 0.2 and 0.1 of the MACs (MiniLM-L6, SST-2) the hidden states' distance is 0.16, 0.31, 0.44 and 0.65, and the best of a
# few rates was 3e-5, 1e-4, 2e-4 and 3e-4. Then it goes up or down by a factor, so often at most.
RATE, POWER, LEAST_RATE, MOST_RATE = 6e-4, 1.7, 1e-5, 5e-4
FACTOR, MOST_CHANGES = 3.0, 2
# Steps with each rate: a share of all steps, within bounds.
PILOT_SHARE, LEAST_PILOT, MOST_PILOT = 0.1, 8, 24
# Loss after a pilot, relative to that before, up to which a rate does no harm, and under which a higher one is worth a
# try. After 24 steps rates that ended well had 0.91 to 1.04, those that were too high 1.1 and 1.28.
HARMLESS, GREAT = 1.05, 0.8
# Divergence after a pilot, relative to that before, over which a rate is too high whatever the loss says: hidden states
# behind a norm can only be so far away. Rates that helped had up to 1.1.
WILD = 2.0
# Parts of the way to the trained weights that are tried where the whole way hardly helps: a rate that fits takes the
# divergence to 0.62 to 0.88 of what it was; one that was too high took it to 0.95 and 1.12.
PARTS, HARDLY = (0.5, 0.25), 0.92
# Weight of the hidden states' mean squared error, relative to their variance; the divergence of the outputs has 1. The
# divergence says little per example: with weights of 0.1, 1, 5 and 20 that of unseen rows ended at 0.0116, 0.0104,
# 0.0100 and 0.0099 at half of the MACs (MiniLM-L6, SST-2), and with 1, 5 and 20 at 0.0408, 0.0384 and 0.0377 at 0.3.
HIDDEN_WEIGHT = 10.0
_WARM_UP = 0.1


@dataclass(frozen=True)
class JointFit:
    """The result of joint reconstruction.

    Attributes:
        steps: of the optimizer, ``BATCH_SIZE`` examples each, without the pilot's.
        before, after: mean held-out divergence from the dense model.
        accepted: whether the result was kept; if not, the weights are restored.
        examples: different ones that were trained on; 0 without training.
        rate: the highest learning rate; None where the pilot found none that helps.
        share: how much of the way from the weights before to those after was kept.
    """

    steps: int
    before: float
    after: float
    accepted: bool
    examples: int
    rate: float | None = None
    share: float = 1.0


def lessons_of(dense: Encoder, task: Task, material: Material, at_once: int = BATCH_SIZE) -> Lessons:
    """Lessons of the examples to train on.

    Args:
        dense: the teacher.
        task: runs it.
        material: the examples.
        at_once: examples in a forward pass.
    """
    read = positions_read(dense, task, material.fitted)
    return Lessons(dense, task, material.fitted, read, BATCH_SIZE, at_once=at_once, more=material.more)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All parameters but embeddings: most words do not occur in a few thousand texts."""
    frozen = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if id(p) not in frozen]


def fit_jointly(
    dense: Encoder,
    student: Encoder,
    task: Task,
    material: Material,
    *,
    length: Length,
    seed: int = 0,
    at_once: int = BATCH_SIZE,
    lessons: Lessons | None = None,
) -> JointFit | None:
    """Train the pruned model towards the dense model's outputs and hidden states, in place.

    Args:
        dense: the teacher; unchanged.
        student: the pruned model, reconstructed; its weights may change.
        task: gives outputs and their divergence.
        material: the examples.
        length: of the training.
        seed: of the order of examples.
        at_once: examples in a forward and backward pass; where that is fewer, a step of ``BATCH_SIZE`` examples has
            several, whose gradients add up to those of the whole.
        lessons: of the examples to train on, which may know the dense model's answers already; None makes them.

    Returns:
        Divergence before and after; None if there was no training (no steps, or fewer than ``LEAST_SAMPLES`` examples).
    """
    steps = steps_within(dense.shape, widths_of(student.model), material, length)
    if steps < 1 or len(material) + len(material.judges) < LEAST_SAMPLES:
        return None
    same_device(dense.model, student.model)
    if lessons is None:
        lessons = lessons_of(dense, task, material, at_once)
    trainer = _Trainer(student, task, lessons, seed)
    start = trainer.weights()
    with span("pilot"):
        judges = Lessons(dense, task, material.judges, lessons.read, BATCH_SIZE, at_once=at_once)
        judge = _Judge(student, task, judges)
        start_loss = judge()
        before = start_loss.divergence
        rate = _pilot(trainer, judge, start_loss, steps)
    if rate is None:
        return JointFit(0, before, before, False, 0)
    with span("steps", steps=steps, rate=rate):
        trainer.train(rate, steps)
        after, share = judge().divergence, 1.0
        if after > HARDLY * before:
            after, share = _part_of_the_way(trainer, judge, start, after)
    accepted = after < before
    if not accepted:
        trainer.restore(start)
    examples = min(len(material), steps * BATCH_SIZE)
    return JointFit(steps, before, after, accepted, examples, rate, share if accepted else 1.0)


def _part_of_the_way(trainer: _Trainer, judge: _Judge, start: Sequence[Tensor], whole: float) -> tuple[float, float]:
    """Go back part of the way, as far as the examples held out like best; returns their divergence, and the share kept.

    ``whole`` is their divergence at the end of the way.

    A rate that was too high leaves noise in the weights. Near the start it helps all the same: with 1e-4 instead of
    3e-5 at half of the MACs (MiniLM-L6, SST-2), a quarter of the way was nearly as good as the right rate.
    """
    end = trainer.weights()

    def go(share: float) -> None:
        trainer.restore([a.lerp(b, share) for a, b in zip(start, end, strict=True)])

    found = [(whole, 1.0)]
    for share in PARTS:
        go(share)
        found.append((judge().divergence, share))
    after, share = min(found)
    go(share)
    return after, share


def _pilot(trainer: _Trainer, judge: _Judge, before: _Loss, steps: int) -> float | None:
    """A rate whose first steps do no harm on the examples held out; None where even low ones do.

    Harm is told by the loss. The divergence alone is too noisy, and a few steps at a good rate can raise it a little.
    With fewer steps than a pilot needs none is made: the guard at the end decides.
    """
    few = min(MOST_PILOT, max(LEAST_PILOT, int(PILOT_SHARE * steps)))
    rate = min(MOST_RATE, max(LEAST_RATE, RATE * before.distance**POWER))
    if steps <= few:
        return rate
    start = trainer.weights()

    def ratio(rate: float) -> float:
        """The loss after a few steps, relative to that before; infinite where the outputs have gone wild."""
        trainer.train(rate, few)
        found = judge()
        trainer.restore(start)
        if found.divergence > WILD * before.divergence:
            return math.inf
        return found.whole / max(before.whole, 1e-30)

    # Upwards while that helps a lot, else downwards until it does no harm.
    found = ratio(rate)
    if found > HARMLESS:
        lower = (rate / FACTOR**n for n in range(1, MOST_CHANGES + 1))
        return next((one for one in lower if ratio(one) <= HARMLESS), None)
    for _ in range(MOST_CHANGES):
        if found >= GREAT or (found := ratio(rate * FACTOR)) > HARMLESS:
            break
        rate *= FACTOR
    return rate


@dataclass(frozen=True)
class _Loss:
    """What training lowers: the mean divergence of the outputs, and the distance of the hidden states."""

    divergence: float
    distance: float

    @property
    def whole(self) -> float:
        return self.divergence + HIDDEN_WEIGHT * self.distance


class _Judge:
    """The student's loss on examples held out, as it is at every call; the dense model answers once."""

    def __init__(self, student: Encoder, task: Task, lessons: Lessons) -> None:
        self._student, self._task, self._lessons = student, task, lessons

    @torch.no_grad()
    def __call__(self) -> _Loss:
        examples, divergence, distance = 0, 0.0, 0.0
        with closing(HiddenStates(self._student)) as own:
            for lesson in self._lessons:
                count = len(lesson.batch.indices)
                for part, share in self._lessons.parts(lesson):
                    outputs = self._task.forward(self._student.model, part.batch.inputs)
                    divergence += float(self._task.divergence(outputs, part.outputs).sum())
                    distance += share * count * float(part.distance(own.take()))
                examples += count
        return _Loss(divergence / examples, distance / examples)


class _Trainer:
    """Trains the student's weights, and puts earlier ones back."""

    def __init__(self, student: Encoder, task: Task, lessons: Lessons, seed: int) -> None:
        self._student, self._task, self._lessons, self._seed = student, task, lessons, seed
        self._words = WordRows.of(student.model, lessons.batches)
        self._parameters = trained_parameters(student.model)
        if self._words is not None:
            self._parameters.append(self._words.values)

    def weights(self) -> list[Tensor]:
        """A copy of the weights."""
        return [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def restore(self, weights: Sequence[Tensor]) -> None:
        """Put weights back."""
        for parameter, value in zip(self._parameters, weights, strict=True):
            parameter.copy_(value)
        if self._words is not None:
            self._words.write()

    @torch.enable_grad()
    def train(self, rate: float, steps: int) -> None:
        """Take so many steps with a rate that rises at first and then falls to 0."""
        optimizer = torch.optim.AdamW(self._parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        # Linear warm-up, then linearly down to 0: the small last steps average out the noise of the batches.
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / max(1.0, _WARM_UP * steps), 1 - step / steps)
        )
        lessons = self._lessons.endless(np.random.default_rng(self._seed))
        with self._trainable(), closing(HiddenStates(self._student)) as own:
            for lesson in islice(lessons, steps):
                optimizer.zero_grad(set_to_none=True)
                for part, share in self._lessons.parts(lesson):
                    (share * self._loss(part, own)).backward()
                torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
                optimizer.step()
                schedule.step()

    def _loss(self, lesson: Lesson, own: HiddenStates) -> Tensor:
        """Divergence of the outputs, plus the hidden states' squared error relative to their variance."""
        inputs = lesson.batch.inputs if self._words is None else self._words.renumbered(lesson.batch.inputs)
        outputs = self._task.forward(self._student.model, inputs)
        return self._task.divergence(outputs, lesson.outputs).mean() + HIDDEN_WEIGHT * lesson.distance(own.take())

    @contextmanager
    def _trainable(self) -> Iterator[None]:
        try:
            for parameter in self._parameters:
                parameter.requires_grad_(True)
            with nullcontext() if self._words is None else self._words.in_place():
                yield
        finally:
            for parameter in self._parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
