"""Sums in shards: the same bits whatever the number of processes, drawn numbers included; errors come to the first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from compress.calibration.accumulate import Passes
from compress.calibration.curvature import curvature
from compress.calibration.fisher import fisher_information
from compress.core.errors import DataError
from compress.distributed.group import Group, Told
from compress.distributed.sharded_sum import SHARDS
from compress.models.encoder import encoder_of
from compress.tasks import TASKS
from support.examples import examples
from support.models import random_model
from support.virtual_device import VIRTUAL, virtual_device

T = TypeVar("T")
TASK = TASKS["text-classification"]


class Threads(Group):
    """Threads in the place of processes."""

    def __init__(self, rank: int, channels: Sequence[Queue[Any]]) -> None:
        super().__init__(rank, len(channels))
        self._channels = channels

    def report(self, error: Exception | None) -> None:
        self._channels[self.rank].put(error)

    def hear(self, rank: int) -> None:
        error = self._channels[rank].get(timeout=60)
        if error is not None:
            raise error

    @contextmanager
    def telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.report(error)
            raise Told from error

    def send(self, tensors: Sequence[Tensor]) -> None:
        self._channels[self.rank].put([tensor.clone() for tensor in tensors])

    def receive(self, rank: int, into: Sequence[Tensor]) -> None:
        for tensor, part in zip(into, self._channels[rank].get(timeout=60), strict=True):
            tensor += part


def with_processes(world: int, work: Callable[[Group], T]) -> T:
    """What the first of so many has."""
    channels: list[Queue[Any]] = [Queue() for _ in range(world)]

    def other(rank: int) -> None:
        with suppress(Told):
            work(Threads(rank, channels))

    threads = [threading.Thread(target=other, args=(rank,), daemon=True) for rank in range(1, world)]
    for thread in threads:
        thread.start()
    try:
        return work(Threads(0, channels))
    finally:
        for thread in threads:
            thread.join(timeout=60)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("count", [3, 40])
def test_fisher_information_does_not_depend_on_the_number_of_processes(count: int, labels: bool) -> None:
    data = examples(count, labels=labels)

    def work(group: Group) -> Any:
        encoder = encoder_of(random_model("bert"))
        return fisher_information(encoder, TASK, data, Passes(seed=3, batch_size=3, group=group), blocks=True)

    alone = fisher_information(encoder_of(random_model("bert")), TASK, data, Passes(seed=3, batch_size=3), blocks=True)
    for world in (2, 3, SHARDS + 1):
        found = with_processes(world, work)
        for name in ("heads", "filters", "head_blocks", "filter_blocks"):
            assert (getattr(found, name) == getattr(alone, name)).all(), (world, name)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_curvature_does_not_depend_on_the_number_of_processes(family: str) -> None:
    data = examples(40)

    def work(group: Group | None) -> Any:
        return curvature(encoder_of(random_model(family)), TASK, data, Passes(seed=3, batch_size=3, group=group))

    alone = work(None)
    for world in (2, 5):
        found = with_processes(world, work)
        assert found.keys() == alone.keys()
        for key in alone:
            assert torch.equal(found[key].inputs, alone[key].inputs)
            assert torch.equal(found[key].outputs, alone[key].outputs)


def test_the_first_says_what_another_could_not_do() -> None:
    def work(group: Group) -> Any:
        model = random_model("bert")
        if not group.first:
            with torch.no_grad():
                model.classifier.weight[:] = float("inf")
        return curvature(encoder_of(model), TASK, examples(40), Passes(batch_size=3, group=group))

    with pytest.raises(DataError, match="not finite"):
        with_processes(2, work)


def test_sums_on_a_device_travel_by_way_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process sends is what gloo takes, and what it receives is added where the sum lies."""
    sent: list[Tensor] = []

    def receive(tensor: Tensor, *_: Any, **__: Any) -> None:
        tensor.copy_(sent.pop(0))

    def send(tensor: Tensor, *_: Any, **__: Any) -> None:
        assert type(tensor) is Tensor and tensor.device.type == "cpu"
        sent.append(tensor.clone())

    monkeypatch.setattr(torch.distributed, "send", send)
    monkeypatch.setattr(torch.distributed, "recv", receive)
    with virtual_device():
        total, part = torch.ones(2, 3).to(VIRTUAL), torch.full((2, 3), 4.0).to(VIRTUAL)
        Group(1, 2).send([part])
        Group(0, 2).receive(1, [total])
        assert total.device == VIRTUAL and torch.equal(total.cpu(), torch.full((2, 3), 5.0))
