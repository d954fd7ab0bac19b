"""The latency table of every precision that can meet the budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from compress.core.errors import BudgetUnreachable
from compress.inputs.load import Loaded
from compress.options.run_config import RunConfig
from compress.profile.target import check_device, offered_precisions
from compress.search.costs import budget_limit
from compress.stages.context import Stages
from compress.stages.device import Device
from compress.stages.search import room_of

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.profile.take import Profile


def profiles_of(config: RunConfig, loaded: Loaded, device: Device, stages: Stages) -> list[tuple[Engine, Profile]]:
    """Engine and profile of every precision in question."""
    given = given_profile(config, loaded)
    found = []
    for precision in offered_precisions(loaded.target, config.precision if given is None else given.precision):
        engine = device.settle(precision, loaded)
        found.append((engine, given or device.take_profile(config, loaded, engine, stages)))
    return found


def given_profile(config: RunConfig, loaded: Loaded) -> Profile | None:
    """The profile of ``--profile``, checked against this model and deployment; None where none was given."""
    if config.profile is None:
        return None
    from compress.profile.profiles import Profiles

    profile = Profiles.read(config.profile).at(
        loaded.shape,
        config.batch_size,
        config.seq_len,
        loaded.target,
        None if config.precision == "auto" else config.precision,
    )
    check_device(profile.device, loaded.target)
    return profile


def reachable(
    config: RunConfig,
    loaded: Loaded,
    profiles: Sequence[tuple[Engine, Profile]],
    device: Device,
    stages: Stages,
) -> list[tuple[Engine, Profile]]:
    """Those that can meet the budget at all.

    Raises:
        BudgetUnreachable: none can.
    """
    found: list[tuple[Engine, Profile]] = []
    unreachable: BudgetUnreachable | None = None
    for engine, profile in profiles:
        try:
            budget_limit(config.budget, loaded.shape, profile, loaded.length)
            room = room_of(config, loaded, engine.precision, partial(device.dense_bytes, loaded, engine))
            if room is not None:
                room.check()
            found.append((engine, profile))
        except BudgetUnreachable as error:
            stages.info(f"{engine.precision}: {error}")
            unreachable = error
    if not found and unreachable is not None:
        raise unreachable
    return found
