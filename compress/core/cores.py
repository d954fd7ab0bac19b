"""How many cores this process may use, and how its threads wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# About 30 microseconds of a spinning thread of GNU OpenMP; without this it spins for milliseconds.
_SPINS = "20000"


def usable_cores(*, root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Number of cores that this process may use.

    The least of: the affinity mask (all cores where the system has none), the CPU quota of the process's control group
    and those above it (``docker --cpus``), and ``OMP_NUM_THREADS``, but for the one that torchrun sets for its
    processes. It is asked for anew each time, since a quota may change.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's control groups.

    Returns:
        At least 1. A quota of 2.5 cores gives 2: a third thread would be stopped in the middle of every call.

    Source: Documentation/admin-guide/cgroup-v2.rst (``cpu.max``) and scheduler/sched-bwc.rst of the Linux kernel.
    """
    limits = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    limits += _quotas(root, own)
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        asked = ""
    if asked.isdecimal() and int(asked) > 0:
        limits.append(float(asked))
    return max(1, int(min(limits)))


def quota(*, root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPU quota of this process in cores; None without one.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's control groups.
    """
    return min(_quotas(root, own), default=None)


def wait_politely() -> None:
    """Let OpenMP's threads sleep after a short wait, unless the environment says how they wait.

    By default they spin for milliseconds. Beside another busy process they then keep the core from the very thread
    that they wait for. It has an effect only before the first import of torch.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _quotas(root: Path, own: Path) -> list[float]:
    return [found for folder in _groups(root, own) if (found := _quota_in(folder)) is not None]


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """This process's control groups, each with those above it, of version 2 and of version 1's cpu controller."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mounted in (root / controllers, root / "cpu") if controllers else (root,):
            group = mounted / path.lstrip("/")
            # Inside a container the mount shows its own group as the root, whatever the path says.
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mounted))


def _quota_in(folder: Path) -> float | None:
    """The quota that one group states, in cores; None without one."""
    try:
        if (folder / "cpu.max").is_file():
            limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
        elif (folder / "cpu.cfs_quota_us").is_file():
            limit = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        else:
            return None
        return float(limit) / float(period) if limit != "max" and float(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
