"""Chooses a checkpoint's task from its head and from the files of sentence-transformers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ConfigError, ModelError
from compress.inputs.sentence_encoder import MODULES, SentenceFolder
from compress.tasks import PRE_TRAINING_HEADS, TASKS, SentenceSimilarity, Task, has_head, task_of

if TYPE_CHECKING:
    from compress.tasks.sentence_similarity import Embedding

# The classifier of early releases of SetFit, which is not read (``inputs/setfit.py`` reads the later one).
_CLASSIFIER = "model_head.pt"
# First parts of the names of a trained head's weights.
_HEADS = ("classifier", "pre_classifier", "qa_outputs", "score")


def choose_task(
    config: Any, name: str | None, folder: SentenceFolder | None, weights: Sequence[Path]
) -> tuple[Task, list[str]]:
    """Chooses the task of a checkpoint.

    Args:
        config: the checkpoint's configuration.
        name: the task that the user named; None infers it.
        folder: the files of sentence-transformers; None without any. They make any encoder a sentence encoder.
        weights: the checkpoint's safetensors files.

    Returns:
        The task, and sentences for the user: which head is left out.

    Raises:
        ConfigError: there is no task of that name.
        ModelError: the head does not fit the task, or the files and the head contradict each other.
    """
    similarity = SentenceSimilarity()
    heads = [head for head in config.architectures or () if not has_head(similarity, head)]
    trained = [
        task for task in TASKS.values() if task != similarity and any(h.endswith(task.head_suffixes) for h in heads)
    ]
    if folder is None:
        bare = name == similarity.name and bool(heads) and all(head.endswith(PRE_TRAINING_HEADS) for head in heads)
        if not bare:
            return task_of(config, name), []
    elif name is None and trained and _has_head(weights):
        raise ModelError(
            f"'{folder.root / MODULES}' makes this a sentence encoder, but its weights have the head of "
            f"{', '.join(heads)}; name the task: --task {similarity.name} leaves the head out, --task "
            f"{trained[0].name} keeps it"
        )
    said = [f"the head of {head} is left out: embeddings do not use it" for head in heads]
    if folder is not None and (folder.root / _CLASSIFIER).is_file():
        said.append(
            f"{_CLASSIFIER} is left out: it is a classifier on top of the embeddings (SetFit), which are compressed "
            "and compared without it; train it again on the embeddings of the artifact"
        )
    return similarity, said


def refuse_sentence_options(task: Task, embedding: Embedding | None, prompt: str | None) -> None:
    """Refuses options of sentence encoders for another task.

    Args:
        task: the task.
        embedding: ``--embedding``; None was not given.
        prompt: ``--prompt``; None was not given.

    Raises:
        ConfigError: one of them was given.
    """
    if embedding is not None:
        task.giving(embedding)
    if prompt is not None:
        raise ConfigError(f"--prompt {prompt} is for sentence-similarity; this task is {task.name}")


def _has_head(weights: Sequence[Path]) -> bool:
    from safetensors import safe_open

    for file in weights:
        with safe_open(str(file), framework="numpy") as stored:
            if any(name.split(".", 1)[0] in _HEADS for name in stored.keys()):  # noqa: SIM118 (not a dict)
                return True
    return False
