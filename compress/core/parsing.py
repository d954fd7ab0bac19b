"""Parses JSON and TOML that others may have written: limits on size and depth, and every failure in words.

Callers put the sentence into their own error class. Nothing here trusts its input. A device file, a pipe, a file of
terabytes, a number that is not one, or lists a million deep end in ``Unreadable``, not in a traceback, a full memory or
an endless wait.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The plan of an encoder with 48 layers of 16,384 filters takes 9 MB; parsed, 16 MB of the worst JSON take about 500.
MOST_JSON_BYTES = 16 * 2**20
MOST_TOML_BYTES = 64 * 2**10
# Documents of ours are five deep.
MOST_DEPTH = 64
# A key of thousands of parts, `a.a.a`, keeps the standard library's parser busy for minutes.
_MOST_DOTS = 256


class Unreadable(Exception):
    """A text cannot be read; the message says why, and is part of a sentence."""


class Missing(Unreadable):
    """There is no such file."""


def read_text(file: Path, most_bytes: int = MOST_JSON_BYTES) -> str:
    """Return the text of a regular UTF-8 file.

    Args:
        file: path of the file; a link is followed.
        most_bytes: a longer file is refused unread.

    Raises:
        Missing: there is no such file.
        Unreadable: the file is not regular, too long, or not UTF-8.
    """
    try:
        # Opened without waiting: a pipe that nobody writes to would block here for good.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Unreadable("it is not a regular file")
            # One byte more than allowed: the size that the system tells may be out of date.
            data = stream.read(most_bytes + 1)
    except FileNotFoundError:
        raise Missing("there is no such file") from None
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None
    except ValueError as error:  # a name with a NUL in it
        raise Unreadable(str(error)) from None
    if len(data) > most_bytes:
        raise Unreadable(f"it is larger than {most_bytes / 2**20:g} MB, which no such file is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 text: {error.reason} at byte {error.start}") from None


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; ``NaN`` and ``Infinity`` are refused, as they are not JSON.

    Raises:
        Unreadable: the text is not JSON, too long, or nested too deep.
    """
    if len(text) > MOST_JSON_BYTES:
        raise Unreadable(f"it is longer than {MOST_JSON_BYTES / 2**20:g} MB")
    try:
        value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError as error:
        raise Unreadable(f"it is not JSON: {error}") from None
    _check_depth(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text.

    Raises:
        Unreadable: the text is not TOML, too long, or nested too deep.
    """
    if len(text) > MOST_TOML_BYTES:
        raise Unreadable(f"it is longer than {MOST_TOML_BYTES / 2**10:g} kB, which no such file is")
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise Unreadable(_TOO_DEEP)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError as error:  # TOMLDecodeError is one, and so is an integer of too many digits
        raise Unreadable(f"it is not valid TOML: {error}") from None
    _check_depth(table)
    return table


def printable(text: str) -> str:
    """Return a text with every character escaped that would steer a terminal or cannot be shown."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_TOO_DEEP = f"it is nested more than {MOST_DEPTH} deep"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _check_depth(value: Any) -> None:
    """Raise Unreadable where lists and tables are nested too deep for later recursion, such as repr()."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise Unreadable(_TOO_DEEP)
