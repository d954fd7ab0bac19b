"""Reads questions, contexts and answers from the columns of several data sets.

Supported are the columns of SQuAD (``answers`` with texts and starts), flat columns (``answer``, ``answer_start``), and
spans of characters (SubjQA). Every answer is checked against its context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError
from compress.data.columns import (
    Columns,
    column_list,
    parse_text_columns,
    read_column,
    read_texts,
    require_column,
    usual_name,
)
from compress.data.literals import parse_literal
from compress.data.names import ANSWER_NAMES, CONTEXT_NAMES, PLACE_NAMES, QUESTION_NAMES, UNANSWERABLE_NAMES
from compress.data.origin import place as place_of
from compress.data.text_files import SPACES

if TYPE_CHECKING:
    from datasets import Dataset

# SubjQA writes this at the end of every review, and as the answer of a question that has none.
NO_ANSWER = "ANSWERNOTFOUND"


@dataclass(frozen=True)
class Answer:
    """Characters ``start`` up to ``end`` of the context; ``start == end`` means that there is no answer."""

    start: int
    end: int


def choose_answer_columns(dataset: Dataset, text_column: str | None, label_column: str | None) -> Columns:
    """Chooses the columns of question and context, and of the answers where the data has any.

    Args:
        dataset: rows.
        text_column: names of question and context, separated by a comma; None guesses.
        label_column: the column of answers; None guesses. Without a usual name the result has no label.

    Raises:
        DataError: a named column is missing, or question and context cannot be guessed.
    """
    names = list(dataset.column_names)
    guesses = []
    if text_column:
        texts = parse_text_columns(dataset, text_column)
    else:
        question, context = usual_name(names, QUESTION_NAMES), usual_name(names, CONTEXT_NAMES)
        if question is None or context is None:
            raise DataError(
                f"cannot tell question and context apart; columns found: {column_list(dataset)}. Name them with "
                "--text-column question,context"
            )
        texts = (question, context)
        guesses.append(f"questions are taken from '{question}', contexts from '{context}' (--text-column names others)")
    if len(texts) != 2:
        raise DataError(f"--text-column '{text_column}' must name two columns for question-answering: question,context")
    others = [name for name in names if name not in texts]
    if label_column:
        label: str | None = require_column(dataset, label_column, "--label-column")
    else:
        label = usual_name(others, ANSWER_NAMES)
    place = usual_name(others, PLACE_NAMES) if label else None
    if not label_column:
        guesses.append(
            f"answers are taken from '{label}'{f', their places from {place!r}' if place else ''} "
            "(--label-column names another)"
            if label
            else f"none of the columns {column_list(dataset)} looks like answers: label-free (--label-column names one)"
        )
    return Columns(texts, label, tuple(guesses), place=place)


def read_questions(dataset: Dataset, columns: Columns) -> Iterator[tuple[str, str, list[Answer] | None]]:
    """Yields question, context and right answers of every row; answers are None without labels.

    Args:
        dataset: rows.
        columns: from ``choose_answer_columns``.

    Raises:
        DataError: an answer is not in its context, or its format is unknown.
    """
    questions, contexts = (read_texts(dataset, name) for name in columns.text)
    contexts = [
        context.removesuffix(NO_ANSWER).rstrip(SPACES) if NO_ANSWER in context else context for context in contexts
    ]
    values = [None] * len(questions) if columns.label is None else read_column(dataset, columns.label)
    places = [None] * len(questions) if columns.place is None else read_column(dataset, columns.place)
    known = columns.label is not None and any(value is not None for value in values)
    impossible = _impossible(dataset)
    for number, (question, context, value, place) in enumerate(zip(questions, contexts, values, places, strict=True)):
        if known and number in impossible:
            # Its answers are plausible ones, which are not right.
            yield question, context, [Answer(0, 0)]
            continue
        try:
            yield question, context, _answers(value, place, context) if known else None
        except ValueError as error:
            raise DataError(
                f"{place_of(dataset, number)}, column '{columns.label}': {error}; correct the data, or name "
                "another column with --label-column"
            ) from None


def _impossible(dataset: Dataset) -> set[int]:
    """Returns the rows whose question has no answer, as a column of SQuAD 2 says."""
    column = usual_name(list(dataset.column_names), UNANSWERABLE_NAMES)
    values = [] if column is None else read_column(dataset, column)
    return {number for number, value in enumerate(values) if str(value).lower() in ("true", "1")}


def _answers(value: Any, place: Any, context: str) -> list[Answer]:
    """Returns all right answers of one row; a question without an answer gives one answer of length 0.

    Raises:
        ValueError: an answer is not in the context, or its format is unknown.
    """
    if isinstance(value, str) and value.lstrip(SPACES).startswith(("{", "[")):
        value = _parsed(value)
    if isinstance(value, list):
        value = _as_texts_and_starts(value, place)
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        texts = texts if isinstance(texts, list) else [] if texts is None else [texts]
        starts = starts if isinstance(starts, list) else [None] * len(texts) if starts is None else [starts]
        if len(texts) != len(starts):
            raise ValueError(f"{len(texts)} answers have {len(starts)} places")
        return [_answer(text, start, context) for text, start in zip(texts, starts, strict=True)] or [Answer(0, 0)]
    if value is None or isinstance(value, str):
        return [_answer(value or "", place, context)]
    raise ValueError(f"{str(value)[:60]!r} is not an answer; give a text, or texts and starts as SQuAD has them")


def _parsed(text: str) -> Any:
    """Parses answers in a field of a csv file; an answer may itself begin with a bracket."""
    try:
        # Data sets that were written as csv have {'text': ['..'], 'answer_start': [9]}, or arrays in place of lists.
        return parse_literal(text)
    except ValueError:
        if text.lstrip(SPACES).startswith("["):
            return text
        raise ValueError(f"{text[:60]!r} is not valid JSON") from None


def _as_texts_and_starts(answers: list[Any], place: Any) -> dict[str, Any]:
    """Returns a list of answers, which are objects or texts, as SQuAD's texts and starts."""
    if all(isinstance(answer, dict) for answer in answers):
        starts = [answer.get("answer_start", answer.get("start")) for answer in answers]
        return {"text": [answer.get("text") for answer in answers], "answer_start": starts}
    if not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{str(answers)[:60]!r} is not an answer; give texts, or texts and starts as SQuAD has them")
    return {"text": answers, "answer_start": place if isinstance(place, list) else None}


