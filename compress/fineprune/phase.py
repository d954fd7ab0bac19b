"""Values of a phase of training: what it is given, what it ends with, a line of its log."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from compress.distributed.group import Group
from compress.fineprune.checkpoints import Checkpoints
from compress.fineprune.recipe import Rates


@dataclass(frozen=True)
class Row:
    """A line of the log.

    Attributes:
        phase: ``structure``, ``weights`` or ``quantization``.
        step: of the phase, 1 being the first.
        loss: mean over the steps since the last line; ``labels`` and ``divergence`` are parts of it, unweighted.
        budget, cost: of the structure, in the budget's unit; None where the structure is fixed.
        held_out: mean loss on the held-out examples.
    """

    phase: str
    step: int
    loss: float
    labels: float | None
    divergence: float | None
    budget: float | None
    cost: float | None
    held_out: float


@dataclass(frozen=True)
class Phase:
    """The result of a phase.

    Attributes:
        steps: how many were made.
        best_step: the step whose weights were taken; ``steps`` in a phase with a changing structure.
        before, after: mean loss on the held-out examples, at the beginning and with the weights taken.
        stopped: why it stopped early; None where it did not.
        rows: its log.
    """

    steps: int
    best_step: int
    before: float
    after: float
    stopped: str | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class PhaseSpec:
    """How a phase is trained.

    Attributes:
        name: of the phase.
        rates: the recipe's.
        times: evaluations, evenly spaced.
        patience: evaluations without a better one before a phase with a fixed structure stops; 0 never.
        seed: of order and dropout.
        facts: what its checkpoints carry beside the training's own state: plain JSON types.
    """

    name: str
    rates: Rates
    times: int
    patience: int = 0
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """How a phase runs, its checkpoints, and who is told.

    Attributes:
        precision: number format of forward passes; ``no`` is float32.
        group: processes that train together, each with its examples of a step. All of them make the same trainer, but
            for checkpoints, which one writes.
        checkpoints: None keeps none.
        tell: given one line at each evaluation.
    """

    precision: Literal["no", "bf16"] = "no"
    group: Group = field(default_factory=Group)
    checkpoints: Checkpoints | None = None
    tell: Callable[[str], None] = lambda _: None


def phase_of(facts: dict[str, Any]) -> Phase:
    """The phase that ``asdict`` turned into these facts."""
    return Phase(**{**facts, "rows": tuple(Row(**row) for row in facts["rows"])})


def steps_of(rates: Rates, examples: int) -> int:
    """Number of steps in a recipe's epochs, at least 1.

    Args:
        rates: epochs and batch size.
        examples: how many are trained on.
    """
    return max(1, round(rates.epochs * math.ceil(examples / rates.batch_size)))
