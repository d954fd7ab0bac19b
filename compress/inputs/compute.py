"""Where PyTorch computes (``--device``): checked, chosen when it is first needed, and given up where it is too small.

It is another thing than the target, where the artifact will run. Everything reads the device from where the model's
weights lie; so the processor and a GPU share all code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from compress.core.errors import DeviceError
from compress.core.oom import out_of_memory
from compress.inputs.checkpoint import Checkpoint
from compress.inputs.devices import (
    GB,
    described,
    failed,
    gpus_to_try,
    name_of,
    processor,
    refuse_absent,
    several_processes,
    why_broken,
)
from compress.models.encoder import encoder_of
from compress.models.placement import free_bytes

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Examples in a batch of calibration, and of joint reconstruction.
USUAL = 32


@dataclass(frozen=True)
class Need:
    """About how much memory a model takes on a device.

    Attributes:
        fixed: bytes whatever the batch: weights of two models, gradients, moments, sums.
        example: bytes of the activations of one example, with their graph.
    """

    fixed: int
    example: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, seq_len: int) -> Need:
        """Estimate it from the sizes of the dense model.

        Args:
            checkpoint: the dense model.
            seq_len: tokens per example.
        """
        shape = checkpoint.encoder.shape
        weights = 4 * sum(parameter.numel() for parameter in checkpoint.model.parameters())
        inner, hidden, filters = shape.heads * shape.head_size, shape.hidden_size, shape.filters
        # Two sets of sums while calibration adds one up; in joint reconstruction teacher, student, its weights from
        # before, gradients and two moments; one layer's factorisation in float64.
        calibration = weights + 8 * shape.layers * (inner**2 + filters**2 + 2 * hidden**2)
        joint = 6 * weights + 32 * filters**2
        states = 9 * hidden + (3 + shape.gated) * filters + shape.heads * seq_len
        return cls(max(calibration, joint), 4 * seq_len * shape.layers * states)

    def bytes(self, examples: int) -> int:
        """With so many examples at once."""
        return self.fixed + examples * self.example

    def __str__(self) -> str:
        usual, least = self.bytes(USUAL) / GB, self.bytes(1) / GB
        return f"about {usual:.1f} GB with {USUAL} examples at once, {least:.1f} GB with one"


class Compute:
    """Where PyTorch computes in a run.

    Args:
        asked: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        need: memory that the model takes; None if it is not known.
        say: told what ``auto`` takes, and when a device is given up; None tells nobody.
    """

    def __init__(self, asked: str = "cpu", need: Need | None = None, say: Callable[[str], None] | None = None) -> None:
        self._asked, self._need, self._say = asked, need, say or (lambda _: None)
        self._device: torch.device | None = None
        # Whether an operator that cannot repeat its sums is an error, so that it is noticed.
        self._strict = True

    @classmethod
    def at(cls, device: torch.device, asked: str = "auto", say: Callable[[str], None] | None = None) -> Compute:
        """On a device that is known to be there.

        Args:
            device: the device.
            asked: whether it may be given up (``auto``).
            say: told when it is given up; None tells nobody.
        """
        found = cls(asked, say=say)
        found._device = device
        return found

    @property
    def device(self) -> torch.device:
        """The device, chosen at the first call.

        Raises:
            DeviceError: the one asked for is not there, or does not work.
        """
        if self._device is None:
            self._device = self._choose()
            if self._device.type != "cpu":
                self._say(f"PyTorch computes on {described(self._device)}")
        return self._device

    @property
    def on_processor(self) -> bool:
        """Whether that is the processor."""
        return self.device.type == "cpu"

    def inputs(self) -> dict[str, Any]:
        """What results depend on, as plain JSON types: nothing on the processor, else which device it is."""
        if self.on_processor:
            return {}
        return {"device": {"type": self.device.type, "name": name_of(self.device)}}

    def facts(self) -> dict[str, Any]:
        """The device for the manifest: empty on the processor, and where nothing was computed."""
        found = {} if self._device is None else self.inputs()
        return {"computed_on": found["device"]} if found else {}

    @contextmanager
    def on(self, checkpoint: Checkpoint) -> Iterator[Checkpoint]:
        """The dense model where PyTorch computes, while the block runs.

        Args:
            checkpoint: on the processor; it stays there.

        Yields:
            The checkpoint itself on the processor, else a copy.
        """
        if self.on_processor:
            yield checkpoint
            return
        model = copy.deepcopy(checkpoint.model).to(self.device)
        try:
            yield replace(checkpoint, model=model, encoder=encoder_of(model))
        finally:
            # Whoever still holds the copy holds no memory of the device.
            with suppress(RuntimeError):
                model.to("meta")

    def attempt(self, work: Callable[[], T], *, alone: bool = True) -> T:
        """Do some work there, and once more on the processor where ``auto`` chose a device that is too small.

        Args:
            work: uses ``device`` or ``on``, and can be done again.
            alone: whether this process computes alone: only then it may give the device up.

        Raises:
            DeviceError: the device is too small, or it failed.
        """
        while not self.on_processor:
            device = self.device
            try:
                with _settings(device, strict=self._strict and alone):
                    return work()
            except (MemoryError, RuntimeError) as error:
                warning = self._way_on(error, alone)
            finally:
                _release(device)
            # Only here the error is gone, and with it the tensors that its traceback kept alive.
            self._say(f"warning: {warning}")
        return work()

    def _way_on(self, error: Exception, alone: bool) -> str:
        """Change what the next attempt does, and return what to say of it; raises where there is none."""
        if self._strict and alone and "deterministic" in str(error):
            self._strict = False
            operator = str(error).split()[0]
            return f"{operator} of {self.device} has no order of sums that repeats: two runs may differ by rounding"
        problem = self._problem(error)
        if problem is None:
            raise error
        if not (out_of_memory(error) and self._asked == "auto" and alone):
            raise DeviceError(problem) from None
        self._device = processor()
        return f"{problem.partition(';')[0]}: PyTorch goes on on the processor"

    def _problem(self, error: Exception) -> str | None:
        """What to say of an error of the device; None if it is not one."""
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, MemoryError) or "cpuallocator" in said.lower():
            return None  # of the host
        if out_of_memory(error):
            needed = "" if self._need is None else f", and this model needs {self._need}"
            return (
                f"{self.device} ran out of memory even with one example at once{needed}; free some (nvidia-smi shows "
                "who holds it), use a shorter --seq-len, or take the processor: --device cpu"
            )
        if not failed(error):
            return None
        return (
            f"{self.device} failed in the middle ({said}); nothing was written. See whether it is still there "
            "(nvidia-smi, the log of its driver) and give the same command with --resume: finished stages are kept. "
            "With --device cpu as well it goes on without the GPU, and computes again what the GPU had computed"
        )

    def _choose(self) -> torch.device:
        import torch

        if self._asked == "cpu":
            return processor()
        if self._asked == "auto":
            return self._room()
        refuse_absent(self._asked)
        if ":" in self._asked and several_processes():
            raise DeviceError(
                f"--device {self._asked} names one GPU, and several processes compute together; with --device cuda "
                "each takes its own"
            )
        device = torch.device(self._asked)
        if self._asked == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        broken = why_broken(device)
        if broken is not None:
            raise DeviceError(
                f"--device {self._asked}: {name_of(device)} does not work ({broken}); this PyTorch may be built for "
                "other GPUs (`compress doctor` shows both), or take the processor: --device cpu"
            )
        return device

    def _room(self) -> torch.device:
        """The first GPU that works and has room; the processor where none has."""
        for device in gpus_to_try():
            broken = why_broken(device)
            if broken is not None:
                self._say(f"warning: {device} does not work ({broken})")
                continue
            free = free_bytes(device)
            if free is None or self._need is None or free >= self._need.bytes(1):
                return device
            self._say(
                f"warning: {device} has {free / GB:.1f} GB free, and this model needs {self._need}: PyTorch computes "
                "on the processor"
            )
        return processor()


@contextmanager
def _settings(device: torch.device, strict: bool) -> Iterator[None]:
    """The device as the process's current one, and sums in the same order every time, as far as torch can.

    Only where anything else is an error, torch repeats the fused attention's gradients. Else it is computed in parts.
    """
    import warnings

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    with ExitStack() as undo:
        undo.enter_context(torch.cuda.device(device))
        undo.callback(lambda: torch.use_deterministic_algorithms(before[0], warn_only=before[1]))
        undo.callback(setattr, deterministic, "fill_uninitialized_memory", filled)
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        deterministic.fill_uninitialized_memory = False
        if not strict:
            undo.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            undo.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _release(device: torch.device) -> None:
    """Give back what PyTorch keeps for later: the target's runtime may want it."""
    import torch

    with suppress(RuntimeError):
        if device.type == "cuda":
            torch.cuda.empty_cache()
        elif device.type == "mps":
            torch.mps.empty_cache()
