"""Task question-answering: finds the span of a context that answers a question, or that none does."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ModelError
from compress.data.batches import Encoded
from compress.data.columns import Columns
from compress.tasks.base import Chosen, Task, require_labels
from compress.tasks.losses import categorical_direction, categorical_divergence, draw_categories
from compress.tasks.measured import Measured, Slice
from compress.tasks.qa_columns import Answer, choose_answer_columns, read_questions
from compress.tasks.standing import Standing, standing_of_answers
from compress.tasks.tokenization import Windows, encode_windows

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

# Logits of padding: probability 0, and still finite in float16.
NOWHERE = -1e4
# Tokens in an answer at most, as in the evaluation of SQuAD.
LONGEST_ANSWER = 30


@dataclass(frozen=True)
class Questions:
    """Questions and right answers for the metric; an example is one window of a question's context.

    Attributes:
        question: number of the question of each example, [examples].
        offsets: for each example the characters of the context that each token covers, [tokens, 2]; -1 for tokens
            outside the context.
        contexts: the context of each question.
        answers: right answers of each question, an empty text where there is none; None without labels.
    """

    question: NDArray[np.int64]
    offsets: list[NDArray[np.int32]]
    contexts: list[str]
    answers: list[list[str]] | None


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Predicts start and end of the answer in the context; the first token means "no answer"."""

    name = "question-answering"
    metric_name = "answer F1"
    sliced_by = "kind of question"
    auto_class_name = "AutoModelForQuestionAnswering"
    head_suffixes = ("ForQuestionAnswering",)
    output_names = ("start_logits", "end_logits")
    fill = NOWHERE

    def check_config(self, config: Any) -> None:
        if config.num_labels != 2:
            raise ModelError(f"this checkpoint's head gives {config.num_labels} numbers per token; {self.name} needs 2")

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        return choose_answer_columns(dataset, text_column, label_column)

    def new_head(self, dataset: Dataset, columns: Columns) -> list[str]:
        require_labels(columns)
        return ["start", "end"]

    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        chosen = dict(columns)
        for name, own in columns.items():
            # All rows are checked, not only the sample that calibration takes.
            questions = list(read_questions(splits[name], own))
            if own.label is not None and all(answers is None for _, _, answers in questions):
                note = f"column '{own.label}'{f' of the {name}' if name else ''} has no answers: label-free"
                chosen[name] = replace(own, label=None, guesses=(*own.guesses, note))
        return Chosen(chosen)

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        """Makes one example of every window of a context; a repeated pair of question and context is asked once."""
        asked: dict[tuple[str, str], list[Answer]] = {}
        for question, context, answers in read_questions(dataset, columns):
            asked.setdefault((question, context), []).extend(answers or ())
        encoded, windows = encode_windows(list(asked), tokenizer, seq_len, config)
        contexts = [context for _, context in asked]
        labels: NDArray[np.int64] | None = None
        texts: list[list[str]] | None = None
        if columns.label is not None:
            labels = _answer_tokens(windows, list(asked.values()))
            texts = [
                [context[answer.start : answer.end] for answer in found]
                for context, found in zip(contexts, asked.values(), strict=True)
            ]
        targets = Questions(windows.question, windows.offsets, contexts, texts)
        return replace(encoded, labels=labels, targets=targets)

    def no_examples(self, tokenizer: Any, config: Any) -> Encoded:
        return encode_windows([("a", "a")], tokenizer, 32, config)[0].select([])

    def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Returns logits of start and end, [batch, sequence, 2]; padding has probability 0."""
        import torch

        answer = model(**inputs)
        logits = torch.stack([answer.start_logits, answer.end_logits], dim=-1)
        return logits.masked_fill(inputs["attention_mask"].unsqueeze(-1) == 0, NOWHERE)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, labels, reduction="none").sum(-1)

    def divergence(self, logits: Tensor, reference: Tensor) -> Tensor:
        return categorical_divergence(logits.transpose(1, 2), reference.transpose(1, 2)).sum(-1)

    def draw_labels(self, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_categories(reference.transpose(1, 2), generator)

    def fisher_direction(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return categorical_direction(outputs.transpose(1, 2), generator).transpose(1, 2)

    def predictions(self, logits: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the most probable start and the most probable end, int64 [n, 2]."""
        return np.asarray(logits).argmax(1).astype(np.int64)

    def scores(self, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
        """Returns the fraction of start and end that is right: 0, 0.5 or 1, [n]."""
        return cast("NDArray[np.float64]", (self.predictions(logits) == np.asarray(labels)).mean(1))

    def evaluate(self, logits: NDArray[Any], data: Encoded, reference: NDArray[Any] | None = None) -> Measured:
        """Computes F1 of the words of answers as in SQuAD 2, averaged over questions; exact match is in ``also``."""
        questions: Questions = data.targets
        truth, suffix = questions.answers, ""
        if truth is None:
            if reference is None:
                raise ValueError("without answers the dense model's outputs are needed")
            truth, suffix = [[answer] for answer in best_answers(reference, questions)], " fidelity"
        ours = best_answers(logits, questions)
        exact = [max(float(_words(a) == _words(b)) for b in right) for a, right in zip(ours, truth, strict=True)]
        shared = [max(_f1(_words(a), _words(b)) for b in right) for a, right in zip(ours, truth, strict=True)]
        return Measured(
            self.metric_name + suffix,
            np.array(shared, dtype=np.float64),
            also=(Measured("exact match" + suffix, np.array(exact, dtype=np.float64)),),
        )

    def standing(self, logits: NDArray[Any], data: Encoded) -> Standing | None:
        questions: Questions = data.targets
        if questions.answers is None:
            return None
        unanswered = np.array([not any(answers) for answers in questions.answers])
        return standing_of_answers(self.evaluate(logits, data).scores, unanswered)

    def slices(
        self,
        logits: NDArray[Any],
        data: Encoded,
        names: Mapping[int, str],
        reference: NDArray[Any] | None = None,
    ) -> list[Slice]:
        """Computes F1 of questions with and without an answer; empty where all questions are of one kind."""
        questions: Questions = data.targets
        if questions.answers is None:
            return []
        answered = np.array([any(answers) for answers in questions.answers])
        if answered.all() or not answered.any():
            return []
        found = self.evaluate(logits, data)
        return [
            Slice(name, int(part.sum()), Measured(found.name, found.scores[part]))
            for name, part in (("answered by the context", answered), ("not answered by the context", ~answered))
        ]


def _answer_tokens(windows: Windows, answers: Sequence[Sequence[Answer]]) -> NDArray[np.int64]:
    """Returns the first and last token of each window's answer, [windows, 2]; (0, 0) where it has none."""
    labels = np.zeros((len(windows.offsets), 2), dtype=np.int64)
    for label, number, offsets in zip(labels, windows.question, windows.offsets, strict=True):
        # Annotators may disagree on whether there is an answer; an answer that one of them found is preferred.
        answer = next((found for found in answers[number] if found.end > found.start), None)
        if answer is None:
            continue
        inside = offsets[:, 0] >= 0
        starts = np.flatnonzero(inside & (offsets[:, 0] <= answer.start) & (offsets[:, 1] > answer.start))
        ends = np.flatnonzero(inside & (offsets[:, 0] < answer.end) & (offsets[:, 1] >= answer.end))
        if len(starts) and len(ends):
            label[:] = starts[0], ends[-1]
    return labels


def best_answers(logits: NDArray[Any], questions: Questions) -> list[str]:
    """Returns the most probable answer of each question over all its windows; empty where "no answer" wins.

    Args:
        logits: logits of start and end, [windows, sequence, 2].
        questions: the questions of these windows.
    """
    best = [(-np.inf, "")] * len(questions.contexts)
    nothing = np.full(len(questions.contexts), np.inf)
    for row, number, offsets in zip(logits, questions.question, questions.offsets, strict=True):
        # "No answer" has to hold in every window: its smallest score counts.
        nothing[number] = min(nothing[number], float(row[0, 0] + row[0, 1]))
        inside = np.flatnonzero(offsets[:, 0] >= 0)
        if not len(inside):
            continue
        # The context's tokens follow one another.
        first, last = inside[0], inside[-1] + 1
        pair = row[first:last, 0][:, None] + row[first:last, 1][None, :]
        allowed = np.triu(np.ones(pair.shape, dtype=bool)) & ~np.triu(np.ones(pair.shape, dtype=bool), LONGEST_ANSWER)
        start, end = np.unravel_index(np.where(allowed, pair, -np.inf).argmax(), pair.shape)
        score = float(pair[start, end])
        if score > best[number][0]:
            begin, stop = offsets[first + start, 0], offsets[first + end, 1]
            best[number] = score, questions.contexts[number][begin:stop]
    return [text if score > nothing[i] else "" for i, (score, text) in enumerate(best)]


def _words(text: str) -> list[str]:
    """Splits a text into words as SQuAD does: lower case, without punctuation and articles."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.findall(r"\S+", re.sub(r"\b(a|an|the)\b", " ", bare))


def _f1(ours: list[str], right: list[str]) -> float:
    if not ours or not right:
        return float(ours == right)
    common = sum((Counter(ours) & Counter(right)).values())
    return 2 * common / (len(ours) + len(right))
