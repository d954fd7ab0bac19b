"""Fine-tunes a small encoder on a task, for the demo and for examples: minutes on two cores."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.batches import batches_by_length
from compress.inputs.processors import load_image_processor, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from compress.core.progress import Progress
    from compress.tasks import Task


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the fine-tuning.

    Attributes:
        learning_rate: peak rate of AdamW, reached after a tenth of the steps; it then falls linearly to 0.
        epochs: passes over the training examples.
        batch_size: examples per step.
        seed: seed of the head's initial weights, dropout and the order of the examples.
    """

    learning_rate: float = 1e-4
    epochs: int = 2
    batch_size: int = 32
    seed: int = 0


def train(
    model: Any, lengths: Sequence[int], loss_of: Callable[[list[int]], Tensor], recipe: Recipe, progress: Progress
) -> None:
    """Train a model in place; its embeddings stay as they are.

    Args:
        model: a transformers model.
        lengths: tokens of each example, [n].
        loss_of: returns the mean loss of the examples at these positions.
        recipe: hyperparameters; the seed orders the examples.
        progress: told about every epoch.
    """
    import torch

    # Word embeddings are half of the parameters, and so few examples cannot teach them anything. Images have none.
    for module in model.base_model.embeddings.modules():
        if isinstance(module, torch.nn.Embedding):
            module.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.01)
    steps = recipe.epochs * -(-len(lengths) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
    )
    order = random.Random(recipe.seed)
    model.train()
    for epoch in range(recipe.epochs):
        total = 0.0
        for batch in batches_by_length(lengths, recipe.batch_size, order):
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        progress.info(f"epoch {epoch + 1} of {recipe.epochs}: training loss {total / len(lengths):.3f}")
    model.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers in the block, and silence transformers' message that the head is new."""
    import torch
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        logging.set_verbosity(verbosity)


def fine_tune(
    source: Path,
    task: Task,
    rows: Dataset,
    *,
    seq_len: int = 128,
    text_column: str | None = None,
    label_column: str | None = None,
    recipe: Recipe | None = None,
    progress: Progress,
) -> tuple[Any, Any]:
    """Return an encoder with a new head for a task, trained on rows of data.

    Args:
        source: directory of the encoder.
        task: defines columns, head and loss.
        rows: examples with labels.
        seq_len: tokens per example; longer texts are cut.
        text_column: column with the text; None guesses it.
        label_column: column with the labels; None guesses it.
        recipe: hyperparameters; None takes the defaults.
        progress: told about guesses and epochs.

    Returns:
        The model, in evaluation mode, and its tokenizer or image processor.

    Raises:
        ConfigError: the task has no head.
        DataError: there are no labels, or the columns cannot be guessed.
    """
    import transformers

    recipe = recipe or Recipe()
    names = task.new_head(rows, task.find_columns(rows, text_column, label_column))
    label2id = {name: number for number, name in enumerate(names)}
    config = transformers.AutoConfig.from_pretrained(
        source, num_labels=len(names), id2label=dict(enumerate(names)), label2id=label2id
    )
    if len(names) == 1:
        config.problem_type = "regression"
    load = load_image_processor if task.processor == "image" else load_tokenizer
    tokenizer = load(source, config, str(source))
    columns = task.columns(rows, config, text_column, label_column)
    for guess in columns.guesses:
        progress.info(guess)
    data = task.encode(rows, tokenizer, columns, seq_len, config)
    scaled = task.of_calibration(data)
    progress.info(f"{len(data)} examples of {data.mean_length:.1f} tokens on average")

    def loss_of(indices: list[int]) -> Tensor:
        batch = next(data.select(indices).batches(len(indices)))
        assert batch.labels is not None
        return scaled.loss(scaled.forward(model, batch.inputs), batch.labels).mean()

    with seeded(recipe.seed):
        kind = getattr(transformers, task.auto_class_name)
        model = kind.from_pretrained(source, config=config, use_safetensors=True)
        train(model, data.lengths.tolist(), loss_of, recipe, progress)
    return model, tokenizer
