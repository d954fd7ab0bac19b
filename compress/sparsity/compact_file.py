"""The compact file of a sparse model: one safetensors file that holds all of it, configuration included.

- Matrices of the encoder's linear layers: int8, a scale per row (output channel), zeros left out
  (``sparsity/packing.py``).
- Embeddings, and other matrices of 4096 elements or more: int8, one scale per row.
- Everything else (biases, norms, a small head): float16; float32 where float16 would overflow.
- Integers: as they are.

The file's metadata say ``format`` and ``version``, the model's ``config`` and for every tensor how it is stored. It
holds no pickle, and reading checks everything: a damaged file is refused, not half loaded.

Law (``tests/sparsity/test_compact_file.py``): ``read_state(write(model))`` is ``rounded_state(model)``, bit for bit.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.files import COMPACT
from compress.artifact.model import dense_model, tensors_of
from compress.core.errors import ArtifactError
from compress.core.parsing import Unreadable, parse_json
from compress.inputs.torch_state import own_torch_state
from compress.models.encoder import encoder_of
from compress.sparsity.matrices import matrices_of
from compress.sparsity.packing import Packed, pack, quantized, restored, unpack

NAME = COMPACT
FORMAT, VERSION = "compress-compact", 1
# Rounding smaller matrices saves too little for the accuracy that it may cost.
LEAST_ELEMENTS = 4096
_MOST_HALF = 60000.0


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored.

    Attributes:
        how: ``bitmap``, ``steps``, ``rows`` (int8 with a scale per row), ``half``, or ``plain``.
        width: bits of a step, for ``steps``.
        shape: of the tensor.
        parts: arrays by their ending.
    """

    how: str
    width: int
    shape: tuple[int, ...]
    parts: dict[str, NDArray[Any]]

    @property
    def size_bytes(self) -> int:
        """Of its arrays."""
        return sum(part.nbytes for part in self.parts.values())


def stored(name: str, value: NDArray[Any], sparse: bool) -> Stored:
    """Encode a tensor for the compact file.

    Args:
        name: of the tensor.
        value: float32, or integers.
        sparse: whether it is one of the matrices that were made sparse.
    """
    if value.dtype.kind != "f":
        return Stored("plain", 0, value.shape, {"": value})
    if sparse:
        whole, scales = quantized(value)
        packed = pack(whole)
        parts: dict[str, NDArray[Any]] = {".values": packed.values, ".where": packed.where, ".scales": scales}
        return Stored(packed.form, packed.width, value.shape, parts)
    if value.ndim >= 2 and value.size >= LEAST_ELEMENTS:
        whole, scales = quantized(_as_rows(value))
        return Stored("rows", 0, value.shape, {".values": whole.reshape(value.shape), ".scales": scales})
    if value.size and float(np.abs(value).max()) > _MOST_HALF:
        return Stored("plain", 0, value.shape, {"": value})
    return Stored("half", 0, value.shape, {"": value.astype(np.float16)})


def taken_back(one: Stored) -> NDArray[Any]:
    """Decode a tensor: the inverse of ``stored``, up to rounding.

    Raises:
        ValueError, KeyError: its parts do not fit together.
    """
    if one.how == "plain":
        return _of(one.parts[""], None, one.shape)
    if one.how == "half":
        return _of(one.parts[""], np.float16, one.shape).astype(np.float32)
    scales = one.parts[".scales"]
    if one.how == "rows":
        rows = _as_rows(_of(one.parts[".values"], np.int8, one.shape))
    elif one.how in ("bitmap", "steps") and len(one.shape) == 2:
        values = _of(one.parts[".values"], np.int8, (one.parts[".values"].size,))
        where = _of(one.parts[".where"], np.uint8, (one.parts[".where"].size,))
        rows = unpack(Packed(one.how, one.width, where, values, (one.shape[0], one.shape[1])))  # type: ignore[arg-type]
    else:
        raise ValueError(f"{one.how!r} is not a way to store {len(one.shape)} dimensions")
    scales = _of(scales, np.float32, (rows.shape[0],))
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("a scale is not a positive number")
    return restored(rows, scales).reshape(one.shape)


def _as_rows(value: NDArray[Any]) -> NDArray[Any]:
    """As a matrix with one row per output channel; a leading dimension of one is dropped."""
    return value.reshape(value.shape[0], -1) if value.shape[0] > 1 else value.reshape(-1, value.shape[-1])


