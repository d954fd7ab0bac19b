"""Images as data: folders of classes, columns of paths, pictures decoded; what does not decode is named.

Pillow is needed where images are, and comes with the extra ``vision``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

# Column with the number of the row in its file, from 1.
ROW = "row_of_file"


def library() -> Any:
    """Pillow's ``Image``.

    Raises:
        DataError: Pillow is not installed; the message names the extra.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("images are read by Pillow, which is not installed; pip install 'compress[vision]'") from None
    return Image


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def classes_of(directory: Path) -> dict[str, list[Path]]:
    """Images by class, of a directory that holds one folder for each class; empty for any other directory."""
    folders = sorted(folder for folder in directory.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = {folder.name: _images_in(folder) for folder in folders}
    return {name: images for name, images in found.items() if images}


def folder_of_classes(source: str) -> Path | None:
    """The directory that a name stands for, where it holds one folder of images for each class."""
    path = Path(source).expanduser()
    return path if path.is_dir() and classes_of(path) else None


def table_of(classes: Mapping[str, Sequence[Path]]) -> pa.Table:
    """Columns ``image`` (paths) and ``label`` (names of classes)."""
    import pyarrow as pa

    rows = [(str(image), name) for name, images in classes.items() for image in images]
    return pa.table({"image": [image for image, _ in rows], "label": [name for _, name in rows]})


def located(table: pa.Table, folder: Path) -> pa.Table:
    """A table read from a file, with the paths of images relative to the file's folder made absolute.

    A table with such a column gets another, ``ROW``, so that a row can be named after rows were drawn or held back.
    """
    import pyarrow as pa

    found = False
    for number, column in enumerate(table.schema):
        if not pa.types.is_string(column.type):
            continue
        values = table.column(number).to_pylist()
        first = next((value for value in values if value), None)
        if first is not None and first.lower().endswith(SUFFIXES) and "\n" not in first:
            paths = [str(folder / value) if value else value for value in values]
            table = table.set_column(number, column.name, pa.array(paths, type=pa.string()))
            found = True
    return table.append_column(ROW, pa.array(range(1, len(table) + 1))) if found else table


def opened(value: Any, where: str) -> Any:
    """An image as ``PIL.Image``, its header read.

    Args:
        value: a path, ``{"bytes": ..., "path": ...}`` as data sets store images, bytes, or an image already.
        where: the row, for messages.

    Raises:
        DataError: there is no image there, or Pillow does not know it.
    """
    image = library()
    if isinstance(value, image.Image):
        return value
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        where = f"'{value}' ({where})"
    elif not isinstance(value, bytes) or not value:
        raise DataError(f"{where} has no image but {str(value)[:60]!r}; give a path, or the bytes of an image")
    try:
        return image.open(value if isinstance(value, str) else io.BytesIO(value))
    except FileNotFoundError:
        raise DataError(f"image {where} does not exist; paths are relative to the file they stand in") from None
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"image {where} does not decode: {error}; mend it, or leave the row out") from None


def decoded(values: Sequence[Any], rows: Sequence[str]) -> Iterator[Any]:
    """Images in three channels, one after the other.

    Args:
        values: see ``opened``.
        rows: what to call each of them in messages.

    Raises:
        DataError: one does not decode.
    """
    for value, row in zip(values, rows, strict=True):
        picture = opened(value, row)
        try:
            yield picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            name = f"'{picture.filename}' ({row})" if getattr(picture, "filename", "") else row
            raise DataError(f"image {name} does not decode: {error}; mend it, or leave the row out") from None
