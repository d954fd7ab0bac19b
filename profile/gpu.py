"""NVIDIA GPUs of this machine, from their driver's ``nvidia-smi``; works with builds of torch without CUDA too."""

from __future__ import annotations

import shutil
import subprocess  # nosec B404
from dataclasses import dataclass
from functools import cache

_FIELDS = ("name", "compute_cap", "driver_version", "memory.total", "clocks.max.sm", "clocks.sm")
_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: the driver's name of it.
        compute_capability: such as ``7.0``.
        driver: version of the driver.
        memory_mb: total memory in 2^20 bytes; 0 if unknown.
        most_mhz, now_mhz: highest and current clock of the multiprocessors; 0 if unknown.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mb: int
    most_mhz: int
    now_mhz: int

    @property
    def described(self) -> dict[str, str | int]:
        """The GPU's entries in the device of a measured profile."""
        return {
            "gpu": self.name,
            "compute_capability": self.compute_capability,
            "driver": self.driver,
            "gpu_clock_mhz": self.now_mhz,
            "gpu_most_clock_mhz": self.most_mhz,
        }


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """Read the csv output of ``nvidia-smi --query-gpu``; lines of another form, such as errors, are skipped."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_FIELDS) and cells[1].replace(".", "", 1).isdigit():
            # "[N/A]" if the driver has no such figure.
            memory, most, now = (int(cell) if cell.isdigit() else 0 for cell in cells[3:])
            found.append(Gpu(cells[0], cells[1], cells[2], memory, most, now))
    return found


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine, cached; empty if ``nvidia-smi`` is missing or fails."""
    return _asked()


def with_current_clock(gpu: Gpu) -> Gpu:
    """The same GPU with its current clock. Call it right after timings, to get the clock during them."""
    return next((now for now in _asked() if (now.name, now.driver) == (gpu.name, gpu.driver)), gpu)


def _asked() -> tuple[Gpu, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        # A fixed program of the driver, without a shell and without input from outside.
        done = subprocess.run(  # nosec B603
            [command, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(parse_nvidia_smi(done.stdout))


def matching_gpus(compute_capability: str | None) -> list[Gpu]:
    """GPUs of this machine with a compute capability; None for all."""
    return [gpu for gpu in gpus() if compute_capability in (None, gpu.compute_capability)]
