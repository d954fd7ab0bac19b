"""The log of a training: training.csv, and a summary of each phase for the manifest."""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.fineprune.phase import Phase, Row


def phase_summary(phase: Phase) -> dict[str, Any]:
    """A phase for the manifest: everything but its log."""
    return {key: value for key, value in asdict(phase).items() if key != "rows"}


def write_log(path: Path, rows: list[Row]) -> None:
    """Write the log of a training as csv.

    Args:
        path: of the file.
        rows: of all phases, in order.
    """
    from compress.fineprune.phase import Row

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)
