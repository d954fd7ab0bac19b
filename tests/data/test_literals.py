"""Lists in one field: JSON, Python's own writing and NumPy's printing give the same list; nothing else is a list."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.data.literals import parse_list, parse_literal

WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=1, max_size=6)


@given(WORDS | st.lists(st.integers(-9, 99), min_size=1, max_size=6))
def test_every_writing_gives_the_list(values: list[Any]) -> None:
    assert parse_list(json.dumps(values)) == parse_list(repr(values)) == values
    assert parse_list(str(np.array(values, dtype=object))) == values
    assert parse_literal(repr({"a": np.array(values, dtype=object)})) == {"a": values}


@pytest.mark.parametrize("text", ["[0 0 ... 0]", "[ laughs ]", "a [b]", "[a]", "['a', ['b']]", "['a'", "", "[1e]"])
def test_other_texts_are_no_lists(text: str) -> None:
    assert parse_list(text) is None


def test_words_about_arrays_stay() -> None:
    answers = {"text": ["an array(of) films, dtype=x)"], "answer_start": [9]}
    assert parse_literal(
        "{'text': array(['an array(of) films, dtype=x)'], dtype=object), 'answer_start': array([9])}"
    ) == (answers)
    with pytest.raises(ValueError, match="neither JSON nor a Python literal"):
        parse_literal("{'a': open('x')}")
