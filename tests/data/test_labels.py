"""What labels mean is one decision over all splits: names or numbers, never one here and the other there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.labels import (
    LabelColumn,
    LabelReading,
    label_text,
    read_labels,
    reading_note,
)

STARS = SimpleNamespace(id2label={i: str(i + 1) for i in range(5)}, num_labels=5)
SENTIMENT = SimpleNamespace(id2label={0: "negative", 1: "positive"}, num_labels=2)


def read(config: Any, *splits: list[Any], stated: list[list[str] | None] | None = None) -> LabelReading:
    """The reading of splits with these labels."""
    columns = []
    for i, labels in enumerate(splits):
        counts = {label_text(label): 1 for label in labels}
        name = ("calibration data", "evaluation data")[i] if len(splits) > 1 else ""
        columns.append(LabelColumn(name, "label", counts, None if stated is None else stated[i]))
    return read_labels(columns, config)


@pytest.mark.parametrize(
    ("config", "splits", "kind", "expected"),
    [
        # Class names '1' to '5' and numbers 0 to 4; one split lacks a class.
        (STARS, [[0, 1, 2, 3, 4], [1, 2, 3, 4]], "numbers", {"1": 1, "4": 4}),
        (STARS, [[1, 2, 3, 4], [0, 1]], "numbers", {"0": 0, "1": 1}),
        (STARS, [[1, 2, 3, 4, 5], [1, 2, 3, 4]], "names", {"1": 0, "4": 3}),
        (STARS, [[1, 2], [5]], "names", {"5": 4}),
        # Numbers as pandas writes them where a cell is empty elsewhere.
        (STARS, [["1.0", "5.0"], ["2.0"]], "names", {"2.0": 1}),
        (STARS, [["0.0", "4.0"], ["2.0"]], "numbers", {"2.0": 2}),
        (SENTIMENT, [["Positive"], ["negative"]], "names", {"negative": 0}),
        (SENTIMENT, [[0, 1], [1]], "numbers", {"1": 1}),
    ],
)
def test_all_splits_decide_together(config: Any, splits: list[list[Any]], kind: str, expected: dict[str, int]) -> None:
    reading = read(config, *splits)
    assert reading.kind == kind
    assert {text: reading.numbers[-1][text] for text in expected} == expected
    assert f"class {kind}" in (reading_note(reading, config) or "")


@pytest.mark.parametrize(
    ("config", "splits", "words"),
    [
        (STARS, [[1, 2, 3, 4]], ["'1'", "called '2'", "id2label", "write these names"]),
        (STARS, [[1, 2], [3, 4]], ["calibration data", "id2label"]),
        (STARS, [["1.0", "2.0"]], ["'1.0'", "called '2'"]),
        (STARS, [[0, 1], [5]], ["('5')", "('0')", "calibration data", "evaluation data", "one or the other"]),
        (SENTIMENT, [["positive"], [0, 1]], ["('positive')", "('0')", "calibration data", "evaluation data"]),
        (SENTIMENT, [[0, 1], [2]], ["evaluation data", "'2'", "0 = negative"]),
        # A name that two classes share says nothing.
        (SimpleNamespace(id2label={0: "a", 1: "a"}, num_labels=2), [["a"]], ["'a'", "0 = a, 1 = a"]),
    ],
)
def test_two_meanings_are_refused(config: Any, splits: list[list[Any]], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read(config, *splits)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_names_that_a_data_set_declares_decide_for_its_split_alone() -> None:
    turned = ["positive", "negative"]
    both = read(SENTIMENT, [0, 1], [0, 1], stated=[turned, turned])
    assert both.numbers == ({"0": 1, "1": 0}, {"0": 1, "1": 0})
    named = read(SENTIMENT, [0, 1], ["positive"], stated=[turned, None])
    assert named.numbers == ({"0": 1, "1": 0}, {"positive": 1})
    # Bare numbers beside them do not say whose order they follow.
    with pytest.raises(DataError, match=r"declares that 0 is 'positive'.*bare numbers"):
        read(SENTIMENT, [0, 1], [0, 1], stated=[turned, None])
    same = read(SENTIMENT, [0, 1], [0, 1], stated=[["negative", "positive"], None])
    assert same.numbers == ({"0": 0, "1": 1}, {"0": 0, "1": 1})


def test_where_both_readings_agree_nothing_is_said() -> None:
    config = SimpleNamespace(id2label={0: "0", 1: "1"}, num_labels=2)
    reading = read(config, [0, 1])
    assert reading.kind is None and reading_note(reading, config) is None
    turned = SimpleNamespace(id2label={0: "true", 1: "false"}, num_labels=2)
    assert read(turned, [True, False]).numbers[0] == {"True": 0, "False": 1}


@given(
    st.integers(2, 7),
    st.integers(-2, 2),
    st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=6), min_size=1, max_size=3),
)
def test_numbers_stay_within_the_head_and_a_label_means_the_same_everywhere(
    classes: int, first: int, splits: list[list[int]]
) -> None:
    config = SimpleNamespace(id2label={i: str(i + first) for i in range(classes)}, num_labels=classes)
    try:
        reading = read(config, *splits[:2])
    except DataError:
        return
    assert {number for found in reading.numbers for number in found.values()} <= set(range(classes))
    together = read(config, [label for labels in splits[:2] for label in labels])
    assert all(found.items() <= together.numbers[0].items() for found in reading.numbers)
