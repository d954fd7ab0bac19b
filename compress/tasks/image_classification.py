"""image-classification: one of several classes for an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError, ModelError
from compress.data.batches import Encoded
from compress.data.columns import (
    Columns,
    column_list,
    label_guess,
    read_column,
    require_column,
    usual_name,
)
from compress.data.images import ROW
from compress.data.names import IMAGE_NAMES, LABEL_NAMES
from compress.models.encoder import IMAGES, ImageInput, image_input
from compress.tasks.base import Chosen
from compress.tasks.text_classification import TextClassification, read_label_ids

if TYPE_CHECKING:
    from datasets import Dataset

# Images decoded at once: bounds the memory of images that are larger than the model's input.
_CHUNK = 32


@dataclass(frozen=True)
class ImageClassification(TextClassification):
    """One of several classes for an image. Only the inputs differ from text classification."""

    name = "image-classification"
    auto_class_name = "AutoModelForImageClassification"
    head_suffixes = ("ForImageClassification", "ForImageClassificationWithTeacher")
    processor = "image"

    def check_config(self, config: Any) -> None:
        super().check_config(config)
        channels = image_shape(config).channels
        if channels != 3:
            raise ModelError(f"this checkpoint reads images of {channels} channels; {self.name} is for three (RGB)")

    def find_columns(
        self, dataset: Dataset, text_column: str | None = None, label_column: str | None = None
    ) -> Columns:
        label = require_column(dataset, label_column, "--label-column") if label_column else None
        rest = [name for name in dataset.column_names if name != label]
        if text_column:
            image = require_column(dataset, text_column, "--text-column")
        else:
            guessed = usual_name(rest, IMAGE_NAMES)
            if guessed is None:
                raise DataError(
                    f"cannot tell which column holds the images; columns found: {column_list(dataset)}. Call it one of "
                    f"{', '.join(IMAGE_NAMES[:4])}, or name it with --text-column"
                )
            image = guessed
        label = label or usual_name([name for name in rest if name != image], LABEL_NAMES)
        guesses = [] if text_column else [f"images are taken from '{image}' (--text-column names another)"]
        if not label_column:
            guesses.append(label_guess(dataset, label))
        return Columns(text=(image,), label=label, guesses=tuple(guesses))

    def settle_labels(self, splits: Mapping[str, Dataset], columns: Mapping[str, Columns], config: Any) -> Chosen:
        chosen = super().settle_labels(splits, columns, config)
        for name, rows in splits.items():
            _check_files(rows, columns[name].text[0])
        return chosen

    def encode(self, dataset: Dataset, tokenizer: Any, columns: Columns, seq_len: int, config: Any) -> Encoded:
        """Decodes images and prepares them with the checkpoint's processor; ``seq_len`` is ignored."""
        labels = read_label_ids(dataset, columns.label, columns.label_ids) if columns.label is not None else None
        return self._encoded(_pixels(dataset, columns.text[0], tokenizer, image_shape(config)), labels, config)

    def no_examples(self, tokenizer: Any, config: Any) -> Encoded:
        return self._encoded([], None, config)

    def made_up(self, config: Any, names: tuple[str, ...], length: int, count: int) -> Encoded:
        shape = image_shape(config)
        noise = np.random.default_rng(0).standard_normal((count, shape.channels, shape.height, shape.width))
        return self._encoded(list(noise.astype(np.float32)), None, config)

    def _encoded(self, pixels: list[NDArray[np.float32]], labels: NDArray[Any] | None, config: Any) -> Encoded:
        return Encoded({IMAGES: pixels}, labels, padding={IMAGES: 0}, positions=image_shape(config).positions)


def image_shape(config: Any) -> ImageInput:
    """Returns the size of the images that a model reads.

    Raises:
        ModelError: the model does not read images.
    """
    shape = image_input(config)
    if shape is None:
        raise ModelError(f"a {config.model_type} model does not read images; image-classification needs one that does")
    return shape


def _check_files(dataset: Dataset, column: str) -> None:
    """Raises DataError, with the row's number, if a path in any row is not an image. Nothing is decoded yet."""
    from compress.data.images import open_image

    if str(getattr(dataset.features[column], "dtype", "")) != "string":
        return
    for value, row in zip(read_column(dataset, column), _rows(dataset), strict=True):
        open_image(value, row).close()


def _rows(dataset: Dataset) -> list[str]:
    """Returns the name of each row for messages."""
    if ROW in dataset.column_names:
        return [f"row {number}" for number in read_column(dataset, ROW)]
    return [f"example {number + 1} of those drawn" for number in range(len(dataset))]


def _pixels(dataset: Dataset, column: str, processor: Any, shape: ImageInput) -> list[NDArray[np.float32]]:
    """Returns the model's input for every row, float32 [channels, height, width] each."""
    import datasets

    from compress.data.images import decode_images

    if column not in dataset.column_names:
        raise DataError(f"the data has no column '{column}'; columns found: {column_list(dataset)}")
    rows = dataset.with_format(None).select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        # Decoded here, so that the error names the image.
        rows = rows.cast_column(column, datasets.Image(decode=False))
    names = _rows(dataset)
    pixels: list[NDArray[np.float32]] = []
    for start in range(0, len(rows), _CHUNK):
        values = rows[start : start + _CHUNK][column]
        pictures = list(decode_images(values, names[start : start + _CHUNK]))
        block = np.asarray(processor(images=pictures, return_tensors="np")[IMAGES], dtype=np.float32)
        if block.shape[1:] != (shape.channels, shape.height, shape.width):
            raise ModelError(
                f"the image processor gives images of {' x '.join(map(str, block.shape[1:]))} (channels, height, "
                f"width), the model reads {shape.channels} x {shape.height} x {shape.width}: they do not belong "
                "together; save the processor of this model beside it"
            )
        pixels.extend(block)
    if not pixels:
        raise DataError("the data has no rows; give at least one")
    return pixels
