"""Reads images: folders of classes and columns of paths. An image that cannot be decoded is named in the error.

It needs Pillow, from the extra ``vision``.
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

# Name of the column that holds the number of each row in its file, from 1.
ROW = "row_of_file"


def pillow() -> Any:
    """Returns the module ``PIL.Image``.

    Raises:
        DataError: Pillow is not installed; the message names the extra.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow, which is not installed; pip install 'compress[vision]'") from None
    return Image


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def images_by_class(directory: Path) -> dict[str, list[Path]]:
    """Returns the images of each class of a directory with one folder per class; empty for any other directory."""
    folders = sorted(folder for folder in directory.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = {folder.name: _images_in(folder) for folder in folders}
    return {name: images for name, images in found.items() if images}


def class_folder(source: str) -> Path | None:
    """Returns the directory that a name stands for if it has one folder of images per class, else None."""
    path = Path(source).expanduser()
    return path if path.is_dir() and images_by_class(path) else None


def image_table(classes: Mapping[str, Sequence[Path]]) -> pa.Table:
    """Returns a table with the columns ``image`` (paths) and ``label`` (class names)."""
    import pyarrow as pa

    rows = [(str(image), name) for name, images in classes.items() for image in images]
    return pa.table({"image": [image for image, _ in rows], "label": [name for _, name in rows]})


def with_absolute_paths(table: pa.Table, folder: Path) -> pa.Table:
    """Makes the paths of images in a table absolute.

    A table with such a column gets another one, ``ROW``: it names a row after rows were drawn or held back.

    Args:
        table: read from a file.
        folder: the file's folder, to which the paths are relative.

    Returns:
        The table; the same one where it has no paths of images.
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


def open_image(value: Any, where: str) -> Any:
    """Opens an image and reads its header.

    Args:
        value: a path, ``{"bytes": ..., "path": ...}`` as data sets store images, bytes, or an image already.
        where: the row, for messages.

    Returns:
        A ``PIL.Image``, not decoded yet.

    Raises:
        DataError: the image is missing, or Pillow does not know its format.
    """
    image = pillow()
    if isinstance(value, image.Image):
        return value
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        where = f"'{value}' ({where})"
    elif not isinstance(value, bytes) or not value:
        raise DataError(
            f"{where} has {str(value)[:60]!r} where an image is expected; give a path, or the bytes of an image"
        )
    try:
        return image.open(value if isinstance(value, str) else io.BytesIO(value))
    except FileNotFoundError:
        raise DataError(f"image {where} does not exist; paths are relative to the data file") from None
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"image {where} does not decode: {error}; repair it, or leave the row out") from None


def decode_images(values: Sequence[Any], rows: Sequence[str]) -> Iterator[Any]:
    """Yields images as RGB, one after the other.

    Args:
        values: as for ``open_image``.
        rows: name of each image's row in messages.

    Raises:
        DataError: an image cannot be decoded.
    """
    for value, row in zip(values, rows, strict=True):
        picture = open_image(value, row)
        try:
            yield picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            name = f"'{picture.filename}' ({row})" if getattr(picture, "filename", "") else row
            raise DataError(f"image {name} does not decode: {error}; repair it, or leave the row out") from None
