"""What the processes of a run do together: the first begins a task, the others load what it needs and take part.

Examples come from the first process, so the others need no data, only the model, under the name that the first knows it
by; a model with other weights is refused.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.core.errors import EXIT_ERROR, EXIT_PASS, CompressError, ModelError, TrainingError
from compress.distributed.broadcast import unpacked
from compress.distributed.group import Group, LostProcess, Place, Told, meet

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data.batches import Encoded
    from compress.fineprune.session import TrainingSession
    from compress.inputs.checkpoint import Checkpoint
    from compress.inputs.compute import Compute
    from compress.options.run_config import RunConfig

# Commands with something to share; of the others the first process is enough.
COMMANDS = ("run", "plan", "sweep")


def take_part(where: Place, arguments: Sequence[str], command: Callable[[], int]) -> int:
    """Be one process of several: the command, or one that helps it.

    Args:
        where: this process's place.
        arguments: of the command line.
        command: runs it.

    Returns:
        The exit code.
    """
    if next((word for word in arguments if not word.startswith("-")), None) not in COMMANDS:
        # Variables that are left over must not make a gate pass without looking.
        return command() if where.rank == 0 or not where.launched else EXIT_PASS
    try:
        group = meet(where)
    except CompressError as error:
        return _failed(error)
    if not group.first:
        return serve(group)
    code = command()
    # Who ended before has said why; what the command did is done.
    with suppress(LostProcess):
        group.leave()
    return code


def serve(group: Group) -> int:
    """Take part in what the first process begins, until it is done; the exit code."""
    # Nothing here has to be put in order: an end from outside is an end at once, also while waiting for others.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    helper = _Helper(group)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = nowhere
        try:
            while True:
                facts, tensors = group.share()
                if facts["task"] == "end":
                    return EXIT_PASS
                helper.take_part(facts, tensors)
        except (LostProcess, Told):
            # The first process has said what there is to say.
            return EXIT_ERROR
        except CompressError as error:
            return _failed(error, group)
        except Exception as error:
            return _failed(CompressError(f"{type(error).__name__}: {error}"), group)
        finally:
            sys.stdout = sys.__stdout__


def _failed(error: Exception, group: Group | None = None) -> int:
    who = "" if group is None else f"process {group.rank}: "
    sys.stderr.write(f"error: {who}{error}\n")
    return EXIT_ERROR


class _Helper:
    """A process that is not the first, between tasks."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._session: TrainingSession | None = None

    def take_part(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Do this process's share of a task."""
        if facts["task"] == "calibrate":
            self._calibrate(facts, tensors)
        elif facts["task"] == "train":
            self._prepare_training(facts, tensors)
        elif self._session is not None:
            try:
                self._session.follow(facts, tensors)
            except TrainingError as error:
                # What stops a training is known to all processes at the same step; the first one says it.
                raise Told from error

    def _calibrate(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        from compress.calibration.calibrate import observe

        with self._group.agreeing():
            data = unpacked(facts["examples"], tensors)
            config, checkpoint, compute = _same_model(facts, data)

        def take_part() -> None:
            with compute.on(checkpoint) as dense:
                observe(config, dense, data, self._group)

        compute.attempt(take_part, alone=False)

    def _prepare_training(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        with self._group.agreeing():
            from compress.fineprune.prepare import load_teacher
            from compress.fineprune.prepared import Prepared
            from compress.fineprune.recipe import Recipe
            from compress.fineprune.session import TrainingSession

            calibration, train, held = (
                unpacked(
                    facts["examples"][name],
                    {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")},
                )
                for name in ("calibration", "train", "held")
            )
            config, checkpoint, compute = _same_model(facts, calibration)
            teacher = None
            if facts["teacher"] is not None:
                teacher = load_teacher(str(config.teacher), config, checkpoint)
                _refuse_other(str(config.teacher), teacher, facts["teacher"])
            prepared = Prepared(Recipe.model_validate_json(facts["recipe"]), teacher, train, held)
            self._session = TrainingSession(
                checkpoint, prepared, seed=config.seed, group=self._group, device=compute.device
            )


def _same_model(facts: dict[str, Any], calibration: Encoded) -> tuple[RunConfig, Checkpoint, Compute]:
    """The first process's options and model, and a device of the same kind as its own.

    Raises:
        DeviceError: there is none.
        ModelError: what lies under the model's name here has other weights.
    """
    from compress.inputs.load import load_model
    from compress.options.run_config import make_config

    config = make_config(facts["config"])
    loaded = load_model(config)
    checkpoint, compute = loaded.checkpoint, loaded.compute
    assert compute.device
    _refuse_other(str(config.model), checkpoint, facts["weights"])
    return config, replace(checkpoint, task=checkpoint.task.of_calibration(calibration)), compute


def _refuse_other(name: str, checkpoint: Checkpoint, fingerprint: str) -> None:
    if checkpoint.fingerprint != fingerprint:
        raise ModelError(
            f"'{name}' has other weights here than on the machine of the first process; every machine needs the same "
            "model under the same name"
        )
