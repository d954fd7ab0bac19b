"""Losses of a training step: labels, and a teacher's outputs and hidden states. The teacher never gets a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.fineprune.recipe import Distilling
from compress.models.encoder import Encoder
from compress.reconstruction.hidden_states import HiddenStates, hidden_distance
from compress.tasks import Task


@dataclass(frozen=True)
class Losses:
    """Means over a batch.

    Attributes:
        outputs: loss on labels and divergence from the teacher, weighted; scores learn from it.
        hidden: distance of the hidden states, weighted; None where they are not compared.
        labels, divergence: the unweighted parts, for the log; None where they are not computed.
    """

    outputs: Tensor
    hidden: Tensor | None
    labels: float | None
    divergence: float | None

    @property
    def total(self) -> Tensor:
        """The loss that weights learn from."""
        return self.outputs if self.hidden is None else self.outputs + self.hidden


class Teaching:
    """Computes the losses of batches.

    Args:
        recipe: weights of the parts, temperature.
        task: gives outputs, loss and divergence.
        student: whose hidden states are compared.
        teacher: None where nothing is distilled.
        read: positions of the last hidden state that the head reads; None for all.
    """

    def __init__(
        self, recipe: Distilling, task: Task, student: Encoder, teacher: Encoder | None, read: Tensor | None = None
    ) -> None:
        self._recipe, self._task, self._teacher, self._read = recipe, task, teacher, read
        self._hidden = recipe.hidden > 0 and teacher is not None and comparable(student, teacher)
        self._taught = HiddenStates(teacher) if self._hidden and teacher is not None else None
        self._own = HiddenStates(student) if self._hidden else None

    def __call__(self, model: nn.Module, batch: Batch) -> Losses:
        """Compute the losses of a batch.

        Args:
            model: the student, as it is called in training (wrapped, gated).
            batch: on the model's device; without labels, the divergence alone counts.

        Returns:
            Means over the batch, with their graphs.
        """
        recipe, task = self._recipe, self._task
        reference = None
        if self._teacher is not None:
            with torch.no_grad():
                reference = task.forward(self._teacher.model, batch.inputs).float()
        outputs = task.forward(model, batch.inputs).float()
        labelled = None if batch.labels is None else task.loss(outputs, batch.labels).mean()
        divergence = None
        if reference is not None:
            # Squared, so that gradients keep their size whatever the temperature (Hinton et al. 2015).
            t = recipe.temperature
            divergence = t * t * task.divergence(outputs / t, reference / t).mean()
        weight = 0.0 if divergence is None else 1.0 if labelled is None else recipe.weight
        parts = [(1 - weight, labelled), (weight, divergence)]
        total = sum((share * part for share, part in parts if part is not None and share), outputs.new_zeros(()))
        return Losses(
            outputs=total,
            hidden=self._distance(batch) if self._hidden else None,
            labels=None if labelled is None else float(labelled.detach()),
            divergence=None if divergence is None else float(divergence.detach()),
        )

    def _distance(self, batch: Batch) -> Tensor:
        assert self._taught is not None and self._own is not None
        return self._recipe.hidden * hidden_distance(self._taught.take(), self._own.take(), batch.mask, self._read)

    def forget(self) -> None:
        """Let go of hidden states of a pass that was not completed."""
        for states in (self._taught, self._own):
            if states is not None:
                states.take()

    def close(self) -> None:
        """Take the hooks off both models."""
        for states in (self._taught, self._own):
            if states is not None:
                states.close()


def comparable(student: Encoder, teacher: Encoder) -> bool:
    """Whether the hidden states of two models can be compared layer by layer.

    Args:
        student: the model that is trained.
        teacher: the model that it learns from.
    """
    ours, theirs = student.shape, teacher.shape
    return ours.layers == theirs.layers and ours.hidden_size == theirs.hidden_size
