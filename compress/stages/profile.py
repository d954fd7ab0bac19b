"""The latency table of every precision that can meet the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.core.errors import BudgetUnreachable, ProfileError
from compress.export.cuda import absence
from compress.export.lowering import variants
from compress.inputs.precisions import candidates
from compress.profile.device import check_device
from compress.profile.target import offered_precisions
from compress.search.costs import budget_limit
from compress.stages.context import Run
from compress.stages.search import size_limit_of

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.profile.take import Profile
    from compress.profile.target import Precision


def profiles_of(run: Run) -> list[tuple[Engine, Profile]]:
    """Engine and profile of every precision in question."""
    given = given_profile(run)
    found = []
    for precision in _asked(run, given):
        engine = run.device.fastest(precision)
        if given is not None and given.source == "measured" and given.engine != engine.name:
            engine = _form_of(given, run, precision) or engine
        if given is not None and given.source == "measured" and given.engine != engine.name:
            run.info(f"the profile was taken of {given.engine}, the file will be {engine.name}: latencies may differ")
        found.append((engine, given or run.device.take_profile(engine)))
    return found


def _form_of(profile: Profile, run: Run, precision: Precision) -> Engine | None:
    """The form that a profile was taken of, for a target that is elsewhere: it was chosen there, by measurement."""
    target = run.loaded.target
    if not target.on_gpu or absence(target) is None:
        return None
    offered = variants(target, precision, run.config.int8)
    return next((engine for engine in offered if engine.name == profile.engine), None)


def _asked(run: Run, given: Profile | None) -> tuple[Precision, ...]:
    """Of the number formats in question, the profile's where one was given."""
    config, target = run.config, run.loaded.target
    if given is None:
        return candidates(config, target)
    found = offered_precisions(target, given.precision)
    if config.keep is not None and given.precision not in config.formats:
        raise ProfileError(
            f"the profile is of {given.precision}, and --keep {config.keep} does not have it; add it there, or leave "
            "--profile out"
        )
    return found


def given_profile(run: Run) -> Profile | None:
    """The profile of ``--profile``, checked against this model and deployment; None where none was given.

    Raises:
        ProfileError: it is of another model, deployment or device.
    """
    config, loaded = run.config, run.loaded
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


def reachable(run: Run, profiles: Sequence[tuple[Engine, Profile]]) -> list[tuple[Engine, Profile]]:
    """Those that can meet the budget at all.

    Args:
        run: with its device.
        profiles: engine and profile of every precision in question.

    Raises:
        BudgetUnreachable: none can.
    """
    config, loaded = run.config, run.loaded
    found: list[tuple[Engine, Profile]] = []
    unreachable: BudgetUnreachable | None = None
    for engine, profile in profiles:
        try:
            budget_limit(config.budget, loaded.shape, profile, loaded.length)
            size_limit = size_limit_of(run, engine)
            if size_limit is not None:
                size_limit.check()
            found.append((engine, profile))
        except BudgetUnreachable as error:
            run.info(f"{engine.precision}: {error}")
            unreachable = error
    if not found and unreachable is not None:
        raise unreachable
    return found
