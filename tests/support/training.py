"""What the tests of fine-pruning share: a small model, data for it, and a planted task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress.data.batches import Encoded
from compress.fineprune.recipe import Recipe
from compress.inputs.checkpoint import Checkpoint
from compress.models.encoder import Encoder, encoder_of
from compress.tasks import task_of
from support.models import random_model

if TYPE_CHECKING:
    from compress.fineprune.session import TrainingSession

PHASE = {"batch_size": 8, "learning_rate": 1e-3, "dropout": False}


def recipe(**tables: Any) -> Recipe:
    """A recipe without a file."""
    return Recipe.model_validate({"name": "test", "description": "", **tables})


def examples(count: int, seed: int = 0, labels: bool = True) -> Encoded:
    """Random tokens with random labels."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(5, 200, size=rng.integers(4, 12)) for _ in range(count)]
    return Encoded(
        {"input_ids": rows, "attention_mask": [np.ones_like(row) for row in rows]},
        rng.integers(0, 2, size=count) if labels else None,
        {"input_ids": 0, "attention_mask": 0},
    )


def dense(seed: int = 0, **config: Any) -> Checkpoint:
    """A small random classifier, as a checkpoint without files."""
    model = random_model("bert", seed=seed, **config)
    model.requires_grad_(False)
    task: Any = task_of(model.config, "text-classification")
    tokenizer: Any = None
    return Checkpoint("tiny", model, tokenizer, encoder_of(model), task, f"seed {seed}", Path())


def training_session(
    checkpoint: Checkpoint,
    tables: Recipe,
    train: Encoded,
    held: Encoded,
    *,
    teacher: Checkpoint | None = None,
    directory: Path | None = None,
    fingerprint: str = "",
    **options: Any,
) -> TrainingSession:
    """A session; with a directory it keeps a checkpoint after every step."""
    from compress.fineprune.checkpoints import Checkpoints
    from compress.fineprune.prepared import Prepared
    from compress.fineprune.session import TrainingSession

    checkpoints = None if directory is None else Checkpoints(directory, fingerprint, minutes=1e-9)
    return TrainingSession(checkpoint, Prepared(tables, teacher, train, held), checkpoints=checkpoints, **options)


def planted(encoder: Encoder, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make half of the heads and filters of every layer useless, in place: nothing of them reaches the residual stream.

    Returns:
        Whether units are useful, [layers, heads] and [layers, filters].
    """
    rng, shape = np.random.default_rng(seed), encoder.shape
    heads, filters = np.ones((shape.layers, shape.heads), bool), np.ones((shape.layers, shape.filters), bool)
    for layer, of_heads, of_filters in zip(encoder, heads, filters, strict=True):
        for useful, role, size in ((of_heads, "attention_output", shape.head_size), (of_filters, "ffn_output", 1)):
            useful[rng.permutation(len(useful))[: len(useful) // 2]] = False
            with torch.no_grad():
                layer.get(role).weight[:, torch.from_numpy(~np.repeat(useful, size))] = 0.0
    return heads, filters
