"""TensorRT engines on disk, each with a record of the GPU, the TensorRT release and the model that it was built for.

An engine is machine code for one GPU and one release of TensorRT. Loading it elsewhere fails, at best with a message
that does not say why. So the record is compared with this machine before the engine is loaded. Law
(``tests/export/test_tensorrt_file.py``): ``read_engine`` reads the result of ``write_engine``, and refuses it if an
entry differs that decides whether the engine runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compress.core.errors import TargetError
from compress.core.hashing import sha256_of
from compress.core.parsing import Unreadable, read_text

FORMAT_VERSION = 1
_FOLDER = "engine"
# In an artifact, by their names in its manifest.
ENGINE_FILES = (f"{_FOLDER}/model.plan", f"{_FOLDER}/model.json")


@dataclass(frozen=True)
class EngineRecord:
    """GPU, TensorRT release, model and calls that an engine was built for.

    Attributes:
        gpu: the driver's name of the GPU.
        compute_capability: of the GPU.
        tensorrt: version of TensorRT.
        driver: version of the GPU's driver; not compared, since an engine runs with other drivers too.
        onnx_sha256: digest of the ONNX file and of the weights beside it.
        batch_size, seq_len: least, usual and most that the engine accepts.
        inputs, outputs: names, in the graph's order.
        engine_sha256: digest of the engine; empty before it is written.
        format: version of this layout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    gpu: str
    compute_capability: str
    tensorrt: str
    driver: str
    onnx_sha256: str
    batch_size: tuple[int, int, int]
    seq_len: tuple[int, int, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    engine_sha256: str = ""
    format: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The record as JSON with sorted keys, ending in a newline."""
        return json.dumps(asdict(self), sort_keys=True, indent=1) + "\n"

    def differences(self, here: EngineRecord) -> list[str]:
        """Differences that prevent the engine's use here, with both values; empty if there are none."""
        words = {
            "gpu": "GPU",
            "compute_capability": "compute capability",
            "tensorrt": "TensorRT",
            "onnx_sha256": "ONNX file",
            "batch_size": "batch sizes",
            "seq_len": "lengths",
            "inputs": "inputs",
            "outputs": "outputs",
        }
        found = []
        for name, word in words.items():
            mine, theirs = getattr(self, name), getattr(here, name)
            if name in ("batch_size", "seq_len"):
                # An engine may accept a wider range. The usual value must match, since it decides the speed.
                same = mine[0] <= theirs[0] and mine[2] >= theirs[2] and mine[1] == theirs[1]
            else:
                same = mine == theirs
            if not same:
                found.append(f"{word} {_short(mine)}, here {_short(theirs)}")
        return found


_ADAPTER: TypeAdapter[EngineRecord] = TypeAdapter(EngineRecord)


def engine_path(model: Path) -> Path:
    """Path of the engine of an ONNX file."""
    return model.parent / _FOLDER / f"{model.stem}.plan"


def record_path(model: Path) -> Path:
    """Path of the record of an ONNX file's engine, beside the engine."""
    return engine_path(model).with_suffix(".json")


def onnx_digest(model: Path | bytes) -> str:
    """SHA-256 of an ONNX model and of the weights beside its file, hex."""
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    beside = model.with_name(f"{model.name}.data")
    own = sha256_of(model)
    return hashlib.sha256((own + sha256_of(beside)).encode()).hexdigest() if beside.exists() else own


def write_engine(model: Path, engine: bytes, record: EngineRecord) -> None:
    """Write an engine and its record, the record last.

    Args:
        model: the ONNX file that the engine was built from.
        engine: the serialized engine.
        record: from ``make_record``; the engine's digest is added.
    """
    path = engine_path(model)
    path.parent.mkdir(exist_ok=True)
    record_path(model).unlink(missing_ok=True)
    path.write_bytes(engine)
    done = replace(record, engine_sha256=hashlib.sha256(engine).hexdigest())
    record_path(model).write_text(done.to_json(), encoding="utf-8")


def read_record(model: Path) -> EngineRecord:
    """Read the record of an ONNX file's engine.

    Raises:
        TargetError: there is no record, it is damaged, or it has another format.
    """
    file = record_path(model)
    try:
        record = _ADAPTER.validate_json(read_text(file))
    except Unreadable as error:
        raise TargetError(
            f"engine '{engine_path(model)}' has no record of what it was built on ({file.name}: {error}), so it is not "
            "loaded; remove it to have it built again"
        ) from None
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise TargetError(
            f"'{file}' is damaged: {what}; remove '{engine_path(model)}' to have it built again"
        ) from None
    if record.format != FORMAT_VERSION:
        raise TargetError(
            f"'{file}' has format {record.format}, this version of compress reads format {FORMAT_VERSION}; remove "
            f"'{engine_path(model)}' to have it built again"
        )
    return record


def read_engine(model: Path, here: EngineRecord) -> bytes:
    """Read the engine of an ONNX file, after comparing its record with this machine.

    Args:
        model: the ONNX file.
        here: the record of an engine built here.

    Returns:
        The serialized engine.

    Raises:
        TargetError: the engine was built for another GPU, TensorRT, model or calls; or it is damaged.
    """
    record = read_record(model)
    path = engine_path(model)
    different = record.differences(here)
    if different:
        raise TargetError(
            f"engine '{path}' was built for another case: {'; '.join(different)}. Engines run where they were built: "
            f"remove '{path}' to have it built again from '{model.name}' here"
        )
    engine = path.read_bytes()
    if hashlib.sha256(engine).hexdigest() != record.engine_sha256:
        raise TargetError(
            f"engine '{path}' is damaged: its SHA-256 is not its record's; remove it to have it built again"
        )
    return engine


def _short(value: str | tuple[int | str, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value if len(value) != 64 else f"{value[:12]}..."
