"""Parses lists and tables that stand in one field of a text file: JSON, Python's own writing, NumPy's printing.

Nothing is executed: Python literals alone are read.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from compress.data.text_files import SPACES

# Characters of a field that are parsed as Python literals.
_LONGEST_FIELD = 100_000
_TEXT = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# What NumPy writes around a list; texts in quotes are passed over.
_ARRAYS = re.compile(rf"({_TEXT})|\barray\(|,\s*dtype=[\w'<>|.]+\s*\)|\)", re.DOTALL)
_ITEM = re.compile(rf"{_TEXT}|[-+]?\d+(?:\.\d*)?(?![\w.])", re.DOTALL)


def parse_list(text: str) -> list[Any] | None:
    """Returns the list that a field holds; None where it is anything else.

    Args:
        text: a field such as ``["a", "b"]`` (JSON), ``['a', 'b']`` (Python), ``['a' 'b']`` or ``[3 0 7]`` (NumPy).
    """
    stripped = text.strip(SPACES)
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return None
    try:
        found = json.loads(stripped)
    except (ValueError, RecursionError):
        return _items(stripped[1:-1]) if len(stripped) < _LONGEST_FIELD else None
    return found if isinstance(found, list) else None


def _items(inside: str) -> list[Any] | None:
    # Not one literal as a whole: Python joins 'a' 'b' into 'ab'.
    if _ITEM.sub("", inside).strip(SPACES + ","):
        return None
    try:
        return [_item(item) for item in _ITEM.findall(inside)]
    except (ValueError, SyntaxError):
        return None


def _item(item: str) -> Any:
    if item[0] in "'\"":
        return ast.literal_eval(item)
    return float(item) if "." in item else int(item)


def parse_literal(text: str) -> Any:
    """Returns the value of a field that is JSON or a Python literal; arrays of NumPy inside it become lists.

    Args:
        text: the field.

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) >= _LONGEST_FIELD:
        raise ValueError(f"{len(text)} characters are too many for one field")
    bare = _ARRAYS.sub(lambda found: found[1] or "", text) if "array(" in text else text
    try:
        return ast.literal_eval(bare.strip(SPACES))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{text[:60]!r} is neither JSON nor a Python literal") from None
