"""NVIDIA GPUs of this machine, as their driver tells. No library needed: torch may be a build without CUDA."""

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
        name: as its driver calls it.
        compute_capability: such as ``7.0``.
        driver: version.
        memory_mb: in all, 2^20 bytes.
        most_mhz, now_mhz: clock of the multiprocessors: the highest there is, and at this moment.
    """

    name: str
    compute_capability: str
    driver: str
    memory_mb: int
    most_mhz: int
    now_mhz: int

    @property
    def described(self) -> dict[str, str | int]:
        """What a measured profile says of it."""
        return {
            "gpu": self.name,
            "compute_capability": self.compute_capability,
            "driver": self.driver,
            "gpu_clock_mhz": self.now_mhz,
            "gpu_most_clock_mhz": self.most_mhz,
        }


def parse(text: str) -> list[Gpu]:
    """GPUs from what ``nvidia-smi --query-gpu`` prints as csv; lines of another form, such as errors, are none."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_FIELDS) and cells[1].replace(".", "", 1).isdigit():
            # "[N/A]" where the driver keeps no such figure.
            memory, most, now = (int(cell) if cell.isdigit() else 0 for cell in cells[3:])
            found.append(Gpu(cells[0], cells[1], cells[2], memory, most, now))
    return found


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where the driver's ``nvidia-smi`` is missing or fails. Asked once a process."""
    return _asked()


def at_work(gpu: Gpu) -> Gpu:
    """The same GPU with its clock as it is at this moment: right after timings, the clock that they were taken at."""
    return next((now for now in _asked() if (now.name, now.driver) == (gpu.name, gpu.driver)), gpu)


def _asked() -> tuple[Gpu, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        # One fixed program of the driver, no shell, and nothing in it comes from outside.
        done = subprocess.run(  # nosec B603
            [command, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(parse(done.stdout))


def here(compute_capability: str | None) -> list[Gpu]:
    """GPUs of a compute capability; None is any."""
    return [gpu for gpu in gpus() if compute_capability in (None, gpu.compute_capability)]
