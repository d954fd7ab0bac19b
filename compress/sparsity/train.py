"""From a dense model to a sparse one: training under masks, or one choice at once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.fineprune.mask_protocol import Projected
from compress.fineprune.phase import Phase, steps_of
from compress.fineprune.recipe import Recipe
from compress.fineprune.schedule import Schedule, schedule_of
from compress.inputs.checkpoint import Checkpoint
from compress.models.encoder import encoder_of
from compress.sparsity.masking import ElementMasking
from compress.sparsity.matrices import matrices_of
from compress.sparsity.scores import SCORERS, start_of

if TYPE_CHECKING:
    from compress.fineprune.session import TrainingSession

PHASE = "unstructured"


@dataclass(frozen=True)
class Thinned:
    """A sparse model, and how it was made.

    Attributes:
        model: with the masks multiplied in; on the processor, in evaluation mode.
        phase: result of the training; None where nothing was trained.
        history: all choices of the masks.
    """

    model: Any
    phase: Phase | None
    history: tuple[Projected, ...]


def thin_out(
    dense: Checkpoint, recipe: Recipe, fraction: float, session: TrainingSession | None, *, seed: int = 0
) -> Thinned:
    """Leave a fraction of the weights of the encoder's linear layers.

    Args:
        dense: the model; it is not changed.
        recipe: with a table ``[unstructured]``.
        fraction: of these weights, above 0, at most 1.
        session: of that recipe, trains; None where the recipe trains nothing.
        seed: of the scores' start and of random gates.

    Raises:
        TrainingError: training diverges.
    """
    rates = recipe.unstructured
    assert rates is not None
    kind = SCORERS[rates.scorer]
    model = copy.deepcopy(dense.model)
    if not rates.trains:
        matrices = _matrices(model)
        masking = ElementMasking(matrices, kind(matrices, None), Schedule(1.0, fraction, 1, 0, 0), rates.selection)
        masking.advance(1)
        masking.fold()
        return Thinned(model.eval(), None, tuple(masking.history))
    assert session is not None
    model.to(session.device)
    matrices = _matrices(model)
    steps = steps_of(rates, len(session.examples))
    # A checkpoint contains the scores.
    begin = (
        None if session.resuming else start_of(rates, encoder_of(model), matrices, dense.task, session.examples, seed)
    )
    scorer = kind(matrices, begin, rates.penalty)
    schedule = schedule_of(1.0, fraction, steps, rates.first, rates.last)
    masking = ElementMasking(matrices, scorer, schedule, rates.selection, rates.project_every, seed)
    phase = session.train_masked(PHASE, model, rates, masking)
    with torch.no_grad():
        # Without steps at the final fraction it is reached here.
        masking.advance(steps)
        masking.fold()
    return Thinned(model.cpu().eval(), phase, tuple(masking.history))


def _matrices(model: Any) -> list[nn.Parameter]:
    return list(matrices_of(encoder_of(model)).values())
