"""Small images in folders. Without the extra ``vision`` whoever imports this is skipped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

Image = pytest.importorskip("PIL.Image", reason="the extra `vision` is not installed")


def picture(path: Path, shade: int = 0) -> Path:
    """A small grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)
    return path


def classes(directory: Path, each: int = 3) -> Path:
    """Two folders of images: dark, light."""
    for name, shade in (("dark", 20), ("light", 220)):
        for i in range(each):
            picture(directory / name / f"{i}.png", shade + i)
    return directory


def truncated() -> bytes:
    """The first half of a PNG file: its header is read, its pixels are not."""
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(stream, "PNG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]
