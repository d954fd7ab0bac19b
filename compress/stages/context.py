"""`Run`: what every stage of a run needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compress.core.progress import Silent
from compress.options.run_config import RunConfig
from compress.stages.stage import Stages

if TYPE_CHECKING:
    from compress.inputs.load import Loaded
    from compress.profile.target import Target
    from compress.stages.device import Device


@dataclass(frozen=True)
class Run:
    """Options, inputs, progress and device of a run.

    Attributes:
        config: the options.
        loaded: checkpoint, target and examples.
        stages: times what is done, and gives stored results.
        opened: the target with the dense model on it; None before it is opened, or where a command needs none.
    """

    config: RunConfig
    loaded: Loaded
    stages: Stages
    opened: Device | None = None

    @classmethod
    def silent(cls, config: RunConfig, loaded: Loaded) -> Run:
        """A run that reports and stores nothing: single stages from Python.

        Args:
            config: the options.
            loaded: checkpoint, target and examples.
        """
        return cls(config, loaded, Stages(Silent()))

    @property
    def device(self) -> Device:
        """The target with the dense model on it."""
        assert self.opened is not None, "open_device comes first"
        return self.opened

    def on(self, device: Device) -> Run:
        """The same run on a device."""
        return replace(self, opened=device)

    def for_target(self, target: Target, name: str) -> Run:
        """The same run for another target.

        Args:
            target: the device.
            name: as ``--target`` takes it.
        """
        loaded, config = replace(self.loaded, target=target), self.config.model_copy(update={"target": name})
        return replace(self, config=config, loaded=loaded)

    def asking(self, **options: Any) -> Run:
        """The same run with other options."""
        return replace(self, config=self.config.model_copy(update=options))

    def info(self, text: str) -> None:
        """Report one line."""
        self.stages.info(text)
