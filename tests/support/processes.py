"""Several real processes on this machine, as a launcher starts them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# Far more than any of it takes, so that a test which hangs fails instead.
SECONDS = 600


def environment(rank: int, world: int, port: int, **more: str) -> dict[str, str]:
    """What torchrun sets."""
    places = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    # A name that only the launcher sets: without it the others are waited for half a minute.
    launcher = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1"}
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        **{name: str(value) for name, value in places.items()},
        **launcher,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
        **more,
    }


def start(arguments: Sequence[str], world: int = 2, **more: str) -> list[subprocess.Popen[str]]:
    """Python with these arguments, in so many processes that are to meet; the first one first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(rank, world, port, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(started: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of every process; none is left behind.

    Without the line about slow others: whether it comes depends on the machine's load.
    """
    try:
        ended = [process.communicate(timeout=SECONDS) for process in started]
        return [
            (process.returncode, out, re.sub(r"(?m)^waiting for the other process.*\n", "", err))
            for process, (out, err) in zip(started, ended, strict=True)
        ]
    finally:
        for process in started:
            process.kill()
            process.wait()


def together(*arguments: str, world: int = 2, **more: str) -> list[tuple[int, str, str]]:
    """``start`` and ``finish``."""
    return finish(start(arguments, world, **more))
