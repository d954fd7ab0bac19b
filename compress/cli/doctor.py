"""Checks whether this machine is ready to compress, and quiet enough to measure. One line a check, with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.core.cores import quota, usable_cores
from compress.export import cuda_events, rtx_library
from compress.export.cuda import PROVIDER
from compress.export.tensorrt import lacking_tensorrt, release
from compress.profile.gpu import Gpu, gpus
from compress.profile.timing import measure

State = Literal["ok", "warning", "problem"]
OK: State = "ok"
WARNING: State = "warning"
PROBLEM: State = "problem"

# Below these a run of a small encoder is likely to fail.
LEAST_MEMORY_GB = 3.0
LEAST_DISK_GB = 2.0
# Spread of repeated timings (interquartile range over median) above which verdicts take longer, and are often open.
SHAKY, HOPELESS = 0.1, 0.5
_PRODUCT, _ROUNDS = 256, 60
# Compute capabilities that current releases have left behind. Sources: release notes of TensorRT 10.5 (Volta removed);
# NVIDIA, CUDA 13.0 release notes (Maxwell, Pascal and Volta removed), which torch's default builds rest on.
OLDEST_TENSORRT = 7.5
OLDEST_CUDA_13 = 7.5


@dataclass(frozen=True)
class Check:
    """One property of the machine.

    Attributes:
        name: the property.
        state: ``ok``, ``warning`` (works, but not as well as it could) or ``problem``.
        value: its value, in words.
        remedy: what to do; empty where nothing needs to be done.
    """

    name: str
    state: State
    value: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the check as plain JSON types."""
        return asdict(self)


def examine(device: str = "auto") -> list[Check]:
    """Return all checks; takes a few seconds and changes nothing.

    Args:
        device: where PyTorch should compute, as ``--device`` has it.
    """
    return [
        _python(),
        _library("torch", "2.9", "pip install -c constraints.txt torch"),
        _library("transformers", "4.57", "pip install 'transformers>=4.57,<6'"),
        computing(device),
        *_runtimes(),
        _int8(),
        *_gpus(),
        _memory(),
        _disk(),
        _threads(),
        *_governor(),
        _load(),
        steadiness(),
    ]


