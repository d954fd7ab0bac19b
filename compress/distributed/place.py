"""This process's place among those of a launcher, by the variables that launchers set.

The variables alone prove nothing: they stay in the environment of interactive nodes, notebooks and programs that a
launched process starts. Signs of a launcher are names that nobody sets by hand.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compress.core.errors import ConfigError

# The names that torchrun uses, and those of the MPI implementations through which accelerate starts processes.
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_NUMBER = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
# The processes of a launcher start within minutes of each other. Without a sign of a launcher the variables may be left
# over. A store of torchrun runs before its processes start, so it answers within the shorter time, too.
MEETING_SECONDS, UNSURE_SECONDS = 600.0, 30.0
SECONDS_VARIABLE = "COMPRESS_MEETING_SECONDS"


@dataclass(frozen=True)
class Place:
    """The place of this process among those of a launcher.

    Attributes:
        rank: 0 for the first.
        world: processes in all.
        local: processes on this machine.
        launched: whether a launcher is seen; without one the variables may be left over from something else.
        number: of the process among those on this machine, 0 for the first: it takes the GPU of that number.
    """

    rank: int
    world: int
    local: int
    launched: bool = field(default=True, compare=False)
    number: int = field(default=0, compare=False)


def place(environment: Mapping[str, str] | None = None) -> Place | None:
    """This process's place among several; None if it is alone."""
    found = os.environ if environment is None else environment
    rank, world = _number(found, _RANK), _number(found, _WORLD)
    if rank is None or world is None or world < 2 or not {"MASTER_ADDR", "MASTER_PORT"} <= set(found):
        return None
    local, own = _number(found, _LOCAL) or 1, _number(found, _NUMBER)
    return Place(rank, world, local, _launched(found, rank, world), rank % local if own is None else own)


def _launched(environment: Mapping[str, str], rank: int, world: int) -> bool:
    """Whether a launcher that is known has started this process. Names that users set themselves do not count."""
    if "TORCHELASTIC_RUN_ID" in environment or {"CROSS_RANK", "CROSS_SIZE"} <= set(environment):
        return True  # torchrun, accelerate launch; deepspeed
    pairs = [*zip(_RANK[1:], _WORLD[1:], strict=True), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")]
    return any((environment.get(a), environment.get(b)) == (str(rank), str(world)) for a, b in pairs)


def meant_to_be_several(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is alone although its launcher was asked for more: accelerate with --cpu, without MPI."""
    found = os.environ if environment is None else environment
    return "ACCELERATE_MIXED_PRECISION" in found and "MASTER_ADDR" in found and _number(found, _WORLD) is None


def _number(environment: Mapping[str, str], names: Sequence[str]) -> int | None:
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), None)


def meeting_seconds(where: Place, environment: Mapping[str, str] | None = None) -> float:
    """Return how long to wait for the others, in seconds: ten minutes under a launcher, else half a minute.

    Args:
        where: this process's place.
        environment: None takes the process's.

    Raises:
        ConfigError: the user's own limit is not a number of seconds.
    """
    text = (os.environ if environment is None else environment).get(SECONDS_VARIABLE, "")
    if not text:
        return MEETING_SECONDS if where.launched else UNSURE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{SECONDS_VARIABLE} is '{text}'; set it to a number of seconds, as 600, or unset it")
    return seconds


def remedy() -> str:
    """Return what to do where the processes do not meet, in words."""
    names = [name for name in (*_RANK, *_WORLD) if name in os.environ]
    return f"if this one is alone, unset {' '.join(names)}; if not, start the others (torchrun, accelerate launch)"
