"""Silences libraries that warn about what is none of a user's business."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quiet(loggers: Sequence[str], level: int = logging.ERROR) -> Iterator[None]:
    """Silence warnings, and what loggers say below a level, while the block runs.

    Args:
        loggers: their names.
        level: the least that they still say.
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    try:
        for logger in found:
            logger.setLevel(level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in zip(found, levels, strict=True):
            logger.setLevel(before)
