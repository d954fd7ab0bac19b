"""Whether a launcher has started this process, or its variables are left over: by names that nobody sets by hand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compress.core.errors import ConfigError
from compress.distributed import group
from compress.distributed.group import LostProcess, meet
from compress.distributed.place import Place, meeting_seconds, place
from support.processes import REPOSITORY

PLAIN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "launched"),
    [
        (PLAIN, False),
        ({**PLAIN, "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}, False),
        # Set for all jobs in many images.
        ({**PLAIN, "ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "1"}, False),
        ({**PLAIN, "TORCHELASTIC_RUN_ID": "none"}, True),
        ({**PLAIN, "CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": "2"}, True),
        ({**MEETING, "PMI_RANK": "1", "PMI_SIZE": "2"}, True),
        ({**MEETING, "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({**PLAIN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}, True),
        # An interactive step of one task in an allocation of several.
        ({**PLAIN, "RANK": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2"}, False),
        ({**PLAIN, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, False),
    ],
)
def test_a_launcher_is_told_from_leftovers(environment: dict[str, str], launched: bool) -> None:
    where = place(environment)
    assert where is not None and where.world == 2 and where.launched == launched
    assert meeting_seconds(where, environment) == (600 if launched else 30)


def test_the_user_may_give_them_more_time() -> None:
    where = Place(0, 2, 1, launched=False)
    assert meeting_seconds(where, {"COMPRESS_MEETING_SECONDS": "900"}) == 900
    for text in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(ConfigError, match=f"COMPRESS_MEETING_SECONDS is '{text}'; set it to a number of seconds"):
            meeting_seconds(where, {"COMPRESS_MEETING_SECONDS": text})


def test_a_rank_beyond_the_world_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LostProcess, match=r"RANK 2 does not fit WORLD_SIZE 2.*unset RANK WORLD_SIZE"):
        meet(Place(2, 2, 1))


def test_a_launcher_that_has_gone_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "UNSURE_SECONDS", 0.3)
    for name, value in {**PLAIN, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    where = place()
    assert where is not None and where.launched
    with pytest.raises(LostProcess, match=r"launcher of this run does not answer at 127\.0\.0\.1:1 .*unset RANK WORLD"):
        meet(where)


def test_python_programs_join_nobody() -> None:
    """Nor wait for the processes that leftover variables promise."""
    script = (
        "from compress.distributed.group import joined\n"
        "from support.training import PHASE, dense, examples, recipe, training_session\n"
        "one = training_session(dense(), recipe(weights={**PHASE, 'epochs': 1.0}), examples(8), examples(8))\n"
        "import torch; print(joined().world, one.device, torch.distributed.is_initialized())"
    )
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **PLAIN, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == "1 cpu False\n", done.stderr
