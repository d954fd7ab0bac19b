"""Processes that talk: what one gives all have, what one cannot do the first says, and nobody waits for the dead."""

from __future__ import annotations

import pytest
import torch

from compress.distributed.group import Group, Place, joined, meant_to_be_several, place
from support.processes import together

MET = "import os, sys, torch; from compress.distributed.group import LostProcess, meet, place; g = meet(place())\n"


def test_a_launcher_says_where_a_process_is() -> None:
    meeting = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", **meeting}
    assert place(torchrun) == Place(3, 4, 2)
    mpi = {"PMI_RANK": "1", "PMI_SIZE": "2", **meeting}
    assert place(mpi) == Place(1, 2, 1)
    assert place({}) is place({"RANK": "0", "WORLD_SIZE": "1", **meeting}) is None
    # Set in many containers, without anything to meet at.
    assert place({"RANK": "0", "WORLD_SIZE": "8"}) is None


def test_one_process_in_the_place_of_several_is_noticed() -> None:
    accelerate = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert meant_to_be_several(accelerate)
    assert not meant_to_be_several({"ACCELERATE_MIXED_PRECISION": "no"})
    assert not meant_to_be_several({**accelerate, "WORLD_SIZE": "2", "RANK": "0"})


def test_alone_there_is_nobody_to_talk_to() -> None:
    group, values = joined(), [torch.ones(2)]
    assert group.world == 1 and group.first
    assert group.share({"a": 1}, {"t": values[0]}) == ({"a": 1}, {"t": values[0]})
    group.add(values)
    with group.busy(), group.agreeing():
        pass
    group.leave()
    assert torch.equal(values[0], torch.ones(2)) and Group().first


def test_processes_share_and_add() -> None:
    script = MET + (
        "given = {'b': torch.tensor([True, False]), 'd': torch.arange(6.).double().view(2, 3), 'o': torch.tensor(7),\n"
        "         'e': torch.empty(0, 3), 'h': torch.tensor([1.5], dtype=torch.bfloat16)}\n"
        "facts, tensors = g.share({'list': [1, None, 'x']}, given) if g.first else g.share()\n"
        "assert facts == {'list': [1, None, 'x']}, facts\n"
        "assert all(torch.equal(tensors[n], t) and tensors[n].dtype == t.dtype for n, t in given.items())\n"
        "own = [torch.full((2, 2), 1.0 + g.rank), torch.tensor(10.0 * g.rank)]\n"
        "g.add(own)\n"
        "assert own[0].tolist() == [[3.0, 3.0]] * 2 and float(own[1]) == 10.0\n"
        "try:\n"
        "    with g.agreeing():\n"
        "        if g.rank == 1:\n"
        "            raise LostProcess.__mro__[1]('no disk')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
        "g.leave() if g.first else g.share()\n"
        # As the command does: threads of gloo may abort an interpreter that is being taken down.
        "sys.stdout.flush(); os._exit(0)\n"
    )
    first, second = together("-c", script)
    assert first[0] == second[0] == 0, (first, second)
    assert first[1] == "CompressError process 1: no disk\n" and second[1].startswith("Told")


@pytest.mark.slow
def test_nobody_waits_for_the_dead() -> None:
    from compress.core.errors import EXIT_ERROR

    killed = (
        "import os, signal, sys; import compress.cli.main; from compress.__main__ import main\n"
        "sys.modules['compress.cli.main'].main = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.argv = ['compress', 'run']; main()"
    )
    first, second = together("-c", killed)
    assert first[0] == -9 and second[0] == EXIT_ERROR and second[2] == ""
    # And the first, in the middle of something.
    first, second = together("-c", MET + "os._exit(7) if not g.first else g.add([torch.ones(1)])")
    assert second[0] == 7 and first[0] == 1 and "LostProcess: another process of this run has ended" in first[2]
