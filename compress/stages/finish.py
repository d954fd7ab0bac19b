"""Proposals carried out: units removed, the rest reconstructed, the file exported and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from compress.core.plan import Plan
from compress.inputs.load import Loaded
from compress.options.run_config import RunConfig
from compress.stages import cache_keys
from compress.stages.budget_use import corrected
from compress.stages.candidates import hopeless
from compress.stages.context import Stages
from compress.stages.device import Device
from compress.stages.int8_accuracy import refusal_of
from compress.stages.prune import prune
from compress.stages.results import Finished, Proposal, Repairs
from compress.stages.search import search_on_device

# Times that a structure is built, for the case that the finished file misses a budget that its check met.
ATTEMPTS = 2


def finish_promising(
    config: RunConfig, loaded: Loaded, proposals: Sequence[Proposal], device: Device, stages: Stages
) -> tuple[list[Finished], dict[str, str]]:
    """Carry out proposals, most promising first; and why others were not, by precision."""
    finished: list[Finished] = []
    set_aside: dict[str, str] = {}
    for proposal in proposals:
        reason = hopeless(proposal, finished)
        if reason is None:
            finished.append(finish(config, loaded, proposal, device, stages))
        else:
            set_aside[proposal.engine.precision] = reason
    return finished, set_aside


def finish(config: RunConfig, loaded: Loaded, proposal: Proposal, device: Device, stages: Stages) -> Finished:
    """Carry a proposal out: prune, reconstruct, export, measure; once more where the file misses the budget."""
    engine, plan, profile, importance = proposal.engine, proposal.plan, proposal.measured_with, proposal.weighed
    for attempt in range(1, ATTEMPTS + 1):
        # Take out what the plan does not keep, and fit what is left to the dense model.
        with stages.stage("reconstruct"):
            model, repairs = pruned(config, loaded, plan, stages)
        # Write the file and measure it.
        with stages.stage("export"):
            exported = stages.result(
                partial(cache_keys.export, config, loaded, engine, plan),
                partial(device.export, model, loaded, engine, config.int8_drop, stages),
            )
        stages.info(exported.summary())
        with stages.stage("validate"):
            found = stages.result(
                partial(cache_keys.validate, config, loaded, exported, plan, profile),
                partial(device.validate, plan, exported, loaded, profile),
            )
        validation = found.validation
        stages.info(validation.reason)
        refused = refusal_of(validation, exported, loaded, config.int8_drop)
        done = validation.verdict == "pass" or config.budget.kind == "macs" or config.profile or refused
        if done or found.timed is None or attempt == ATTEMPTS:
            break
        # The device has become slower, or the check was lucky: what the file itself shows counts.
        profile = corrected(profile, plan, found.timed)
        with stages.stage("search"):
            plan, profile = search_on_device(config, loaded, importance, profile, device, engine, stages)
    proposal = replace(proposal, profile=profile, plan=plan)
    return Finished(proposal, model, repairs, exported, validation, refused, found.outcomes)


def pruned(config: RunConfig, loaded: Loaded, plan: Plan, stages: Stages) -> tuple[Any, Repairs]:
    """The pruned model, repaired. A copy of the dense one is sooner made than stored."""
    if plan.structure.widths == plan.shape.dense:
        return prune(config, loaded, plan, stages)
    return stages.result(
        lambda: cache_keys.reconstruct(config, loaded, plan), lambda: prune(config, loaded, plan, stages)
    )