def _of(value: NDArray[Any], kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if (kind is not None and value.dtype != kind) or value.shape != shape:
        raise ValueError(f"{value.dtype} of shape {value.shape} where {shape} belongs")
    return value


def stored_state(model: Any) -> dict[str, Stored]:
    """All tensors of a model, encoded for the compact file."""
    sparse = matrices_of(encoder_of(model))
    return {name: stored(name, value.numpy(), name in sparse) for name, value in tensors_of(model).items()}


def rounded_state(model: Any) -> dict[str, NDArray[Any]]:
    """All tensors of a model, encoded for a compact file and decoded again."""
    return {name: taken_back(one) for name, one in stored_state(model).items()}


def write_compact(model: Any, path: Path) -> dict[str, Stored]:
    """Write a compact file.

    Args:
        model: sparse: with zeros in its matrices.
        path: of the file.

    Returns:
        The encoded tensors by name.

    Raises:
        ArtifactError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    state = stored_state(model)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    described = config.to_dict()
    # Where the checkpoint lay is nobody's business but the user's.
    described.pop("_name_or_path", None)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(described, sort_keys=True),
        "tensors": json.dumps({name: [one.how, one.width, list(one.shape)] for name, one in state.items()}),
    }
    arrays = {name + end: np.ascontiguousarray(part) for name, one in state.items() for end, part in one.parts.items()}
    try:
        save_file(arrays, str(path), metadata)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot write '{path}': {error}; free some space or choose another --output") from error
    return state


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Configuration and tensors of a compact file.

    Raises:
        ArtifactError: it does not exist, is not a compact file, has a later version, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ArtifactError(f"there is no compact file '{path}'; `compress run --unstructured` writes one") from None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ArtifactError(f"'{path}' is not a compact file, or it is damaged: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ArtifactError(
            f"'{path}' is not a compact file of compress; ordinary checkpoints are for `from_pretrained`"
        )
    if metadata.get("version") != str(VERSION):
        raise ArtifactError(
            f"'{path}' has version {metadata.get('version')!r}; this compress reads {VERSION}: install a newer one"
        )
    try:
        config, entries = (parse_json(metadata[key]) for key in ("config", "tensors"))
        if not isinstance(config, dict) or not isinstance(entries, dict):
            raise ValueError("its metadata hold no tables")
        state = {name: taken_back(_entry(name, entry, arrays)) for name, entry in entries.items()}
    # MemoryError: a damaged file may claim any size.
    except (KeyError, TypeError, ValueError, MemoryError, Unreadable) as error:
        raise ArtifactError(f"'{path}' is damaged: {error}; make it again with `compress run`") from None
    if arrays:
        raise ArtifactError(f"'{path}' is damaged: nothing says what '{sorted(arrays)[0]}' is")
    return config, state


_PARTS = {
    "plain": ("",),
    "half": ("",),
    "rows": (".values", ".scales"),
    **dict.fromkeys(("bitmap", "steps"), (".values", ".where", ".scales")),
}


def _entry(name: str, entry: Any, arrays: dict[str, NDArray[Any]]) -> Stored:
    how, width, shape = entry
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in (width, *shape))
    if how not in _PARTS or not whole:
        raise ValueError(f"'{name}' is stored as {how!r}")
    return Stored(how, width, tuple(shape), {end: arrays.pop(name + end) for end in _PARTS[how]})


@own_torch_state()
def load_compact(path: str | Path) -> Any:
    """Load the model of a compact file: an ordinary transformers model, its weights as int8 has them.

    Args:
        path: the file, or the artifact that holds it.

    Returns:
        The model, float32, in evaluation mode, of the class that the original checkpoint had.

    Raises:
        ArtifactError: it does not exist, is not a compact file, or is damaged.
    """
    import torch

    file = Path(path)
    file = file / NAME if file.is_dir() else file
    config, state = read_state(file)
    model = _empty(config, file)
    expected: Mapping[str, Any] = model.state_dict()
    if expected.keys() != state.keys():
        other = sorted(expected.keys() ^ state.keys())
        raise ArtifactError(f"'{file}' is damaged: '{other[0]}' is not where its configuration has it")
    wrong = next((name for name, value in state.items() if tuple(expected[name].shape) != value.shape), None)
    if wrong is not None:
        raise ArtifactError(f"'{file}' is damaged: the sizes of '{wrong}' are not those of its configuration")
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=True)
    return model.eval()


def _empty(config: dict[str, Any], file: Path) -> Any:
    """A model of a configuration, its weights not loaded."""
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            return dense_model(Path(folder))
        except ArtifactError as error:
            said = str(error).replace(str(Path(folder) / "config.json"), str(file))
            raise ArtifactError(said) from None
