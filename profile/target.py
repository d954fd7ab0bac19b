"""Targets: devices to compress a model for, one TOML file each (``configs/targets/*.toml``).

A new device is a new file; no device is named in this module. ``--target`` takes a name from the list or the path of a
user's own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from compress.core.errors import TargetError, did_you_mean
from compress.core.parsing import MOST_TOML_BYTES, Missing, Unreadable, parse_toml, read_text
from compress.profile.cuda_graphs import CudaGraphs

RuntimeName = Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "openvino", "aotinductor"]
Precision = Literal["fp32", "fp16", "int8"]

# Number formats of a runtime, for targets whose file does not list any; the first is the safest.
_OFFERED: dict[str, tuple[Precision, ...]] = {"onnxruntime-cpu": ("fp32", "int8"), "openvino": ("fp32", "int8")}
GPU_RUNTIMES = ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
# Those whose engines are built for stated ranges of calls, from files of standard operators.
ENGINE_RUNTIMES = ("tensorrt", "tensorrt-rtx")

# Plausible ranges of the data sheet: a figure outside has the wrong unit.
_PLAUSIBLE: dict[str, tuple[float, float, str]] = {
    "peak_flops": (1e9, 1e17, "operations per second: 125 TFLOP/s is 125e12"),
    "memory_bandwidth_gb_s": (0.5, 1e5, "10^9 bytes per second: 3.35 TB/s is 3350"),
    "launch_overhead_us": (0.0, 1e3, "microseconds: 4e-6 s is 4"),
}

# Higher least values for NVIDIA's GPUs (the smallest are Jetsons), so that a bandwidth of 3.35 is recognised as TB/s.
_LEAST_OF_GPUS = {"peak_flops": 1e11, "memory_bandwidth_gb_s": 10.0}

# Entries of the data sheet that an estimated profile needs.
SHEET = ("peak_flops", "memory_bandwidth_gb_s", "launch_overhead_us", "processors", "tile_sizes")
Size = Annotated[int, Field(ge=1)]
# TOML has arrays where Python has tuples.
Tile = Annotated[tuple[Size, Size], Field(strict=False)]


Range = Annotated[tuple[Size, Size, Size], Field(strict=False)]


class Calls(BaseModel):
    """Calls that an engine with fixed ranges of shapes has to accept.

    Attributes:
        batch_size: least, usual and most examples per call; the engine is fastest at the usual number.
        seq_len: least, usual and most tokens per example.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    batch_size: Range
    seq_len: Range

    @field_validator("batch_size", "seq_len")
    @classmethod
    def _ascending(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if list(value) != sorted(value):
            raise ValueError(f"{list(value)} must be the least, the usual and the most, in this order")
        return value

    def usually(self, batch_size: int, seq_len: int) -> Calls:
        """The same ranges with another usual call.

        Args:
            batch_size: usual examples per call.
            seq_len: usual tokens per example.

        Returns:
            A copy.

        Raises:
            TargetError: the call is outside the ranges.
        """
        for what, (least, _, most), wanted in (
            ("batch size", self.batch_size, batch_size),
            ("length", self.seq_len, seq_len),
        ):
            if not least <= wanted <= most:
                raise TargetError(
                    f"{what} {wanted} is outside the range of [calls] in the target's file, {least} to {most}; change "
                    "the range there, or give another value on the command line"
                )
        return Calls(
            batch_size=(self.batch_size[0], batch_size, self.batch_size[2]),
            seq_len=(self.seq_len[0], seq_len, self.seq_len[2]),
        )


class Target(BaseModel):
    """A device, and how models run on it.

    Attributes:
        name: name for ``--target``.
        device: the hardware, in words.
        runtime: runtime that loads and runs the exported model.
        precision: number format of the exported model, unless the command line asks for another.
        threads: threads of a call; None for all cores that the process may use.
        ort: kind of processor for which the artifact also has ``engine/model.ort``; None for no such file.
        description: one line for ``compress targets``.
        precisions: possible number formats, the safest first; None for those of the runtime.
        compute_capability: of an NVIDIA GPU, such as ``7.0``; a GPU with another one is another target.
        peak_flops: dense operations per second by precision (a multiply-add is two), from the data sheet; None if
            unknown. Estimated profiles need this and the next four.
        memory_bandwidth_gb_s: 10^9 bytes per second.
        launch_overhead_us: microseconds that every kernel takes to launch.
        processors: units that a kernel's tiles are spread over: streaming multiprocessors, or cores.
        tile_sizes: rows and columns of a matrix product that one processor computes at a time.
        calls: calls that engines of TensorRT and TensorRT-RTX have to accept; None for up to the command line's batch
            size and length.
        padding: ``right`` if inputs are padded on the right, as tokenizers of artifacts do; ``any`` keeps to forms that
            take other padding too. For ONNX Runtime on CUDA.
        cuda_graphs: shapes of calls that run as a CUDA graph; None for none. For ONNX Runtime on CUDA.
        one_of: names or files of targets on one device, of which a run takes the fastest; empty for this one. What the
            file says beside holds where nothing is timed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    device: str = Field(min_length=1)
    runtime: RuntimeName
    precision: Precision = "fp32"
    threads: int | None = Field(default=None, ge=1)
    ort: Literal["amd64", "arm"] | None = None
    description: str | None = None
    precisions: Annotated[tuple[Precision, ...], Field(strict=False, min_length=1)] | None = None
    compute_capability: str | None = Field(default=None, pattern=r"^\d+\.\d$")
    peak_flops: Mapping[Precision, float] | None = None
    memory_bandwidth_gb_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    launch_overhead_us: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    processors: int | None = Field(default=None, ge=1)
    tile_sizes: Annotated[tuple[Tile, ...], Field(strict=False, min_length=1)] | None = None
    calls: Calls | None = None
    padding: Literal["right", "any"] = "right"
    cuda_graphs: CudaGraphs | None = None
    one_of: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()

    @field_validator("cuda_graphs")
    @classmethod
    def _on_cuda(cls, value: CudaGraphs | None, info: ValidationInfo) -> CudaGraphs | None:
        runtime = info.data.get("runtime", "onnxruntime-cuda")
        if value is not None and runtime != "onnxruntime-cuda":
            raise ValueError(f'{runtime} captures no CUDA graphs here; runtime = "onnxruntime-cuda" does')
        return value

    @field_validator("one_of")
    @classmethod
    def _without_threads(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("threads") is not None:
            raise ValueError("threads goes into the file of each of these targets, not beside their names")
        return value

    @field_validator("peak_flops", "memory_bandwidth_gb_s", "launch_overhead_us")
    @classmethod
    def _of_the_right_unit(cls, value: Any, info: ValidationInfo) -> Any:
        low, high, unit = _PLAUSIBLE[str(info.field_name)]
        if info.data.get("compute_capability") is not None:
            low = _LEAST_OF_GPUS.get(str(info.field_name), low)
        for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            if number is not None and not low <= number <= high:
                which = f" for {name}" if name else ""
                raise ValueError(f"{number:g}{which} looks like another unit; write it in {unit}")
        return value

    @property
    def on_gpu(self) -> bool:
        """Whether models run on an NVIDIA GPU; AOTInductor compiles for both, and a processor has no capability."""
        return self.runtime in GPU_RUNTIMES or (self.runtime == "aotinductor" and self.compute_capability is not None)

    def for_calls(self, batch_size: int, seq_len: int) -> Target:
        """The target with engines that are fastest at a batch size and length, and graphs for such calls.

        Args:
            batch_size: examples per call.
            seq_len: tokens per example.

        Returns:
            A copy with these usual calls; the target itself if its runtime needs none.

        Raises:
            TargetError: the target's file has ranges or shapes, and the call is outside them.
        """
        if self.cuda_graphs is not None:
            return self.model_copy(update={"cuda_graphs": self.cuda_graphs.for_calls(batch_size, seq_len)})
        if self.calls is not None:
            return self.model_copy(update={"calls": self.calls.usually(batch_size, seq_len)})
        if self.runtime not in ENGINE_RUNTIMES:
            return self
        calls = Calls(batch_size=(1, batch_size, batch_size), seq_len=(1, seq_len, seq_len))
        return self.model_copy(update={"calls": calls})

    def missing_for(self, precision: str) -> list[str]:
        """Keys that an estimated profile in a precision needs and this target lacks; empty if none."""
        lacking = [name for name in SHEET if getattr(self, name) is None]
        if self.peak_flops is not None and precision not in self.peak_flops:
            lacking.insert(0, f"peak_flops.{precision}")
        return lacking


def offered_precisions(target: Target, precision: str) -> tuple[Precision, ...]:
    """The precisions to try on a target.

    Args:
        target: the device.
        precision: one precision, or ``auto`` for all of the target's.

    Returns:
        At least one precision, the safest first.

    Raises:
        TargetError: the target does not have the precision.
    """
    known = target.precisions or _OFFERED.get(target.runtime, (target.precision,))
    found = tuple(name for name in known if precision in (name, "auto"))
    if not found:
        raise TargetError(
            f"target '{target.name}' ({target.runtime}) has no {precision}; use --precision {', '.join(known)} or auto"
        )
    return found


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("compress"))) / "configs" / "targets"
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def load_target(name_or_path: str) -> Target:
    """Load a shipped target by its name, or a target from a TOML file.

    Args:
        name_or_path: a name from ``list_targets``; or a path, which ends in ``.toml`` or contains a separator.

    Returns:
        The target.

    Raises:
        TargetError: the name is unknown (the message names the closest and all known); or the file is missing, is not
            TOML, or has an unknown key or an invalid value.
    """
    shipped = _shipped()
    if name_or_path in shipped:
        return _read(shipped[name_or_path])
    try:
        path = Path(name_or_path).expanduser()
    except RuntimeError:  # "~name" of an unknown user
        path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return _read(path)
    raise TargetError(
        f"unknown target '{name_or_path}'.{did_you_mean(name_or_path.lower(), list(shipped))} "
        f"Known targets: {', '.join(shipped)}; or give the path of a target's TOML file"
    )


def list_targets() -> list[Target]:
    """The shipped targets, by name."""
    return [_read(path) for path in _shipped().values()]


def _read(path: Path) -> Target:
    raw = _raw(path)
    base = raw.pop("like", None)
    if base is not None:
        shipped = _shipped().get(base) if isinstance(base, str) else None
        if shipped is None:
            hint = did_you_mean(str(base), list(_shipped()))
            raise TargetError(
                f"target file '{path}': like = {base!r}: no shipped target has this name.{hint} "
                f"There are {', '.join(_shipped())}"
            )
        raw = {**_raw(shipped), "name": path.stem, **raw}
        if "like" in raw:
            raise TargetError(
                f"target file '{path}': like = {base!r}: that target is itself like {raw['like']!r}; use like = "
                f"{raw['like']!r}"
            )
    try:
        return Target.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise TargetError(f"target file '{path}': " + "; ".join(map(_problem, error.errors()))) from None


def _raw(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path, MOST_TOML_BYTES))
    except Missing:
        raise TargetError(f"target file '{path}' does not exist; see `compress targets` for names") from None
    except Unreadable as error:
        raise TargetError(f"cannot read target file '{path}': {error}") from None


def _problem(error: Any) -> str:
    """One of pydantic's errors in the terms of the target's file."""
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'.{did_you_mean(key, [*Target.model_fields, 'like'])}"
    if error["type"] == "missing":
        return f"key '{key}' is missing"
    given = error["input"]
    hint = ""
    if error["type"] == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    if error["type"] == "literal_error" and isinstance(given, str):
        hint = did_you_mean(given, error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    return f"{key} = {given!r}: {error['msg']}.{hint}"
