"""Targets: the devices a model is compressed for, one TOML file each (``configs/targets/*.toml``).

A new device is one more file; nothing in here names any. Users give ``--target`` a name from the list or a file of
their own.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compress.errors import TargetError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RuntimeName = Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "openvino"]
Precision = Literal["fp32", "fp16", "int8"]

# What can be made and measured here, by runtime; the first is the safest.
_OFFERED: dict[str, tuple[Precision, ...]] = {"onnxruntime-cpu": ("fp32", "int8"), "openvino": ("fp32", "int8")}

# Distributions whose release changes how fast a model runs.
_RUNTIME_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime-cpu": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt",),
    "openvino": ("openvino",),
}


class Target(BaseModel):
    """A device, and how models run on it.

    Attributes:
        name: what ``--target`` calls it.
        device: the hardware, in words.
        runtime: what loads and runs the exported model.
        precision: number format of the exported model, unless the command line asks for another.
        threads: threads a call may use; None means every core the process may use.
        description: one line for ``compress targets``.
        peak_flops: floating-point operations per second by precision, from the data sheet; None where it was not
            looked up. With ``memory_bandwidth_gb_s`` (10^9 bytes per second) and ``launch_overhead_us`` (microseconds
            per kernel) it is what estimated profiles rest on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    device: str = Field(min_length=1)
    runtime: RuntimeName
    precision: Precision = "fp32"
    threads: int | None = Field(default=None, ge=1)
    description: str | None = None
    peak_flops: Mapping[Precision, float] | None = None
    memory_bandwidth_gb_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    launch_overhead_us: float | None = Field(default=None, ge=0, allow_inf_nan=False)


def offered(target: Target, precision: str) -> tuple[Precision, ...]:
    """The precisions to try on a target.

    Args:
        target: the device.
        precision: one of them, or ``auto`` for all.

    Raises:
        TargetError: the target lacks it.
    """
    known = _OFFERED.get(target.runtime, (target.precision,))
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
    """A shipped target by its name, or one from a TOML file.

    Args:
        name_or_path: a name that ``list_targets`` has; or a path, which ends in ``.toml`` or has a separator in it.

    Raises:
        TargetError: unknown name (the message names the closest and all known), or a file that is missing, no TOML,
            or has a key or value that targets do not have.
    """
    shipped = _shipped()
    if name_or_path in shipped:
        return _read(shipped[name_or_path])
    try:
        path = Path(name_or_path).expanduser()
    except RuntimeError:  # ~name of nobody
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
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TargetError(f"target file '{path}' does not exist; see `compress targets` for names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"cannot read target file '{path}': {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TargetError(f"target file '{path}' is not valid TOML: {error}") from None
    try:
        return Target.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise TargetError(f"target file '{path}': " + "; ".join(map(_problem, error.errors()))) from None


def _problem(error: Any) -> str:
    """One of pydantic's complaints in the file's own terms."""
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'.{did_you_mean(key, list(Target.model_fields))}"
    if error["type"] == "missing":
        return f"key '{key}' is missing"
    given = error["input"]
    hint = ""
    if error["type"] == "literal_error" and isinstance(given, str):
        hint = did_you_mean(given, error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    return f"{key} = {given!r}: {error['msg']}.{hint}"


def describe_device(target: Target) -> dict[str, str | int]:
    """What a measured profile must say about where it was taken.

    Returns:
        Processor model, cores this process may use, threads a call uses, operating system, and versions of Python and
        of the target's runtime. Never anything that names the machine or its user.
    """
    cores = usable_cores()
    described: dict[str, str | int] = {
        "processor": _processor(),
        "cores": cores,
        "threads": target.threads or cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "runtime": target.runtime,
    }
    for package in _RUNTIME_PACKAGES[target.runtime]:
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return described


def usable_cores() -> int:
    """Cores this process may run on: its affinity where the system tells it, otherwise all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"
