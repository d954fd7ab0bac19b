"""Finds labels that stand inside texts: they would leak into calibration and evaluation without a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.core.errors import DataError
from compress.data.labels import model_labels
from compress.data.text_files import SPACES

# Between a text and its label in files without a header.
_SEPARATORS = ("\t", ";", "|", ",")
# In fewer texts, the same word at the same place may be chance.
_ENOUGH = 10
_A_FEW = 200
# Characters of the name of a class.
_LONGEST = 40


def refuse_labels_beside(path: Path, texts: Sequence[str]) -> None:
    """Refuses lines of plain text that all have a separator and, at one side of it, one of a few names.

    Args:
        path: the file, for messages.
        texts: its lines.

    Raises:
        DataError: they do. The message has the line of names that makes the file a table.
    """
    if len(texts) < _ENOUGH:
        return
    for separator in (s for s in _SEPARATORS if all(s in text for text in texts)):
        first = [text.split(separator, 1)[0].strip(" ") for text in texts]
        last = [text.rsplit(separator, 1)[1].strip(" ") for text in texts]
        for side, fields, order in (
            ("ends in", last, f"text{separator}label"),
            ("begins with", first, f"label{separator}text"),
        ):
            names = sorted(set(fields))
            if 2 <= len(names) <= max(2, len(texts) // 10) and all(0 < len(name) <= _LONGEST for name in names):
                shown = ", ".join(repr(name) for name in names[:4])
                raise DataError(
                    f"every line of '{path}' {side} one of {len(names)} names beside {separator!r} ({shown}), as if "
                    f"these were labels: they would be read as part of the texts. Put the line {order} before them "
                    f"and call the file {path.stem}.{'tsv' if separator == chr(9) else 'csv'}"
                )


def refuse_classes_inside(texts: Sequence[str], column: str, config: Any, split: str = "") -> None:
    """Refuses texts that all begin or end with a class of the model: there the labels are in the texts.

    Args:
        texts: the texts of one split.
        column: where they come from, for the message.
        config: the checkpoint's configuration (``id2label``, ``num_labels``).
        split: name of the split for the message.

    Raises:
        DataError: every text begins, or ends, with the name or number of a class, and not with the same one.
    """
    if len(texts) < _ENOUGH:
        return
    known = {*(str(name).lower() for name in model_labels(config)), *map(str, range(config.num_labels))}
    for side, at in (("begins", 0), ("ends", -1)):
        # A few texts tell most columns; all of them are read where these do not.
        words = _words_at(texts[:_A_FEW], at)
        if words <= known and len(words := _words_at(texts, at)) > 1 and words <= known:
            raise DataError(
                f"every text in column '{column}'{f' of the {split}' if split else ''} {side} with a class of the "
                f"model ({', '.join(sorted(words)[:4])}), so labels would be read as part of the texts; put them "
                "into a column of their own, with a line that names the columns: text and label"
            )


def _words_at(texts: Sequence[str], at: int) -> set[str]:
    return {re.split("[ \t\r\n;|,]+", text.strip(SPACES).lower())[at] for text in texts}
