"""Several processes of one run (torchrun, accelerate): who is the first, and how they talk.

The first process is the command: it reads, exports, profiles, searches, writes and prints. The others wait until it has
something to share (``pipeline/helper.py``), and end when it does. They exchange JSON and the bytes of tensors, no
pickle. If a process is lost, the connections of its neighbours break, and all processes end.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from compress.core import errors
from compress.core.cores import usable_cores
from compress.core.errors import CompressError
from compress.core.waiting import in_background
from compress.distributed.place import MEETING_SECONDS, UNSURE_SECONDS, meeting_seconds, remedy
from compress.distributed.place import SECONDS_VARIABLE as SECONDS_VARIABLE
from compress.distributed.place import Place as Place
from compress.distributed.place import meant_to_be_several as meant_to_be_several
from compress.distributed.place import place as place

if TYPE_CHECKING:
    from torch import Tensor

# How long the first may measure while the others wait for it.
WAITING = timedelta(days=14)
_KNOCK_SECONDS = 0.2


class LostProcess(CompressError):
    """Another process of the run has ended, or does not answer."""


class Told(Exception):
    """An error that the first process knows already, and reports."""


class Group:
    """The processes of a run; by default this one alone.

    All processes call every method at the same point, except ``send`` and ``receive``. With one process the methods do
    nothing.

    Args:
        rank: of this process; 0 is the first.
        world: number of processes.
        channel: process group over gloo; None with one process.

    Attributes:
        rank: of this process; 0 is the first.
        world: how many there are.
    """

    def __init__(self, rank: int = 0, world: int = 1, channel: Any = None) -> None:
        self.rank, self.world = rank, world
        self._channel, self._busy = channel, False
        self._threads = 0, 0

    def use_threads(self, alone: int, shared: int) -> None:
        """Set the threads of the first process.

        Args:
            alone: while it computes alone; taken at once.
            shared: while all compute.
        """
        import torch

        self._threads = alone, shared
        torch.set_num_threads(alone)

    @property
    def first(self) -> bool:
        """Whether this process is the command."""
        return self.rank == 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A block that all processes run together. After an error in it a process can no longer talk to the others."""
        import torch

        alone, shared = self._threads
        self._busy = True
        if alone:
            torch.set_num_threads(shared)
        yield
        if alone:
            torch.set_num_threads(alone)
        self._busy = False

    def leave(self) -> None:
        """Tell the others that the command is done. Inside ``busy`` the broken connection tells them."""
        if self.world > 1 and not self._busy:
            self.share({"task": "end"})

    def share(
        self, facts: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Send facts and tensors from the first process to all.

        Args:
            facts: plain JSON types; only those of the first process count.
            tensors: by name; only those of the first process count.

        Returns:
            What the first process gave; on the others the tensors are on the processor.

        Raises:
            LostProcess: a process has ended.
        """
        given, values = dict(facts or {}), dict(tensors or {})
        if self.world == 1:
            return given, values
        import torch

        with self._talking():
            described = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in values.items()}
            text = json.dumps([given, described]).encode() if self.first else b""
            length = torch.tensor([len(text)])
            self._broadcast(length)
            content = _bytes(text) if self.first else torch.empty(int(length), dtype=torch.uint8)
            self._broadcast(content)
            given, described = json.loads(bytes(content.numpy()))
            for name, (kind, shape) in described.items():
                tensor = values[name].detach().cpu() if self.first else torch.empty(shape, dtype=getattr(torch, kind))
                # As bytes, since gloo does not carry every type.
                tensor = tensor.contiguous()
                self._broadcast(tensor.reshape(-1).view(torch.uint8))
                values[name] = tensor
            return given, values

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes, in place; with the same bits everywhere."""
        if self.world == 1 or not tensors:
            return
        import torch
        from torch import distributed

        # Tensors on GPUs go through NCCL, the group that all processes have in common.
        channel = self._channel if tensors[0].device.type == "cpu" else None
        with self._talking():
            flat = torch.cat([t.detach().reshape(-1).to(torch.float32) for t in tensors])
            distributed.all_reduce(flat, group=channel)
            start = 0
            for tensor in tensors:
                tensor.detach().copy_(flat[start : start + tensor.numel()].view_as(tensor))
                start += tensor.numel()

    def report(self, error: Exception | None) -> None:
        """Tell the first process whether a task failed, and how; its counterpart is ``hear``."""
        from torch import distributed

        facts: dict[str, str] = {}
        if error is not None:
            known = isinstance(error, CompressError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            facts = {"kind": type(error).__name__ if known else "", "text": f"process {self.rank}: {text}"}
        content = _bytes(json.dumps(facts).encode())
        with self._talking():
            distributed.send(_length(content), 0, group=self._channel)
            distributed.send(content, 0, group=self._channel)

    def hear(self, rank: int) -> None:
        """Wait for another process's ``report``.

        Raises:
            CompressError: that process reported an error.
        """
        import torch
        from torch import distributed

        with self._talking():
            length = torch.zeros(1, dtype=torch.int64)
            distributed.recv(length, rank, group=self._channel)
            content = torch.empty(int(length), dtype=torch.uint8)
            distributed.recv(content, rank, group=self._channel)
        facts = json.loads(bytes(content.numpy()))
        if facts:
            kind = getattr(errors, facts["kind"], CompressError) if facts["kind"] else CompressError
            raise kind(facts["text"])

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """A block that every process must complete before any continues.

        Raises:
            CompressError: on the first process, when another one failed.
            Told: on another process, after its own error.
        """
        if self.world == 1 or self.first:
            yield
            for rank in range(1, self.world):
                self.hear(rank)
            return
        with self.telling():
            yield
        self.report(None)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Report errors of the block to the first process, which waits in ``hear``.

        Raises:
            Told: after an error.
        """
        try:
            yield
        except LostProcess:
            raise
        except Exception as error:
            self.report(error)
            raise Told from error

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Send tensors to the first process."""
        from torch import distributed

        with self._talking():
            for tensor in tensors:
                distributed.send(tensor.cpu().contiguous().reshape(-1), 0, group=self._channel)

    def receive(self, rank: int, into: Sequence[Tensor]) -> None:
        """Receive tensors from another process and add them, in place.

        Args:
            rank: of the other process.
            into: tensors like those that it sends.
        """
        import torch
        from torch import distributed

        with self._talking():
            for tensor in into:
                buffer = torch.empty(tensor.numel(), dtype=tensor.dtype)
                distributed.recv(buffer, rank, group=self._channel)
                tensor += buffer.view_as(tensor).to(tensor.device)

    def _broadcast(self, tensor: Tensor) -> None:
        from torch import distributed

        if tensor.numel():
            distributed.broadcast(tensor, 0, group=self._channel)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            who = "another process of this run" if self.first else "the first process of this run"
            said = (str(error) or type(error).__name__).splitlines()[0][:120]
            raise LostProcess(f"{who} has ended or cannot be reached; what it said is above ({said})") from None


_joined = Group()


def joined() -> Group:
    """The processes that this one runs with: those of the launcher after ``meet``, before that this one alone."""
    return _joined


def meet(where: Place) -> Group:
    """Connect to the other processes of the launcher.

    While the first process computes alone, it uses the threads of all processes on its machine.

    Args:
        where: this process's place.

    Raises:
        LostProcess: they do not come, or do not answer.
        ConfigError: ``$COMPRESS_MEETING_SECONDS`` is not a number of seconds.
    """
    global _joined
    import torch

    if where.rank >= where.world:
        raise LostProcess(f"RANK {where.rank} does not fit WORLD_SIZE {where.world}: ranks count from 0; {remedy()}")
    limit = meeting_seconds(where)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    others = "the other process" if where.world == 2 else f"the other {where.world - 1} processes"
    try:
        group = in_background(
            lambda: _connected(where, limit),
            f"waiting for {others} of this run at {address}, for at most {limit:g} s (RANK {where.rank}, WORLD_SIZE "
            f"{where.world}); {remedy()}",
            limit=limit,
        )
    except TimeoutError:
        raise LostProcess(
            f"{others} of this run did not come to {address} within {limit:g} s; {remedy()}, or give them more time: "
            f"{SECONDS_VARIABLE}=600"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise LostProcess(
            f"the {where.world} processes of this run do not find each other: {str(error).splitlines()[0][:200]}; "
            f"{remedy()}"
        ) from None
    if where.rank == 0 and where.local > 1:
        own = torch.get_num_threads()
        group.use_threads(max(own, min(own * where.local, usable_cores())), own)
    _joined = group
    return group


def _connected(where: Place, limit: float) -> Group:
    """Return the processes when all are connected."""
    import torch
    from torch import distributed

    from_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if from_agent or where.rank > 0:
        # Before torch tries it: torch says every refusal on stderr, with the addresses of its functions.
        _knock(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), min(limit, UNSURE_SECONDS), from_agent)
    # What computes on "cuda" computes on this process's own one.
    on_gpus = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes")
    if on_gpus:
        torch.cuda.set_device(where.number % torch.cuda.device_count())
    timeout = timedelta(seconds=max(MEETING_SECONDS, limit))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=timeout, rank=where.rank, world_size=where.world
    )
    group = Group(where.rank, where.world, distributed.new_group(backend="gloo", timeout=WAITING))
    # gloo aborts a process whose connections are half made when another one ends, without a message. The first process
    # is the most likely to end early, over a user's mistake. So it continues when all are connected.
    with group.agreeing():
        pass
    return group


def _knock(host: str, port: int, seconds: float, launchers: bool) -> None:
    """Wait until somebody listens.

    Args:
        host: of the first process, or of the launcher.
        port: likewise.
        seconds: how long the launcher's own store may take.
        launchers: whether the launcher listens itself; that begins before its processes do.

    Raises:
        LostProcess: the launcher does not listen.
    """
    began = time.monotonic()
    while True:
        try:
            socket.create_connection((host, port), 5).close()
            return
        except OSError as error:
            if launchers and time.monotonic() - began > seconds:
                raise LostProcess(
                    f"the launcher of this run does not answer at {host}:{port} ({error}); {remedy()}"
                ) from None
        time.sleep(_KNOCK_SECONDS)


def _bytes(text: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _length(content: Tensor) -> Tensor:
    import torch

    return torch.tensor([content.numel()])