def version_of(package: str) -> str | None:
    """Return the installed version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _python() -> Check:
    # An older one than this package takes could not have imported it.
    return Check("Python", OK, platform.python_version())


def _library(package: str, least: str, remedy: str) -> Check:
    found = version_of(package)
    if found is None:
        return Check(package, PROBLEM, "not installed", remedy)
    if _numbers(found) < _numbers(least):
        return Check(package, PROBLEM, f"{found}, older than {least}", remedy)
    return Check(package, OK, found)


def computing(device: str) -> Check:
    """Return where PyTorch computes.

    Args:
        device: what ``--device`` asks for.
    """
    from compress.core.errors import DeviceError
    from compress.inputs import devices
    from compress.inputs.compute import Compute

    name, said = f"--device {device}", list[str]()
    try:
        found = Compute(device, say=said.append).device
    except DeviceError as error:
        return Check(name, PROBLEM, str(error), "or leave it out: auto takes what works")
    broken = [text for text in said if text.startswith("warning: ")]
    if broken:
        return Check(name, WARNING, broken[0].removeprefix("warning: "), "PyTorch computes on the processor")
    if device == "auto" and found.type == "cpu" and gpus():
        return Check(name, WARNING, f"cpu: {devices.why_none()}", "pip install a torch built for this GPU's CUDA")
    return Check(name, OK, devices.described(found), "" if found.type != "cpu" else "where PyTorch computes")


def _runtimes() -> Iterator[Check]:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if version_of(name)]
    if len(both) == 2:
        yield Check(
            "ONNX Runtime",
            PROBLEM,
            "onnxruntime and onnxruntime-gpu are both installed, over each other",
            "pip uninstall both, then install one: pip install 'compress[cpu]' or 'compress[gpu]'",
        )
    elif not both:
        yield Check("ONNX Runtime", PROBLEM, "not installed", "pip install 'compress[cpu]', with a GPU 'compress[gpu]'")
    else:
        import onnxruntime

        providers = [name for name in onnxruntime.get_available_providers() if "Azure" not in name]
        state: State = OK
        remedy = ""
        if gpus() and PROVIDER not in providers:
            state, remedy = WARNING, "there is a GPU: pip uninstall onnxruntime, pip install 'compress[gpu]'"
        yield Check("ONNX Runtime", state, f"{both[0]} {onnxruntime.__version__}: {', '.join(providers)}", remedy)
    if gpus():
        yield from _tensorrt()
    yield _tensorrt_rtx()
    openvino = version_of("openvino")
    remedy = "" if openvino else "needed for cpu-openvino; auto-cpu does without"
    yield Check("OpenVINO", OK, openvino or "not installed", remedy)
    yield _compiler()


def _compiler() -> Check:
    """Return whether AOTInductor can compile: looking for the compiler takes torch a second, a name takes none."""
    names = [name for name in (os.environ.get("CXX"), "g++") if name]
    found = next((name for name in names if shutil.which(name)), None)
    remedy = "" if found else "needed for cpu-aotinductor alone: apt-get install g++, or set CXX"
    return Check("C++ compiler", OK, found or "none found", remedy)


def _int8() -> Check:
    from compress.export.lowering import saturates

    if not saturates():
        return Check("int8", OK, "8-bit products do not saturate on this processor")
    remedy = "int8 files made here get weights of 7 bits; files with weights of 8 bits answer differently here"
    return Check("int8", WARNING, "no VNNI: 8-bit products can saturate", remedy)


def _tensorrt() -> Iterator[Check]:
    for gpu in gpus():
        lacking = lacking_tensorrt(gpu.compute_capability)
        value = f"{release()} on {gpu.name}" if lacking is None else f"not for {gpu.name}"
        yield Check("TensorRT", OK, value, "" if lacking is None else f"for targets such as t4-tensorrt: {lacking}")
    if cuda_events.runtime() is None:
        yield Check(
            "CUDA events", WARNING, "cuda-bindings cannot be loaded", "pip install cuda-bindings: times without copies"
        )


def _tensorrt_rtx() -> Check:
    if rtx_library.load() is None:
        return Check("TensorRT-RTX", OK, "not installed", "needed for targets such as rtx-4090: the extra 'rtx'")
    value = f"{rtx_library.release()}, builds for compute capability {', '.join(rtx_library.capabilities())}"
    return Check("TensorRT-RTX", OK, value)


def _gpus() -> Iterator[Check]:
    found = gpus()
    if not found:
        seen = "nvidia-smi shows none" if shutil.which("nvidia-smi") else "none: there is no nvidia-smi"
        yield Check("GPU", OK, seen, "GPU targets are planned from data sheets here and measured on the device")
    for gpu in found:
        yield judge(gpu)


def judge(gpu: Gpu) -> Check:
    """Return whether TensorRT and CUDA still support a GPU."""
    value = (
        f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}, {gpu.memory_mb / 1024:.0f} GB, "
        f"clock {gpu.now_mhz} of {gpu.most_mhz} MHz"
    )
    capability = float(gpu.compute_capability)
    if capability < min(OLDEST_TENSORRT, OLDEST_CUDA_13):
        return Check(
            "GPU",
            WARNING,
            value,
            "TensorRT left Volta with release 10.5 and CUDA with 13: use TensorRT 10.4 and libraries for CUDA 12 "
            "(`docker build --build-arg FLAVOR=v100`)",
        )
    return Check("GPU", OK, value)


def _memory() -> Check:
    free = _free_gb()
    if free is None:
        return Check("memory", OK, "not told by this system")
    if free < LEAST_MEMORY_GB:
        return Check("memory", WARNING, f"{free:.1f} GB free", "close other programs, or use fewer --samples")
    return Check("memory", OK, f"{free:.1f} GB free")


def _free_gb() -> float | None:
    """Return the memory that a new program could have, in 10^9 bytes, within container limits; None off Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit.isdigit():
            free = min(free, int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass  # no limit, or another kind of groups
    return free / 1e9


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 1e9
    if free < LEAST_DISK_GB:
        return Check("disk", WARNING, f"{free:.1f} GB free here", "free some space, or choose another --output")
    return Check("disk", OK, f"{free:.1f} GB free here")


def _threads() -> Check:
    usable, there = usable_cores(), os.cpu_count() or 1
    told = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    value = f"{usable} of {there} cores usable" + "".join(f", {name}={text}" for name, text in told.items())
    if (most := quota()) is not None:
        value += f", CPU quota of {most:g} cores"
    # OpenMP's value may be a list, one number for each level.
    first = {name: text.split(",")[0].strip() for name, text in told.items()}
    if odd := [name for name, text in first.items() if not (text.isdecimal() and int(text) > 0)]:
        return Check("threads", WARNING, value, f"{odd[0]} is not a number of threads and is ignored: unset it")
    if any(int(text) < usable for text in first.values()):
        return Check(
            "threads", WARNING, value, "PyTorch uses fewer threads than there are cores: unset it, unless that is meant"
        )
    return Check("threads", OK, value)


def _governor() -> Iterator[Check]:
    governors = set()
    for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            governors.add(file.read_text(encoding="ascii").strip())
        except OSError:
            continue
    if not governors:
        yield Check("clock governor", OK, "not told (a virtual machine, or not Linux)")
    elif governors == {"performance"}:
        yield Check("clock governor", OK, "performance")
    else:
        value = ", ".join(sorted(governors))
        yield Check("clock governor", WARNING, value, "for steady timings: sudo cpupower frequency-set -g performance")


def _load() -> Check:
    if not hasattr(os, "getloadavg"):
        return Check("load", OK, "not told by this system")
    load, cores = os.getloadavg()[0], usable_cores()
    if load > 0.5 * cores:
        return Check("load", WARNING, f"{load:.1f} on {cores} cores", "stop other programs before measuring")
    return Check("load", OK, f"{load:.1f} on {cores} cores")


def steadiness(rounds: int = _ROUNDS) -> Check:
    """Time one matrix product again and again and judge the spread: interquartile range over median."""
    matrix = np.random.default_rng(0).standard_normal((_PRODUCT, _PRODUCT), dtype=np.float32)
    times = measure([lambda: matrix @ matrix], rounds=rounds)[:, 0]
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return judge_spread(float((high - low) / middle), float(middle))


def judge_spread(spread: float, median_ms: float) -> Check:
    """Return the check of a spread of timings.

    Args:
        spread: interquartile range over median.
        median_ms: median of the timings, ms.
    """
    value = f"a product of {median_ms:.2f} ms varies by {spread:.0%} (interquartile range over median)"
    if spread <= SHAKY:
        return Check("timing", OK, value)
    more = "verdicts near the limit will be inconclusive" if spread > HOPELESS else "measuring takes longer"
    return Check("timing", WARNING, value, f"{more}: measure on a quiet machine, with a fixed clock")
