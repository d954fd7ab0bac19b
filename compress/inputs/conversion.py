"""Weights in safetensors, whatever a checkpoint has: pickled tensors and adapters are converted to a scratch file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.inputs.adapter import merge
from compress.inputs.folder import WEIGHTS, weight_files
from compress.inputs.pickled import pickled_weights, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from compress.inputs.adapter import Adapter


@contextmanager
def in_safetensors(directory: Path, adapter: Adapter | None, model: str) -> Iterator[tuple[Path, list[str]]]:
    """Yields a folder with a checkpoint's weights in safetensors, and sentences for the user about what was converted.

    It is the checkpoint's own folder where that has them, and a scratch folder for the time of the block otherwise.

    Args:
        directory: the checkpoint, or the base of the adapter.
        adapter: to merge; None for none.
        model: the name that the user gave the checkpoint, for messages.

    Raises:
        ModelError: there are no weights, they are not tensors, or the adapter does not fit them.
    """
    pickled = pickled_weights(directory)
    if not pickled and adapter is None:
        yield directory, []
        return
    from safetensors.torch import save_file

    said = []
    if pickled:
        names = pickled[0].name if len(pickled) == 1 else f"{len(pickled)} files such as {pickled[0].name}"
        said.append(f"weights are read from {names} as tensors alone: nothing in it is run")
    tensors = read_tensors(pickled, model) if pickled else _read(weight_files(directory, model))
    if adapter is not None:
        tensors = merge(tensors, adapter, model)
        said.append(f"the LoRA adapter is merged into its base{f' {adapter.base}' if adapter.base else ''}")
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(Path(scratch) / WEIGHTS))
        # save_file and whoever loads it need no copy of these.
        tensors.clear()
        yield Path(scratch), said


def _read(files: list[Path]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in files:
        try:
            found.update(load_file(str(file)))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"weights '{file}' are damaged or cut off: {first_line(error)}; copy them again") from None
    return found
