"""Engines on disk, each with a record of the library's release, the GPU and the model that it was built for.

An engine is machine code for one release of TensorRT and one GPU, or of TensorRT-RTX and one compute capability.
Loading it elsewhere fails, at best with a message that does not say why. So the record is compared with this machine
before the engine is loaded. Law (``tests/export/test_tensorrt_file.py``): ``read_engine`` reads the result of
``write_engine``, and refuses it if an entry differs that decides whether the engine runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compress.core.errors import TargetError
from compress.core.hashing import sha256_of
from compress.core.parsing import Unreadable, parse_json, read_text

FORMAT_VERSION = 1
_FOLDER = "engine"
# In an artifact, by their names in its manifest.
ENGINE_FILES = (f"{_FOLDER}/model.plan", f"{_FOLDER}/model.json", f"{_FOLDER}/model_ctx.onnx")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What decides whether an engine can be loaded.

    Attributes:
        onnx_sha256: digest of the ONNX file and of the weights beside it.
        batch_size, seq_len: least, usual and most that the engine accepts.
        inputs, outputs: names, in the graph's order.
        engine_sha256: digest of the engine; empty before it is written.
        format: version of this layout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    # The library that builds the engine, where it runs, and the entries of a subclass that are compared, in words.
    library: ClassVar[str] = ""
    bound: ClassVar[str] = ""
    compared: ClassVar[Mapping[str, str]] = {}

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

    def differences(self, here: Record) -> list[str]:
        """Differences that prevent the engine's use here, with both values; empty if there are none."""
        found = []
        for name, word in {**self.compared, **_OF_EVERY_RECORD}.items():
            mine, theirs = getattr(self, name), getattr(here, name)
            if name in ("batch_size", "seq_len"):
                # An engine may accept a wider range. The usual value must match, since it decides the speed.
                same = mine[0] <= theirs[0] and mine[2] >= theirs[2] and mine[1] == theirs[1]
            else:
                same = mine == theirs
            if not same:
                found.append(f"{word} {_short(mine)}, here {_short(theirs)}")
        return found


_OF_EVERY_RECORD = {
    "onnx_sha256": "ONNX file",
    "batch_size": "batch sizes",
    "seq_len": "lengths",
    "inputs": "inputs",
    "outputs": "outputs",
}


@dataclass(frozen=True, kw_only=True)
class EngineRecord(Record):
    """GPU, TensorRT release, model and calls that an engine was built for.

    Attributes:
        gpu: the driver's name of the GPU.
        compute_capability: of the GPU.
        tensorrt: version of TensorRT.
        driver: version of the GPU's driver; not compared, since an engine runs with other drivers too.
    """

    library: ClassVar[str] = "TensorRT"
    bound: ClassVar[str] = "Engines run where they were built"
    compared: ClassVar[Mapping[str, str]] = {
        "gpu": "GPU",
        "compute_capability": "compute capability",
        "tensorrt": "TensorRT",
    }

    gpu: str
    compute_capability: str
    tensorrt: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class RtxRecord(Record):
    """TensorRT-RTX release, compute capability, model and calls that an engine was built for.

    Attributes:
        runtime: the library.
        release: of the library.
        compute_capability: of the GPUs that run the engine.
        precision: number format of the ONNX file: ``fp32``, ``fp16`` or ``int8``.
        attention: attentions in the model.
        attention_fused: those that are one kernel in the engine; None before it is built.
    """

    library: ClassVar[str] = "TensorRT-RTX"
    bound: ClassVar[str] = "It runs with that release and on that compute capability alone"
    compared: ClassVar[Mapping[str, str]] = {
        "release": "TensorRT-RTX",
        "compute_capability": "compute capability",
    }

    runtime: Literal["TensorRT-RTX"] = "TensorRT-RTX"
    release: str
    compute_capability: str
    precision: str
    attention: int
    attention_fused: int | None = None

    @property
    def said(self) -> str:
        """What the engine is, in words."""
        (fewest, _, batch), (shortest, _, longest) = self.batch_size, self.seq_len
        return (
            f"{self.library} {self.release}, compute capability {self.compute_capability}, {self.precision}, batch "
            f"{fewest} to {batch}, length {shortest} to {longest}; {self.fusion}"
        )

    @property
    def fusion(self) -> str:
        """Whether attention is fused, in words."""
        if not self.attention:
            return "no attention is left"
        if self.attention_fused == self.attention:
            return f"attention is fused in all {self.attention} layers that have it"
        return f"attention is fused in {self.attention_fused or 0} of {self.attention} layers that have it"


AnyRecord = TypeVar("AnyRecord", bound=Record)


def engine_path(model: Path) -> Path:
    """Path of the engine of an ONNX file."""
    return model.parent / _FOLDER / f"{model.stem}.plan"


def record_path(model: Path) -> Path:
    """Path of the record of an ONNX file's engine, beside the engine."""
    return engine_path(model).with_suffix(".json")


def context_path(model: Path) -> Path:
    """Path of the ONNX file that holds an ONNX file's engine for ONNX Runtime, beside the engine."""
    return model.parent / _FOLDER / f"{model.stem}_ctx.onnx"


def onnx_digest(model: Path | bytes) -> str:
    """SHA-256 of an ONNX model and of the weights beside its file, hex."""
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    beside = model.with_name(f"{model.name}.data")
    own = sha256_of(model)
    return hashlib.sha256((own + sha256_of(beside)).encode()).hexdigest() if beside.exists() else own


def write_engine(model: Path, engine: bytes, record: Record) -> None:
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


def read_record(model: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read the record of an ONNX file's engine.

    Args:
        model: the ONNX file.
        kind: record of the library that is to run the engine.

    Returns:
        The record.

    Raises:
        TargetError: there is no record, it is damaged, of another library, or of another format.
    """
    file, again = record_path(model), f"remove '{engine_path(model)}' to have it built again"
    try:
        text = read_text(file)
    except Unreadable as error:
        raise TargetError(
            f"engine '{engine_path(model)}' has no record of the GPU and TensorRT that it was built for ({file.name}: "
            f"{error}), so it is not loaded; remove it to have it built again"
        ) from None
    builder = library_of(model)
    if builder not in ("", kind.library):
        raise TargetError(f"engine '{engine_path(model)}' was built by {builder}, not {kind.library}; {again}")
    try:
        record = TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise TargetError(f"'{file}' is damaged: {error.errors()[0]['msg']}; {again}") from None
    if record.format != FORMAT_VERSION:
        raise TargetError(
            f"'{file}' has format {record.format}, this version of compress reads format {FORMAT_VERSION}; {again}"
        )
    return record


def library_of(model: Path) -> str:
    """The library that built an ONNX file's engine; empty if there is no engine, or its record cannot be read."""
    try:
        raw = parse_json(read_text(record_path(model)))
    except Unreadable:
        return ""
    if not isinstance(raw, dict):
        return ""
    return RtxRecord.library if "runtime" in raw else EngineRecord.library if "tensorrt" in raw else ""


def read_engine(model: Path, here: Record) -> bytes:
    """Read the engine of an ONNX file, after comparing its record with this machine.

    Args:
        model: the ONNX file.
        here: the record of an engine built here.

    Returns:
        The serialized engine.

    Raises:
        TargetError: the engine was built for another GPU, release, model or calls; or it is damaged.
    """
    record = read_record(model, type(here))
    path = engine_path(model)
    different = record.differences(here)
    if different:
        raise TargetError(
            f"engine '{path}' was built for another case: {'; '.join(different)}. {here.bound}: remove '{path}' to "
            f"have it built again from '{model.name}' here"
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
