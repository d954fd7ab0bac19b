"""Small labelled texts, and files of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

TEXTS = (
    ("a gripping film , warm and funny from start to end", "positive"),
    ("dull , slow and far too long", "negative"),
    ("the cast is wonderful and the story moves", "positive"),
    ("i wanted my money back", "negative"),
    ("one of the best things i have bought this year", "positive"),
    ("it broke after two days , what a waste", "negative"),
    ("great food , friendly service", "positive"),
    ("cold food and a rude waiter", "negative"),
    ("charming", "positive"),
    ("no plot , no wit , no point at all , and it never seems to end however much one hopes that it would", "negative"),
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the ending of the path says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path
