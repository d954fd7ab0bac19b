"""The inputs of a fine-pruning: recipe, teacher, examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.data.batches import Encoded
    from compress.fineprune.recipe import Recipe
    from compress.inputs.checkpoint import Checkpoint


@dataclass(frozen=True)
class Prepared:
    """What fine-pruning needs beyond a run, read and checked before anything is computed.

    Attributes:
        recipe: phases and their rates.
        teacher: None where the dense model teaches, or nobody does.
        train: examples to train on.
        held: examples held out, to evaluate on.
    """

    recipe: Recipe
    teacher: Checkpoint | None
    train: Encoded
    held: Encoded
