"""Calibration and evaluation data use the same columns, or are refused with both names."""

from __future__ import annotations

from typing import Any

import pytest

from compress.core.errors import DataError
from compress.data.columns import choose_columns
from compress.data.splits import CALIBRATION, EVALUATION, agree_on_columns, label_difference


def agreed(*splits: tuple[str, ...]) -> dict[str, Any]:
    from datasets import Dataset

    rows = {
        name: Dataset.from_dict({column: ["x"] for column in columns})
        for name, columns in zip((CALIBRATION, EVALUATION), splits, strict=True)
    }
    return agree_on_columns(rows, {name: choose_columns(own, None, None) for name, own in rows.items()})


@pytest.mark.parametrize(
    ("calibration", "evaluation", "text", "label"),
    [
        (("text", "label"), ("label", "text"), ("text",), "label"),
        # Only one of the two choices is in both.
        (("sentence", "label"), ("text", "sentence", "label"), ("sentence",), "label"),
        (("text", "sentence", "label"), ("sentence", "label"), ("sentence",), "label"),
        (("text", "target", "label"), ("text", "target"), ("text",), "target"),
        # Case and spaces are no difference.
        (("Text", " label"), ("text", "Label"), ("Text",), " label"),
        (("premise", "hypothesis", "label"), ("hypothesis", "premise"), ("premise", "hypothesis"), "label"),
    ],
)
def test_one_choice(
    calibration: tuple[str, ...], evaluation: tuple[str, ...], text: tuple[str, ...], label: str
) -> None:
    found = agreed(calibration, evaluation)
    assert (found[CALIBRATION].text, found[CALIBRATION].label) == (text, label)
    assert [name.lower() for name in found[EVALUATION].text] == [name.lower() for name in text]


@pytest.mark.parametrize(
    ("calibration", "evaluation", "words"),
    [
        (("text", "label"), ("sentence", "label"), ["'text' in the calibration data", "'sentence' in the eval"]),
        (("premise", "hypothesis", "label"), ("text", "label"), ["'premise' and 'hypothesis'", "'text'"]),
        (("text", "label"), ("text", "target"), ["labels", "'label' in the calibration", "'target'", "--label-column"]),
    ],
)
def test_different_columns(calibration: tuple[str, ...], evaluation: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        agreed(calibration, evaluation)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_was_chosen_for_all_is_said() -> None:
    found = agreed(("sentence", "label"), ("text", "sentence", "label"))
    assert any("text in all parts of the data: 'sentence'" in guess for guess in found[CALIBRATION].guesses)


def test_labels_in_one_split_alone_are_said() -> None:
    assert label_difference({CALIBRATION: True, EVALUATION: True}) is None
    assert label_difference({CALIBRATION: True}) is None
    assert "fidelity" in (label_difference({CALIBRATION: True, EVALUATION: False}) or "")
    assert "label-free" in (label_difference({CALIBRATION: False, EVALUATION: True}) or "")
