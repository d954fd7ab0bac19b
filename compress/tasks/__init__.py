"""One class per task: columns of the data, loss, metric.

    base                  ``Task``, the class that all stages see
    answers               a PyTorch model's answers to a data set
    measured              values of a metric;  losses: those that several tasks share
    text_classification   one class per text or pair of texts
    text_regression       one number per text or pair of texts
    token_classification  one tag per word, scored by spans
    question_answering    the span of a context that answers a question
    qa_columns            columns of questions, contexts and answers
    sentence_similarity   one embedding per text
    classified_embedding  classes by a linear head on embeddings (SetFit)
    pooling               token embeddings as one embedding, and the layers after that
    image_classification  one class per image
    standing              a metric beside chance: at chance, weak or sound
    tokenization          texts, words and long contexts as rows of token ids

A new task is one subclass of ``Task`` in a module of its own, listed in ``TASKS``. Stages use a task only through the
methods of ``Task``: how labels, missing labels, losses and metrics are handled is decided here and nowhere else.

May import models, data, core.
"""

from __future__ import annotations

from typing import Any

from compress.core.errors import ConfigError, ModelError, did_you_mean
from compress.tasks.answers import outputs_of
from compress.tasks.base import Task
from compress.tasks.image_classification import ImageClassification
from compress.tasks.measured import Measured
from compress.tasks.question_answering import QuestionAnswering
from compress.tasks.sentence_similarity import SentenceSimilarity
from compress.tasks.text_classification import TextClassification
from compress.tasks.text_regression import TextRegression
from compress.tasks.token_classification import TokenClassification

__all__ = [
    "PRE_TRAINING_HEADS",
    "TASKS",
    "ImageClassification",
    "Measured",
    "QuestionAnswering",
    "SentenceSimilarity",
    "Task",
    "TextClassification",
    "TextRegression",
    "TokenClassification",
    "has_head",
    "outputs_of",
    "task_of",
]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TextClassification(),
        TextRegression(),
        TokenClassification(),
        QuestionAnswering(),
        SentenceSimilarity(),
        ImageClassification(),
    )
}


# Heads of pre-training: an encoder's embeddings do not use them.
PRE_TRAINING_HEADS = ("ForMaskedLM", "ForPreTraining", "ForNextSentencePrediction", "ForCausalLM", "LMHeadModel")


def has_head(task: Task, head: str) -> bool:
    """Returns whether a class of model has the head of a task; ``BertLMHeadModel`` is no bare ``BertModel``.

    Args:
        task: the task.
        head: the name of the class.
    """
    return head.endswith(task.head_suffixes) and not head.endswith(PRE_TRAINING_HEADS)


def task_of(config: Any, name: str | None = None) -> Task:
    """Returns the task of a checkpoint.

    Args:
        config: the checkpoint's configuration.
        name: a name of ``TASKS``; None infers the task from the checkpoint's head (``architectures``).

    Raises:
        ConfigError: there is no task of that name.
        ModelError: the checkpoint has no head, or its head does not fit the task.
    """
    if name is not None and name not in TASKS:
        raise ConfigError(f"unknown task '{name}'.{did_you_mean(name, list(TASKS))} Tasks: {', '.join(TASKS)}")
    heads = tuple(config.architectures or ())
    fitting = [task for task in TASKS.values() if any(has_head(task, head) for head in heads)]
    if name is not None:
        task = TASKS[name]
        # Without "architectures" the weights decide: a missing head is noticed when they are loaded.
        refusal = None if task in fitting or not heads else f"its head is {_head(heads)}, {_needed(task)}"
        refusal = refusal or _refusal(task, config)
        if refusal is None:
            return task
        other = next((one for one in fitting if one is not task and _refusal(one, config) is None), None)
        advice = f"; give --task {other.name}, which fits, or leave --task out" if other else ""
        raise ModelError(f"task {name} does not fit this checkpoint: {refusal}{advice}")
    refusals = {task: _refusal(task, config) for task in fitting}
    # Classifiers and regressors have the same class of head.
    found = next((task for task, refusal in refusals.items() if refusal is None), None)
    if found is not None:
        return found
    meant = next((task for task in fitting if task.is_meant(config)), next(iter(fitting), None))
    if meant is not None:
        raise ModelError(str(refusals[meant]))
    if not heads:
        raise ModelError(
            f"cannot tell the task of this checkpoint: its head is {_head(heads)}; name the task that it was "
            f"fine-tuned for with --task: {', '.join(TASKS)}"
        )
    if all(head.endswith(PRE_TRAINING_HEADS) for head in heads):
        raise ModelError(
            f"cannot tell the task of this checkpoint: its head is {_head(heads)}, which is for pre-training. "
            f"Fine-tune it on a task; or give --task {SentenceSimilarity.name}, which leaves the head out"
        )
    raise ModelError(
        f"cannot tell the task of this checkpoint: its head is {_head(heads)}, which no task is for. Fine-tune it with "
        f"the head of one: {', '.join(f'{task.name} (...{task.head_suffixes[0]})' for task in TASKS.values())}"
    )


def _refusal(task: Task, config: Any) -> str | None:
    """Returns why a checkpoint's configuration does not fit a task; None where it does."""
    try:
        task.check_config(config)
    except ModelError as error:
        return str(error)
    return None


def _head(heads: tuple[str, ...]) -> str:
    return ", ".join(heads) or "not named in its config.json (architectures)"


def _needed(task: Task) -> str:
    return f"and {task.name} needs ...{' or ...'.join(task.head_suffixes)}"
