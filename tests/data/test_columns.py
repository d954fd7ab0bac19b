"""Columns and labels: usual names are found, labels mean what the model means, and the rest is refused with a list."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.columns import choose_columns, read_texts
from compress.data.labels import label_ids, label_text, model_labels


def data(**columns: list[Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def model(*names: str) -> Any:
    return SimpleNamespace(id2label=dict(enumerate(names)), num_labels=len(names))


def named(*names: str) -> Any:
    return data(**{name: ["x"] for name in names})


SENTIMENT = model("negative", "positive")
GENERIC = model("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("names", "text", "label"),
    [
        (("label", "sentence"), ("sentence",), "label"),
        (("text", "label", "source"), ("text",), "label"),
        (("Review", "Sentiment"), ("Review",), "Sentiment"),
        (("idx", "content", "target"), ("content",), "target"),
        (("title", "text", "labels"), ("text",), "labels"),
        (("sentence1", "sentence2", "label", "idx"), ("sentence1", "sentence2"), "label"),
        (("hypothesis", "premise", "gold_label"), ("premise", "hypothesis"), "gold_label"),
        (("question", "sentence", "label"), ("question", "sentence"), "label"),
        (("question1", "question2"), ("question1", "question2"), None),
        (("phrase", "label"), ("phrase",), "label"),
        (("phrase",), ("phrase",), None),
        (("text", "rating"), ("text",), None),
    ],
)
def test_usual_names(names: tuple[str, ...], text: tuple[str, ...], label: str | None) -> None:
    columns = choose_columns(named(*names), None, None)
    assert (columns.text, columns.label) == (text, label)
    said = " ".join(columns.guesses)
    assert all(f"'{name}'" in said for name in text)
    assert "label-free" in said if label is None else f"'{label}'" in said


@pytest.mark.parametrize(
    ("text_column", "label_column", "text", "label"),
    [
        ("b", None, ("b",), "label"),
        ("a,b", None, ("a", "b"), "label"),
        ("a, b", "c", ("a", "b"), "c"),
        ("x,y", None, ("x,y",), "label"),
        ("label", None, ("label",), None),
        (None, "a", ("text",), "a"),
        # What is usually a text is a label when the user says so.
        (None, "text", ("sentence",), "text"),
    ],
)
def test_named_columns(
    text_column: str | None, label_column: str | None, text: tuple[str, ...], label: str | None
) -> None:
    dataset = named("text", "sentence", "label", "a", "b", "c", "x,y")
    columns = choose_columns(dataset, text_column, label_column)
    assert (columns.text, columns.label) == (text, label)
    if text_column and label_column:
        assert columns.guesses == ()


@pytest.mark.parametrize(
    ("text_column", "label_column", "expected"),
    [
        ("txt", None, ["'txt'", "--text-column", "'text', 'label', 'a'", "Did you mean 'text'?"]),
        (None, "lable", ["'lable'", "--label-column", "'text', 'label', 'a'", "Did you mean 'label'?"]),
        ("text,nothing", None, ["'nothing'"]),
        ("text,", None, ["''"]),
        ("text,label,a", None, ["one column, or two"]),
        ("text,text", None, ["two different"]),
        ("text", "text", ["as text and as label"]),
    ],
)
def test_wrong_names(text_column: str | None, label_column: str | None, expected: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        choose_columns(named("text", "label", "a"), text_column, label_column)
    assert all(part in str(caught.value) for part in expected), caught.value


def test_no_text_to_be_told_lists_the_columns() -> None:
    with pytest.raises(DataError, match=r"columns found: 'foo', 'bar'. Name it with --text-column"):
        choose_columns(named("foo", "bar"), None, None)


@pytest.mark.parametrize(
    "header", [("0", "one long string of cliches ."), ("a film that moves one to tears and back .",), ("1", "good")]
)
def test_file_without_header(header: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="first line of the file looks like data"):
        choose_columns(named(*header), None, None)


def test_many_columns_are_not_all_listed() -> None:
    with pytest.raises(DataError) as caught:
        choose_columns(named(*(f"column{i}" for i in range(500))), None, None)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("values", "config", "expected"),
    [
        ([0, 1], SENTIMENT, [0, 1]),
        (["0", "1"], SENTIMENT, [0, 1]),
        ([0.0, 1.0], SENTIMENT, [0, 1]),
        (["1.0", " 0 "], SENTIMENT, [1, 0]),
        ([True, False], SENTIMENT, [1, 0]),
        (["true", "False"], SENTIMENT, [1, 0]),
        (["positive", "Negative", " POSITIVE"], SENTIMENT, [1, 0, 1]),
        (["LABEL_2", "label_0"], GENERIC, [2, 0]),
        ([2, 0], GENERIC, [2, 0]),
        # Names that are numbers: stars 1 to 5 are classes 0 to 4 ...
        ([1, 5], model("1", "2", "3", "4", "5"), [0, 4]),
        # ... unless there is a 0, which then is no star but a class.
        ([0, 1], model("1", "2", "3", "4", "5"), [0, 1]),
        (["no", "yes"], model("yes", "no"), [1, 0]),
        (["a", "A"], model("a", "A"), [0, 1]),
    ],
)
def test_labels_of_the_model(values: list[Any], config: Any, expected: list[int]) -> None:
    numbers, notes = label_ids(data(label=values), "label", config)
    assert [numbers[label_text(value)] for value in values] == expected
    assert notes == ()


@given(st.permutations(["anger", "joy", "fear", "love"]), st.integers(0, 2**31))
def test_stated_names_win_over_numbers(order: list[str], seed: int) -> None:
    """A hub data set's numbers follow its own order of names, not the model's."""
    import numpy as np
    from datasets import ClassLabel, Dataset, Features

    values = np.random.default_rng(seed).integers(0, 4, size=9).tolist()
    dataset = Dataset.from_dict({"label": values}, features=Features({"label": ClassLabel(names=order)}))
    config = model("Joy", "Love", "Anger", "Fear")
    numbers, notes = label_ids(dataset, "label", config)
    assert all(config.id2label[numbers[str(value)]].lower() == order[value] for value in values)
    assert notes == ()


def test_stated_names_unlike_the_models_are_matched_by_number() -> None:
    from datasets import ClassLabel, Dataset, Features

    dataset = Dataset.from_dict({"label": [0, 1]}, features=Features({"label": ClassLabel(names=["bad", "good"])}))
    numbers, notes = label_ids(dataset, "label", SENTIMENT)
    assert numbers == {"0": 0, "1": 1}
    assert "by number" in notes[0] and "bad, good" in notes[0]


@pytest.mark.parametrize("values", [[None, None], ["", ""], ["", None, " "], [-1, -1], ["-1"], [float("nan")]])
def test_empty_labels_mean_label_free(values: list[Any]) -> None:
    numbers, notes = label_ids(data(label=values), "label", SENTIMENT)
    assert numbers == {}
    assert "label-free" in notes[0]


def test_some_labels_missing() -> None:
    with pytest.raises(DataError, match="2 of 3 rows have no label in column 'label'"):
        label_ids(data(label=["1", "", None]), "label", SENTIMENT)


@pytest.mark.parametrize(
    ("values", "config", "unknown"),
    [
        ([0, 1, 2], SENTIMENT, "'2'"),
        ([-1, 1], SENTIMENT, "'-1'"),
        (["positive", "neutral"], SENTIMENT, "'neutral'"),
        (["positive", "0", "2"], SENTIMENT, "'2'"),
        ([0.5, 1.0], SENTIMENT, "'0.5'"),
        (["\u0662"], GENERIC, "'\u0662'"),
        (["9" * 5000], GENERIC, "'999"),
        ([["positive"]], SENTIMENT, "['positive']"),
        ([f"text {i}" for i in range(100)], SENTIMENT, "and 95 more"),
    ],
)
def test_labels_the_model_does_not_know(values: list[Any], config: Any, unknown: str) -> None:
    with pytest.raises(DataError) as caught:
        label_ids(data(label=values), "label", config)
    message = str(caught.value)
    assert unknown in message and f"0 = {config.id2label[0]}" in message and "--label-column" in message
    assert len(message) < 500


def test_names_and_numbers_mixed() -> None:
    with pytest.raises(DataError, match=r"names \('positive'\) and numbers \('0'\) as labels; .* 1 = positive"):
        label_ids(data(label=["positive", "0"]), "label", SENTIMENT)


@given(st.lists(st.none() | st.integers() | st.text() | st.floats() | st.booleans(), min_size=1, max_size=6))
def test_any_labels_are_understood_or_refused(values: list[Any]) -> None:
    dataset = data(label=[None if value is None else str(value) for value in values])
    try:
        numbers, _ = label_ids(dataset, "label", SENTIMENT)
    except DataError:
        return
    assert set(numbers.values()) <= {0, 1}


def test_ambiguous_lower_case_names_are_only_known_as_they_are() -> None:
    assert model_labels(model("US", "us", "Them")) == {"US": 0, "us": 1, "Them": 2, "them": 2}


def test_texts() -> None:
    assert read_texts(data(text=["a", None, ""]), "text") == ["a", "", ""]
    assert read_texts(data(text=[1, 2]), "text") == ["1", "2"]
    with pytest.raises(DataError, match=r"holds list values such as .*, not text"):
        read_texts(data(text=[["a", "list"]]), "text")
    with pytest.raises(DataError, match="no column 'words'; columns found: 'text'"):
        read_texts(data(text=["a"]), "words")
