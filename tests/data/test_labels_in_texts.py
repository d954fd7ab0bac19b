"""Labels inside texts are found, whatever the file looks like; texts that only look alike are left alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.core.errors import DataError
from compress.data.labels_in_texts import refuse_classes_inside
from compress.data.tables import read_table

PAIRS = [(f"a film , {i} times", "neg" if i % 3 else "pos") for i in range(20)]


@pytest.mark.parametrize("line", ["{0};{1}", "{0}|{1}", "{0}\t{1}", "{0} , {1}", "{1};{0}", "{1},{0}"])
def test_labels_beside_plain_texts_are_refused(tmp_path: Path, line: str) -> None:
    """They would be read as part of the texts, by calibration and evaluation alike."""
    file = tmp_path / "train.txt"
    file.write_text("".join(line.format(*pair) + "\n" for pair in PAIRS))
    with pytest.raises(DataError, match=r"as if these were labels|between tabs and no header"):
        read_table(file, words=False)
    # Texts with separators of their own are texts.
    file.write_text("".join(f"{text}; and {i} more, of {i}|{i}\n" for i, (text, _) in enumerate(PAIRS)))
    assert read_table(file, words=False).to_pydict()["text"][3] == "a film , 3 times; and 3 more, of 3|3"


@pytest.mark.parametrize("line", ["{0} {1}", "{1} {0}", "{1}; {0}", "{0}\t{1}", "{2} {0}"])
def test_texts_that_hold_their_class_are_refused(line: str) -> None:
    """Labels inside the texts would leak into calibration and evaluation without a word."""
    config = SimpleNamespace(id2label={0: "neg", 1: "pos"}, num_labels=2)
    texts = [line.format(f"film {i} is long", ("Neg", "pos")[i % 2], i % 2) for i in range(12)]
    with pytest.raises(DataError, match=r"every text in column 'text' (begins|ends) with a class of the model"):
        refuse_classes_inside(texts, "text", config)
    # One class alone, or one text without any, proves nothing.
    refuse_classes_inside(texts[::2] * 2, "text", config)
    refuse_classes_inside([*texts, "a good film"], "text", config)