def _whole(place: Any) -> str:
    """Returns a place as text; a column with gaps has 9.0 for 9."""
    return re.sub(r"(?<=\d)\.0+(?!\d)", "", str(place))


def _answer(text: Any, place: Any, context: str) -> Answer:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a text")
    if not text.strip(SPACES) or text.strip(SPACES) == NO_ANSWER:
        return Answer(0, 0)
    numbers = [int(n) for n in re.findall(r"-?\d+", _whole(place))] if place is not None else []
    if len(numbers) == 2:
        start, end = numbers
        if NO_ANSWER in text:
            # The span includes NO_ANSWER, which was cut off the context.
            end = min(end, len(context))
        if not 0 <= start < end <= len(context):
            raise ValueError(
                f"the place {place} of answer {text[:40]!r} is outside its context of {len(context)} characters"
            )
        return Answer(start, end)
    if len(numbers) == 1:
        start = numbers[0]
        if start < 0 or context[start : start + len(text)] != text:
            raise ValueError(f"answer {text[:40]!r} is not at character {start} of its context")
        return Answer(start, start + len(text))
    start = context.find(text)
    if start < 0:
        start = context.lower().find(text.lower())
    if start < 0:
        raise ValueError(f"answer {text[:40]!r} is not in its context")
    return Answer(start, start + len(text))
