"""Reads the layers after pooling, ``2_Dense`` and the like, from the files of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.inputs.pickled import read_tensors
from compress.tasks.pooling import Dense, LayerNorm

if TYPE_CHECKING:
    from torch import Tensor

_FILES = ("model.safetensors", "pytorch_model.bin")


def read_layer(kind: str, folder: Path, notes: Mapping[str, Any]) -> Dense | LayerNorm:
    """Reads a layer with weights.

    Args:
        kind: ``Dense`` or ``LayerNorm``.
        folder: of its weights.
        notes: its config.json.

    Raises:
        ModelError: the weights are missing, damaged, or not as config.json says; or the activation function is unknown.
    """
    weights = _read_weights(folder)
    if kind == "LayerNorm":
        size = _size(notes, "dimension", folder)
        return LayerNorm(_take(weights, "norm.weight", (size,), folder), _take(weights, "norm.bias", (size,), folder))
    into, out = _size(notes, "in_features", folder), _size(notes, "out_features", folder)
    adds_input = bool(notes.get("use_residual", False))
    return Dense(
        weight=_take(weights, "linear.weight", (out, into), folder),
        bias=_take(weights, "linear.bias", (out,), folder) if notes.get("bias", True) else None,
        activation=_activation(notes.get("activation_function", "torch.nn.modules.activation.Tanh"), folder),
        adds_input=adds_input,
        residual=_take(weights, "residual.weight", (out, into), folder) if adds_input and into != out else None,
    )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise ModelError(f"'{folder}' has no weights ({' or '.join(_FILES)}); copy them from the checkpoint")
    try:
        if file.suffix == ".safetensors":
            found: dict[str, Tensor] = load_file(str(file))
        else:
            found = read_tensors([file], str(folder))
        return {name: tensor.to(torch.float32).contiguous() for name, tensor in found.items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights '{file}' cannot be read: {first_line(error)}; copy them again") from None


def _size(notes: Mapping[str, Any], name: str, folder: Path) -> int:
    try:
        return int(notes[name])
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"'{folder / 'config.json'}' has no number {name}; copy it from the checkpoint") from None


def _take(weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    import torch

    tensor = weights.get(name)
    if tensor is None:
        raise ModelError(f"'{folder}' is incomplete: '{name}' is missing in its weights")
    if tuple(tensor.shape) != shape:
        raise ModelError(f"'{folder}': '{name}' has the shape {tuple(tensor.shape)}, config.json says {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"'{folder}' has weights that are NaN or infinite in '{name}'; use a sound checkpoint")
    return tensor


def _activation(path: Any, folder: Path) -> str:
    """Returns the name of an activation function of torch; any other would be a checkpoint's own code."""
    from torch import nn

    name = str(path).rsplit(".", 1)[-1]
    found = getattr(nn, name, None)
    # nn has containers and layers under such names too; one without parameters maps numbers to numbers.
    known = str(path).startswith("torch.nn.") and isinstance(found, type) and issubclass(found, nn.Module)
    try:
        known = known and found is not None and not list(found().parameters())
    except TypeError:
        known = False
    if not known:
        raise ModelError(
            f"'{folder / 'config.json'}' has the activation function {path}, which is not one of torch.nn without "
            "parameters; it is not supported"
        )
    return name
