"""Reads and checks everything that fine-pruning needs, before anything is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.core.errors import ConfigError, DataError, ModelError
from compress.distributed.broadcast import training
from compress.distributed.group import Group
from compress.fineprune.prepared import Prepared as Prepared
from compress.fineprune.recipe import Recipe, load_recipe
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from compress.inputs.load import Loaded, load_training
from compress.options.run_config import RunConfig

if TYPE_CHECKING:
    from compress.core.progress import Progress
    from compress.fineprune.session import TrainingSession

# Fewer examples cannot be divided into some to train on and some to evaluate on.
LEAST_EXAMPLES = 64


def prepare(config: RunConfig, loaded: Loaded, progress: Progress) -> Prepared | None:
    """Read recipe, teacher and training examples.

    Args:
        config: options of the run.
        loaded: the model, and the data that training examples are taken from.
        progress: told how many examples there are.

    Returns:
        The inputs of the training; None where nothing is fine-pruned.

    Raises:
        ConfigError: the recipe is wrong, or options contradict it.
        DataError: no data to train on, or too little.
        ModelError: the teacher does not fit the model.
    """
    if config.fine_prune is None and config.unstructured is None:
        for name in ("teacher", "checkpoints"):
            if getattr(config, name) is not None:
                raise ConfigError(f"--{name} is for --fine-prune; add a recipe (--fine-prune quick), or leave it out")
        return None
    recipe = load_recipe(config.fine_prune or "unstructured")
    _refuse_other_job(recipe, config)
    if config.teacher is not None and not recipe.taught:
        raise ConfigError(
            f"--teacher {config.teacher}: recipe '{recipe.name}' distils nothing (weight and hidden are 0); leave the "
            "teacher out, or choose another recipe"
        )
    if config.size_mb is not None and recipe.structure is not None:
        raise ConfigError(
            f"--size-mb {config.size_mb:g}: recipe '{recipe.name}' finds a structure of its own, and knows nothing of "
            "bytes; choose a recipe without [structure], such as quick"
        )
    if recipe.unstructured is not None and not recipe.unstructured.trains:
        if config.checkpoints is not None:
            raise ConfigError(f"--checkpoints: recipe '{recipe.name}' trains nothing; leave them out")
        return Prepared(recipe, None, loaded.calibration.select([]), loaded.calibration.select([]))
    examples = load_training(config, loaded, recipe.examples, recipe.seq_len)
    if len(examples) < LEAST_EXAMPLES:
        untrained = "leave out --fine-prune" if config.unstructured is None else "take --fine-prune one-shot"
        raise DataError(
            f"{len(examples)} examples are too few to train on; give at least {LEAST_EXAMPLES} with --data, or "
            f"{untrained}"
        )
    if examples.labels is None and recipe.distillation.weight == 0:
        raise DataError(
            f"recipe '{recipe.name}' learns from labels alone, and the data has none; name their column with "
            "--label-column, or choose a recipe that distils"
        )
    teacher = None if config.teacher is None else load_teacher(config.teacher, config, loaded.checkpoint)
    order = np.random.default_rng(config.seed).permutation(len(examples))
    watching = recipe.validation
    count = max(1, min(watching.most, round(watching.held_out * len(examples))))
    held, train = (examples.select(np.sort(part)) for part in np.split(order, [count]))
    # A run without labels trains without them, even where the data has some.
    if config.label_free:
        held, train = (replace(part, labels=None) for part in (held, train))
    progress.info(
        f"fine-pruning, recipe '{recipe.name}': {len(train)} training examples of {train.mean_length:.1f} tokens, "
        f"{len(held)} held out"
    )
    return Prepared(recipe, teacher, train, held)


def _refuse_other_job(recipe: Recipe, config: RunConfig) -> None:
    """Raise ConfigError where a recipe is for single weights and the run is not, or the other way round."""
    if recipe.unstructured is None and config.unstructured is not None:
        raise ConfigError(
            f"--unstructured {config.unstructured:g}: recipe '{recipe.name}' has no table [unstructured]; choose one "
            "that has (unstructured, one-shot), or leave out --fine-prune"
        )
    if recipe.unstructured is not None and config.unstructured is None:
        raise ConfigError(
            f"recipe '{recipe.name}' is for single weights: give --unstructured F (0.1 leaves a tenth of them) instead "
            "of a budget, or choose another recipe"
        )


def load_teacher(name: str, config: RunConfig, ours: Checkpoint) -> Checkpoint:
    """Load a teacher other than the dense model.

    Args:
        name: path or hub name of the teacher.
        config: the run's; its ``seq_len`` applies.
        ours: the dense model.

    Returns:
        The teacher, with the dense model's task.

    Raises:
        ModelError: its task, labels or tokenizer are not those of the dense model.
    """
    theirs = load_checkpoint(name, ours.task.name, config.seq_len)
    labels = [
        {int(number): str(label) for number, label in (getattr(c.model.config, "id2label", None) or {}).items()}
        for c in (ours, theirs)
    ]
    if labels[0] != labels[1]:
        raise ModelError(
            f"teacher '{name}' has the labels {', '.join(labels[1].values())}, the model "
            f"{', '.join(labels[0].values())}, in their order; a teacher needs the same"
        )
    # A model of images has a processor in its place, which has no vocabulary.
    texts = hasattr(ours.tokenizer, "get_vocab")
    if texts and ours.tokenizer.get_vocab() != theirs.tokenizer.get_vocab():
        raise ModelError(
            f"teacher '{name}' has another tokenizer ({len(theirs.tokenizer)} tokens, the model "
            f"{len(ours.tokenizer)}): it reads other numbers; choose a teacher with the model's vocabulary"
        )
    # A name or a prompt may differ; the same pooling and layers must make sense of both models' hidden states.
    pooled = [getattr(c.task, "pooling", None) for c in (ours, theirs)]
    sizes = [c.encoder.shape.hidden_size for c in (ours, theirs)]
    if pooled[0] != pooled[1] or (getattr(ours.task, "layers", ()) and sizes[0] != sizes[1]):
        raise ModelError(
            f"teacher '{name}' pools {pooled[1]} of {sizes[1]} entries, the model {pooled[0]} of {sizes[0]}: their "
            "embeddings cannot be compared; choose a teacher of the same kind"
        )
    return replace(theirs, task=ours.task)


def teacher_name(prepared: Prepared, loaded: Loaded) -> str | None:
    """Name of the model whose outputs are learned.

    Args:
        prepared: recipe and teacher.
        loaded: the dense model, which teaches where no other model does.

    Returns:
        None where the recipe distils nothing.
    """
    if not prepared.recipe.taught:
        return None
    return (prepared.teacher or loaded.checkpoint).name


def open_session(config: RunConfig, loaded: Loaded, prepared: Prepared, progress: Progress) -> TrainingSession:
    """The training of a run, at its beginning or where a checkpoint left it.

    Args:
        config: options of the run.
        loaded: the dense model and the calibration examples.
        prepared: recipe, teacher and training examples.
        progress: told one line at each evaluation.

    Raises:
        ArtifactError: the directory of checkpoints is not usable, or of another run.
    """
    from compress.fineprune.checkpoints import Checkpoints
    from compress.fineprune.session import TrainingSession

    # Single weights are masked by the first process alone.
    group = _group(config, loaded, prepared) if config.unstructured is None else None
    checkpoints = None
    if config.checkpoints is not None:
        fingerprint = _fingerprint(config, loaded, prepared)
        checkpoints = Checkpoints(Path(config.checkpoints), fingerprint, config.checkpoint_minutes)
    return TrainingSession(
        loaded.checkpoint,
        prepared,
        seed=config.seed,
        checkpoints=checkpoints,
        tell=progress.info,
        group=group,
        device=loaded.compute.device,
    )


def _group(config: RunConfig, loaded: Loaded, prepared: Prepared) -> Group:
    return training(
        config.model_copy(update={"device": loaded.compute.device.type}),
        loaded.checkpoint.fingerprint,
        prepared.recipe.model_dump_json(),
        None if prepared.teacher is None else prepared.teacher.fingerprint,
        {"calibration": loaded.calibration, "train": prepared.train, "held": prepared.held},
    )


def _fingerprint(config: RunConfig, loaded: Loaded, prepared: Prepared) -> str:
    """Hash of everything that training depends on except the structure, which is in the checkpoint."""
    facts = {
        "recipe": prepared.recipe.model_dump(mode="json"),
        "model": loaded.checkpoint.fingerprint,
        "teacher": None if prepared.teacher is None else prepared.teacher.fingerprint,
        "train": prepared.train.fingerprint(),
        "budget": str(config.budget) if config.unstructured is None else f"{config.unstructured} of the weights",
        "method": config.method,
        "target": config.target,
        "deployment": [config.batch_size, config.seq_len],
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
