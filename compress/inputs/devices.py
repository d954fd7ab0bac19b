"""The devices that PyTorch has on this machine, and what it says when one of them fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from compress.core.errors import DeviceError
from compress.models.placement import free_bytes
from compress.profile.gpu import gpus

if TYPE_CHECKING:
    import torch

GB = 1e9
# cuBLAS repeats its sums in the same order with a workspace of fixed size. Read when its first handle is made.
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# The words of the libraries of GPUs for anything but too little memory.
_FAILED = ("cuda error", "cudnn error", "cublas_status", "cusolver error", "cufft", "nvrtc", "mps backend")


def refuse_absent(asked: str) -> None:
    """Raise DeviceError where a device that was asked for is not there, naming those that are."""
    if asked in ("auto", "cpu"):
        return
    import torch

    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError(f"--device mps: PyTorch sees no Apple GPU; there {_those_here()}; use --device cpu")
        return
    there = count()
    if not there:
        raise DeviceError(f"--device {asked}: {why_none()}; there {_those_here()}; use --device cpu")
    number = int(asked.partition(":")[2] or 0)
    if number >= there:
        raise DeviceError(f"--device {asked}: there {_those_here()}; choose one of them, or --device cpu")


def why_none() -> str:
    """Why PyTorch has no CUDA device, in words."""
    import torch

    if gpus():
        names = ", ".join(gpu.name for gpu in gpus())
        built = "is built without CUDA" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        return (
            f"this machine has {names}, but PyTorch cannot use it: torch {torch.__version__} {built} (docs/gpu.md "
            "says how to install another)"
        )
    return "PyTorch sees no GPU"


def described(device: torch.device) -> str:
    """A device with its name and free memory."""
    if device.type == "cpu":
        return "cpu"
    free = free_bytes(device)
    return f"{device} ({name_of(device)}" + ("" if free is None else f", {free / GB:.1f} GB free") + ")"


def name_of(device: torch.device) -> str:
    """The name that its driver gives a device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def failed(error: BaseException) -> bool:
    """Whether an error says that a device failed, other than by too little memory."""
    import torch

    if isinstance(error, torch.AcceleratorError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _FAILED)


def processor() -> torch.device:
    """The device that is always there."""
    import torch

    return torch.device("cpu")


def count() -> int:
    """How many GPUs PyTorch can use through CUDA."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _those_here() -> str:
    names = [f"cuda:{number} ({name_of(cuda(number))})" for number in range(count())]
    return "are " + ", ".join(["cpu", *names]) if names else "is only cpu"


def cuda(number: int) -> torch.device:
    """The GPU of that number."""
    import torch

    return torch.device("cuda", number)


def gpus_to_try() -> list[torch.device]:
    """The process's own GPU first; where several processes share the machine, no other."""
    import torch

    if not count():
        return []
    own = torch.cuda.current_device()
    others = [] if several_processes() else [number for number in range(count()) if number != own]
    return [cuda(number) for number in (own, *others)]


def several_processes() -> bool:
    """Whether this process is one of several of a run."""
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def why_broken(device: torch.device) -> str | None:
    """Why a device does not work, in the words of its driver; None if it does."""
    import torch

    if device.type == "cuda":
        os.environ.setdefault(*_WORKSPACE)
    try:
        torch.ones(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0][:200]
    return None
