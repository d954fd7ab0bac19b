"""The device of a target: how it is described in a profile, and whether a profile is of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

from compress.core.cores import usable_cores
from compress.core.errors import ProfileError
from compress.profile.gpu import matching_gpus, with_current_clock
from compress.profile.target import Target

# Distributions whose release changes how fast a model runs.
_RUNTIME_PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime-cpu": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "openvino": ("openvino",),
    "aotinductor": ("torch",),
}

Provenance = Literal["measured here", "estimated", "none"]


def describe_device(target: Target) -> dict[str, str | int]:
    """Describe this device, for a measured profile.

    Returns:
        Processor model, cores that this process may use, threads of a call, operating system, and versions of Python
        and of the target's runtime; for a GPU its name, compute capability, driver, and current and highest clock.
        Nothing that identifies the machine or its user.
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
    if target.on_gpu:
        for gpu in matching_gpus(target.compute_capability)[:1]:
            described |= with_current_clock(gpu).description
    if target.cuda_graphs is not None:
        described["cuda_graphs"] = str(target.cuda_graphs)
    return described


def check_device(described: Mapping[str, str | int], target: Target) -> None:
    """Check that a profile was measured on its target's device and runtime.

    Args:
        described: the profile's device, from ``describe_device``.
        target: target that the profile is used for; if it is this machine, the GPU's name has to match too.

    Raises:
        ProfileError: the device or the runtime differs; the message names both.
    """
    runtime = described.get("runtime", target.runtime)
    if runtime != target.runtime:
        raise ProfileError(
            f"the profile was measured in {runtime}, target '{target.name}' runs in {target.runtime}; take one with "
            "`compress profile`"
        )
    captured = described.get("cuda_graphs")
    if "runtime" in described and (captured is None) != (target.cuda_graphs is None):
        how = "without CUDA graphs" if captured is None else f"with CUDA graphs ({captured})"
        raise ProfileError(
            f"the profile was measured {how}, and target '{target.name}' says otherwise; take one with `compress "
            "profile`, or change [cuda_graphs] in the target's file"
        )
    capability = described.get("compute_capability")
    if capability is not None and target.compute_capability not in (None, capability):
        raise ProfileError(
            f"the profile was measured on {described.get('gpu', 'a GPU')} (compute capability {capability}), target "
            f"'{target.name}' has {target.compute_capability}; take one on that device with `compress profile`"
        )
    present = [gpu.name for gpu in matching_gpus(target.compute_capability)] if target.on_gpu else []
    if capability is not None and present and described.get("gpu") not in present:
        raise ProfileError(
            f"the profile was measured on {described.get('gpu')}, target '{target.name}' is {present[0]} here; take "
            "one with `compress profile`"
        )


def provenance(target: Target) -> Provenance:
    """Source of a target's profile for a run on this machine without ``--profile``.

    Returns:
        ``measured here``; ``estimated`` from the data sheet; ``none`` if it has to be measured on the device.
    """
    if not target.on_gpu or matching_gpus(target.compute_capability):
        return "measured here"
    return "none" if target.missing_for(target.precision) else "estimated"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"
