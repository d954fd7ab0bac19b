"""Training over several processes: a step is that of one process with all the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.distributed.group import Group
from compress.fineprune.distill import Losses
from compress.fineprune.parallel import Feeder, combine
from compress.fineprune.recipe import Rates
from support.processes import together
from support.training import examples

SCRIPT = str(Path(__file__).parents[1] / "support" / "several_sessions.py")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_step_and_leave_nothing_out(world: int) -> None:
    data, rates = examples(22), Rates(epochs=1, batch_size=4, accumulate=2)
    feeders = [Feeder(data, rates, "0/a", torch.device("cpu"), Group(rank, world)) for rank in range(world)]
    alone = Feeder(data, rates, "0/a", torch.device("cpu"), Group())
    for step in (0, 5, 6, 11):
        rows = [tuple(r[r > 0].tolist()) for f in feeders for b, _ in f.parts(step) for r in b.inputs["input_ids"]]
        whole = [tuple(r[r > 0].tolist()) for b, _ in alone.parts(step) for r in b.inputs["input_ids"]]
        assert sorted(rows) == sorted(whole) and len(rows) in (2, 4)
        assert sum(share for feeder in feeders for _, share in feeder.parts(step)) == pytest.approx(1.0)


class Two(Group):
    """A group whose other process adds the same numbers."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def add(self, tensors: Any) -> None:
        for tensor in tensors:
            tensor *= 2


def test_what_no_process_has_stays_away() -> None:
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    used.grad = torch.tensor([1.0, 2.0])
    losses = combine([used, unused], [(Losses(torch.tensor(0.25), None, 0.5, None), 1.0)], Two())
    assert used.grad.tolist() == [2.0, 4.0] and unused.grad is None
    assert float(losses.total) == 0.5 and losses.hidden is None and losses.divergence is None and losses.labels == 1.0
    # A process without examples has gradients of the others.
    used.grad = None
    combine([used], [], Two())
    assert used.grad is None


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """With accumulation, uneven batches, an early stop, scores by movement, L0 and running Fisher information."""
    found = []
    # Movement is trained with dropout, which every process draws for itself: it is here for going on bit for bit.
    for world in (1, 2):
        directory = tmp_path / str(world)
        directory.mkdir()
        ended = together(SCRIPT, str(directory), "movement", "l0", "fisher", world=world)
        assert [code for code, _, _ in ended] == [0] * world, ended
        found.append(torch.load(directory / "found.pt", weights_only=False))
    one, two = found
    for scorer in ("l0", "fisher"):
        assert two[scorer].pop("structure") == one[scorer].pop("structure")
        ours, theirs = (logs.pop("logs") for logs in (two[scorer], one[scorer]))
        assert [len(rows) for rows in ours] == [len(rows) for rows in theirs]
        for name, value in one[scorer].items():
            # What softmax takes away has no gradient but rounding, which Adam makes as large as any other.
            if not name.endswith("key.bias"):
                assert torch.allclose(two[scorer][name], value, rtol=1e-3, atol=1e-5), name
    # Gone on from the middle, with as many processes: the very same.
    for world in found:
        resumed, whole = world["resumed"], world["movement"]
        assert resumed.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.equal(resumed[name], value) if isinstance(value, torch.Tensor) else resumed[name] == value, (
                name
            )
