"""Question answering: answers found in windows, every way of writing them down, scores as SQuAD 2 has them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError, ModelError
from compress.data.batches import Encoded
from compress.export.onnx import check_parity, export_onnx
from compress.export.runtime import open_session
from compress.profile.target import Target
from compress.tasks import QuestionAnswering, task_of
from compress.tasks.question_answering import NOWHERE, best_answers
from support.models import random_model
from support.structures import padded_inputs

TASK = QuestionAnswering()
CONFIG: Any = SimpleNamespace(num_labels=2, type_vocab_size=2, architectures=["BertForQuestionAnswering"])
CONTEXT = "great food , friendly service and a rude waiter . the story moves and the cast is wonderful ."


def dataset(**columns: list[Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def encode(tokenizer: Any, seq_len: int = 48, **columns: list[Any]) -> Encoded:
    data = dataset(**columns)
    return TASK.encode(data, tokenizer, TASK.columns(data, CONFIG), seq_len, CONFIG)


def asked(tokenizer: Any, answer: str, seq_len: int = 48) -> Encoded:
    start = CONTEXT.find(answer) if answer else 0
    return encode(tokenizer, seq_len, question=["what ?"], context=[CONTEXT], answer=[answer], answer_start=[start])


def certain(data: Encoded) -> np.ndarray[Any, Any]:
    """Outputs that say exactly the labels."""
    assert data.labels is not None
    logits = np.zeros((len(data), int(data.lengths.max()), 2))
    for row, label in zip(logits, data.labels, strict=True):
        row[label[0], 0] = row[label[1], 1] = 10.0
    return logits


@given(st.integers(0, len(CONTEXT) - 1), st.integers(1, 30), st.sampled_from([20, 28, 48]))
def test_labels_give_the_answer_back(tokenizer: Any, start: int, length: int, seq_len: int) -> None:
    # Whole words: a part of one comes back whole, as always with spans of tokens.
    start = CONTEXT.rfind(" ", 0, start) + 1
    end = (CONTEXT + " ").find(" ", min(len(CONTEXT), start + length))
    answer = CONTEXT[start:end]
    answers = [{"text": [answer], "answer_start": [start]}]
    data = encode(tokenizer, seq_len, question=["what ?"], context=[CONTEXT], answers=answers)
    assert data.lengths.max() <= seq_len and data.labels is not None
    held = [row for row in data.labels.tolist() if row != [0, 0]]
    measured = TASK.evaluate(certain(data), data)
    if held:
        assert (measured.value, measured.also[0].value) == (1.0, 1.0)
    else:
        # Longer than the overlap of windows, it may be whole in none.
        assert len(data) > 1 and measured.value == 0.0


def test_windows_cover_the_context(tokenizer: Any) -> None:
    data = encode(tokenizer, 20, question=["what is it ?", "who ?"], context=[CONTEXT, "the waiter"])
    assert data.labels is None and len(data) > 2
    assert sorted(set(data.targets.question.tolist())) == [0, 1]
    for number, context in enumerate((CONTEXT, "the waiter")):
        seen = np.zeros(len(context), dtype=bool)
        for question, offsets in zip(data.targets.question, data.targets.offsets, strict=True):
            for start, end in offsets[offsets[:, 0] >= 0] if question == number else []:
                seen[start:end] = True
        assert all(seen[i] or letter == " " for i, letter in enumerate(context))


def test_long_questions_leave_room(tokenizer: Any) -> None:
    data = encode(tokenizer, 20, question=["what " * 100], context=[CONTEXT])
    assert data.lengths.max() <= 20 and len(data) > 1
    with pytest.raises(DataError, match="sequence length 6 is too short for a question and its context"):
        encode(tokenizer, 6, question=["what"], context=[CONTEXT])


@pytest.mark.parametrize(
    "columns",
    [
        {"answers": [{"text": ["rude waiter"], "answer_start": [36]}]},
        {"answers": ['{"text": ["rude waiter"], "answer_start": [36]}']},
        {"answers": ["{'text': array(['rude waiter'], dtype=object), 'answer_start': array([36], dtype=int32)}"]},
        {"answer": ["rude waiter"], "answer_start": ["36"]},
        {"answer": ["rude waiter"], "answer_start": [36.0]},
        {"answer": ["Rude waiter"]},
        {"human_ans_spans": ["rude waiter ANSWERNOTFOUND"], "human_ans_indices": ["(36, 47)"]},
    ],
)
def test_answers_are_read_however_they_are_written(tokenizer: Any, columns: dict[str, list[Any]]) -> None:
    data = encode(tokenizer, question=["who ?"], review=[CONTEXT], **columns)
    assert data.targets.answers == [["rude waiter"]]


@pytest.mark.parametrize(
    "columns",
    [
        {"answers": [{"text": [], "answer_start": []}]},
        {"answer": [""]},
        # Plausible answers, which are not right.
        {"answers": [{"text": ["rude waiter"], "answer_start": [36]}], "is_impossible": [True]},
        {"human_ans_spans": ["ANSWERNOTFOUND"], "human_ans_indices": ["(93, 107)"]},
    ],
)
def test_there_may_be_no_answer(tokenizer: Any, columns: dict[str, list[Any]]) -> None:
    data = encode(tokenizer, question=["who ?"], context=[CONTEXT + " ANSWERNOTFOUND"], **columns)
    assert data.targets.answers == [[""]] and data.targets.contexts == [CONTEXT]
    assert data.labels is not None and data.labels.tolist() == [[0, 0]]
    assert TASK.evaluate(certain(data), data).value == 1.0


def test_slices_are_questions_with_and_without_an_answer(tokenizer: Any) -> None:
    data = encode(
        tokenizer,
        question=["who ?", "why ?", "what ?"],
        context=[CONTEXT] * 3,
        answers=[
            {"text": [t], "answer_start": [36]} if t else {"text": [], "answer_start": []}
            for t in ("rude waiter", "", "")
        ],
    )
    answered, not_answered = TASK.slices(certain(data), data, {})
    assert (answered.count, not_answered.count) == (1, 2)
    assert answered.measured.value == not_answered.measured.value == 1.0
    # One kind alone is the whole, and says nothing more.
    assert TASK.slices(certain(asked(tokenizer, "")), asked(tokenizer, ""), {}) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": ["pizza"]}, "row 1, column 'answer': answer 'pizza' is not in its context"),
        ({"answer": ["food"], "answer_start": [0]}, "answer 'food' is not at character 0"),
        ({"answer": ["food"], "answer_start": [900]}, "answer 'food' is not at character 900"),
        ({"human_ans_spans": ["food"], "human_ans_indices": ["(90, 120)"]}, "is outside its context of 93"),
        ({"answers": ["{not json"]}, "is not valid JSON"),
        ({"answers": [{"text": ["food"], "answer_start": [1, 2]}]}, "1 answers have 2 places"),
        ({"answers": [[1, 2]]}, "is not an answer"),
    ],
)
def test_bad_answers(tokenizer: Any, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError) as caught:
        encode(tokenizer, question=["who ?"], context=[CONTEXT], **columns)
    assert message in str(caught.value) and "--label-column" in str(caught.value)


def test_columns_that_cannot_be_told(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="cannot tell question and context apart; columns found: 'text'"):
        encode(tokenizer, text=["a"])
    with pytest.raises(DataError, match="must name two columns"):
        TASK.columns(dataset(question=["a"], context=["b"]), CONFIG, "question")
    hidden = dataset(question=["a"], context=["b"], answers=[None])
    columns = TASK.columns(hidden, CONFIG)
    assert columns.label is None and "has no answers: label-free" in columns.guesses[-1]


def test_questions_asked_twice_have_all_answers(tokenizer: Any) -> None:
    data = encode(tokenizer, question=["who ?"] * 3, context=[CONTEXT] * 3, answer=["", "waiter", "rude waiter"])
    assert data.targets.answers == [["", "waiter", "rude waiter"]] and len(data) == 1
    assert TASK.evaluate(certain(data), data).value == 1.0


def test_scores_are_those_of_squad(tokenizer: Any) -> None:
    data = asked(tokenizer, "a rude waiter")
    assert data.labels is not None

    def scores(answer: str) -> tuple[float, float]:
        measured = TASK.evaluate(certain(asked(tokenizer, answer)), data)
        return round(measured.value, 6), measured.also[0].value

    # Articles and punctuation do not count.
    assert scores("rude waiter .") == (1.0, 1.0)
    assert scores("waiter") == (round(2 / 3, 6), 0.0)
    assert scores("friendly service") == scores("") == (0.0, 0.0)


def test_no_answer_has_to_hold_in_every_window(tokenizer: Any) -> None:
    data = encode(tokenizer, 20, question=["who ?"], context=[CONTEXT], answer=["wonderful"])
    logits = certain(data)
    assert len(data) > 1 and best_answers(logits, data.targets) == ["wonderful"]
    logits[:, 0] = 20.0
    assert best_answers(logits, data.targets) == [""]
    logits[-1, 0] = 0.0
    assert best_answers(logits, data.targets) == ["wonderful"]


def test_fidelity_is_to_the_dense_answers(tokenizer: Any) -> None:
    bare = encode(tokenizer, question=["who ?"], context=[CONTEXT])
    dense = certain(asked(tokenizer, "rude waiter"))
    found = TASK.evaluate(dense, bare, dense)
    assert (found.name, found.value) == ("answer F1 fidelity", 1.0)
    assert TASK.evaluate(certain(asked(tokenizer, "")), bare, dense).value == 0.0


def test_file_has_two_outputs_and_padding_no_probability(tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering

    model, inputs = AutoModelForQuestionAnswering.from_config(random_model("bert").config).eval(), padded_inputs("bert")
    export_onnx(
        model, tmp_path / "m.onnx", input_names=list(inputs), output_names=TASK.file_names, outputs=TASK.file_outputs
    )
    session = open_session(tmp_path / "m.onnx", Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1))
    assert check_parity(session, model, [inputs], TASK.forward, 1e-4) <= 1e-4
    import onnx

    assert [value.name for value in onnx.load(str(tmp_path / "m.onnx")).graph.output] == ["start_logits", "end_logits"]
    with torch.no_grad():
        together = TASK.forward(model, inputs)
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            alone = TASK.forward(model, {name: tensor[i : i + 1, :length] for name, tensor in inputs.items()})
            assert (together[i, length:] == NOWHERE).all()
            label = torch.tensor([[0, length - 1]])
            torch.testing.assert_close(TASK.loss(alone, label)[0], TASK.loss(together[i : i + 1], label)[0])
    drawn = TASK.draw_labels(together, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 2) and (drawn < inputs["attention_mask"].sum(1, keepdim=True)).all()
    assert not TASK.divergence(together, together).any()


def test_head() -> None:
    assert isinstance(task_of(CONFIG), QuestionAnswering)
    with pytest.raises(ModelError, match="3 numbers per token"):
        task_of(SimpleNamespace(architectures=["BertForQuestionAnswering"], num_labels=3))
