"""Checkpoints of a training: one safetensors file, whole or not at all; no pickle.

Random values of a training are drawn from seeds and step numbers. So weights, optimizer, scores and the step are enough
to continue bit for bit.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compress.core.errors import ArtifactError

if TYPE_CHECKING:
    from torch.optim import Optimizer

FILE, PENDING = "training.safetensors", "training.partial"
# Version of the content: a checkpoint of another version is refused, like one of another training.
FORMAT = 2


class Checkpoints:
    """A directory with the last good checkpoint of one training.

    A state is good when the loss of the next step is finite: ``save`` writes it beside the checkpoint, ``confirm``
    puts it in the checkpoint's place.

    Args:
        directory: made when missing.
        fingerprint: of everything that the training depends on; another's checkpoint is refused.
        minutes: between checkpoints.

    Raises:
        ArtifactError: the directory holds something else, or cannot be written.
    """

    def __init__(self, directory: Path, fingerprint: str, minutes: float = 5.0) -> None:
        self.directory, self._fingerprint, self._seconds = directory, f"{FORMAT}/{fingerprint}", 60 * minutes
        self._saved, self._pending = time.monotonic(), False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # A pending file is from a killed process: not confirmed, perhaps not wholly written.
            found = sorted(path.name for path in directory.iterdir() if path.name != PENDING)
        except OSError as error:
            raise ArtifactError(
                f"cannot use '{directory}' for checkpoints: {error.strerror}; choose another --checkpoints"
            ) from None
        if found and FILE not in found:
            raise ArtifactError(
                f"'{directory}' is not a directory of training checkpoints (it has '{found[0]}'); choose another "
                "--checkpoints"
            )
        with suppress(OSError):
            (directory / PENDING).unlink()

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.directory / FILE).is_file()

    @property
    def due(self) -> bool:
        """Whether it is time to save another state."""
        return time.monotonic() - self._saved >= self._seconds

    def save(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write a state. It becomes the checkpoint when it is confirmed.

        Args:
            facts: plain JSON types.
            tensors: by name.

        Raises:
            ArtifactError: it cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self.directory / PENDING
        metadata = {"fingerprint": self._fingerprint, "facts": json.dumps(facts)}
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, str(path), metadata)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"cannot write a checkpoint to '{path}': {error}; free some space") from None
        self._saved, self._pending = time.monotonic(), True

    def confirm(self) -> None:
        """Make the last saved state the checkpoint; does nothing if it is that already.

        Raises:
            ArtifactError: the file cannot be renamed.
        """
        if not self._pending:
            return
        try:
            os.replace(self.directory / PENDING, self.directory / FILE)
        except OSError as error:
            raise ArtifactError(f"cannot write a checkpoint to '{self.directory}': {error.strerror}") from None
        self._pending = False

    def discard(self) -> None:
        """Delete a state that was saved and not confirmed."""
        if self._pending:
            self._pending = False
            with suppress(OSError):
                (self.directory / PENDING).unlink()

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Facts and tensors of the checkpoint; None if nothing has been confirmed yet.

        Raises:
            ArtifactError: it is damaged, or of another training.
        """
        from safetensors import SafetensorError, safe_open

        path = self.directory / FILE
        if not path.exists():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != self._fingerprint:
                    raise ArtifactError(
                        f"the checkpoint in '{self.directory}' is of another run (other model, data, budget, recipe "
                        "or seed, or another version of compress); choose another --checkpoints, or remove it"
                    )
                return json.loads(metadata["facts"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"the checkpoint '{path}' is damaged: {error}; remove it to begin anew") from None


def optimizer_tensors(prefix: str, optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer, as tensors by name.

    Args:
        prefix: of the names.
        optimizer: after at least one step; before that there are no tensors.
    """
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{key}": value for i, values in state.items() for key, value in values.items()}


def fill_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state of an optimizer, in place.

    Args:
        optimizer: over the same parameters as the saved one.
        tensors: of ``optimizer_tensors``, without their prefix.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        # The optimizer's step count stays on the processor, wherever the weights are.
        state.setdefault(int(number), {})[key] = tensor.cpu() if key == "step" else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
