"""Weights of older checkpoints, ``pytorch_model.bin``: read as tensors alone, so nothing in them is run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from pickle import UnpicklingError  # nosec B403
from typing import TYPE_CHECKING

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.inputs.folder import WEIGHTS, WEIGHTS_INDEX, refuse_pickle
from compress.inputs.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor

# What older releases of transformers wrote, in one piece or in several.
PATTERNS = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")
_NAME = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")


def pickled_weights(directory: Path) -> list[Path]:
    """Returns a checkpoint's pickled weight files; none where it has safetensors, which hold the same.

    Args:
        directory: the model folder.
    """
    if (directory / WEIGHTS).is_file() or (directory / WEIGHTS_INDEX).is_file():
        return []
    whole = directory / PATTERNS[0]
    if whole.is_file():
        return [whole]
    return sorted(path for path in directory.glob("*.bin") if _NAME.fullmatch(path.name) and path.is_file())


def read_tensors(files: list[Path], model: str) -> dict[str, Tensor]:
    """Reads pickled weights.

    Args:
        files: of one checkpoint.
        model: the name that the user gave it, for messages.

    Returns:
        Tensors by name, each with memory of its own.

    Raises:
        ModelError: a file holds something else than tensors, or is damaged.
    """
    import torch

    found: dict[str, Tensor] = {}
    for file in files:
        refuse_pickle(file, model)
        try:
            # weights_only: tensors are read, and no code of the file is run.
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(file, map_location="cpu", weights_only=True)
        # Whatever else is in the file, this reader fails somewhere: there is no class of errors for it.
        except Exception as error:
            # torch's own words advise to run what is in the file.
            foreign = isinstance(error, UnpicklingError)
            what = "it holds something else, of which nothing was run, or is cut off" if foreign else first_line(error)
            raise ModelError(
                f"weights '{file}' cannot be read as tensors: {what or type(error).__name__}; copy them again, or "
                "save the model with save_pretrained in the program that made it"
            ) from None
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise ModelError(
                f"weights '{file}' are not a table of tensors by name; in the program that made it, save the model "
                "with save_pretrained"
            )
        found.update({str(name): value.detach().clone().contiguous() for name, value in content.items()})
    return found
