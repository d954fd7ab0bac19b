"""Launcher variables in the environment without a launcher: said, with the remedy; ended by time or a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from compress import run
from compress.core.errors import EXIT_ERROR
from compress.distributed.place import Place
from compress.pipeline.helper import take_part
from support.processes import REPOSITORY
from support.runs import measure_briefly

pytestmark = pytest.mark.e2e


def leftover(rank: int, **more: str) -> dict[str, str]:
    """What an interactive node has left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in places.items()}, "MASTER_ADDR": "127.0.0.1", **more}


def started(folder: Path, rank: int, number: signal.Signals = signal.SIGTERM, **more: str) -> subprocess.Popen[str]:
    command = ["run", "model", "--data", "rows.csv", "--macs", "0.5", "--output", "out"]
    environment = {**os.environ, **leftover(rank, **more), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    return subprocess.Popen(
        [sys.executable, "-m", "compress", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_leftover_variables_time_out_with_the_remedy(rank: int, tmp_path: Path) -> None:
    with started(tmp_path, rank, COMPRESS_MEETING_SECONDS="3") as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == EXIT_ERROR and out == ""
    waiting, error = err.splitlines()
    assert waiting.startswith("waiting for the other process of this run at 127.0.0.1:")
    assert f"for at most 3 s (RANK {rank}, WORLD_SIZE 2)" in waiting
    assert error.startswith("error: the other process of this run did not come to 127.0.0.1:")
    assert all("unset RANK WORLD_SIZE" in line for line in (waiting, error))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "rank"), [(signal.SIGINT, 130, 0), (signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 1)], ids=str
)
def test_signals_end_the_wait_for_other_processes(number: signal.Signals, code: int, rank: int, tmp_path: Path) -> None:
    # Far longer than the signal has to take.
    with started(tmp_path, rank, number, COMPRESS_MEETING_SECONDS="100000") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for the other process")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code and out == ""
    assert err.endswith("; nothing was written\n") and "Traceback" not in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_leftover_variables_make_no_command_pass_without_work() -> None:
    called: list[int] = []
    where = Place(1, 2, 1, launched=False)
    assert take_part(where, ["gate", "out"], lambda: called.append(1) or 2) == 2
    assert called


@pytest.mark.slow
def test_leftover_variables_do_not_matter_to_python(
    one_layer: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    for name, value in leftover(1).items():
        monkeypatch.setenv(name, value)
    done = run(
        str(one_layer),
        data=str(data_csv),
        eval_data=str(data_csv),
        macs=0.9,
        effort="fast",
        seq_len=16,
        samples=16,
        allow_chance=True,
        output=str(tmp_path / "out"),
    )
    assert (tmp_path / "out" / "manifest.json").is_file() and done.plan is not None
