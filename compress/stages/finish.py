"""Proposals carried out: units removed, the rest reconstructed, the file exported and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compress.core.plan import Plan
from compress.stages import cache_codecs
from compress.stages.cache_keys import deployment_inputs, device_inputs, digest, target_inputs
from compress.stages.candidates import hopeless
from compress.stages.context import Run
from compress.stages.dense_model import EXPORTERS
from compress.stages.int8_accuracy import refusal_of
from compress.stages.present_device import RUNTIMES
from compress.stages.prune import prune, reconstruction_inputs
from compress.stages.results import Evaluated, Exported, Finished, Proposal
from compress.stages.search import search_again
from compress.stages.stage import Inputs, Stage, stage

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.profile.take import Profile

# Times that a structure is built, for the case that the finished file misses a budget that its check met.
ATTEMPTS = 2


def finish_promising(run: Run, proposals: Sequence[Proposal]) -> tuple[list[Finished], dict[str, str]]:
    """Carry out proposals, most promising first.

    Args:
        run: with its device.
        proposals: in that order.

    Returns:
        The finished ones, and why others were not carried out, by precision.
    """
    finished: list[Finished] = []
    set_aside: dict[str, str] = {}
    for proposal in proposals:
        reason = hopeless(proposal, finished)
        if reason is None:
            finished.append(finish(run, proposal, finished))
        else:
            set_aside[proposal.engine.precision] = reason
    return finished, set_aside


def finish(run: Run, proposal: Proposal, others: Sequence[Finished] = ()) -> Finished:
    """Carry a proposal out: prune, reconstruct, export, measure; once more where the file misses the budget.

    Not once more where another proposal is within the budget and as accurate already: what fits keeps less.

    Args:
        run: with its device.
        proposal: a plan in a number format.
        others: proposals that were carried out before.
    """
    config, stages = run.config, run.stages
    engine, plan, profile, importance = proposal.engine, proposal.plan, proposal.measured_with, proposal.weighed
    for attempt in range(1, ATTEMPTS + 1):
        with stages.stage("reconstruct"):
            model, repairs = prune(run, plan)
        with stages.stage("export"):
            exported = export_file(run, engine, plan, model)
        run.info(exported.summary())
        with stages.stage("validate"):
            found = validate_file(run, exported, plan, profile)
        validation = found.validation
        run.info(validation.reason)
        refused = refusal_of(validation, exported, run.loaded, config.int8_drop)
        done = validation.verdict == "pass" or config.budget.kind == "macs" or config.profile or refused
        beaten = any(other.accepted and other.metric >= validation.metric.compressed for other in others)
        if done or beaten or found.timed is None or attempt == ATTEMPTS:
            break
        # The device has become slower, or the check was lucky: what the file itself shows counts.
        with stages.stage("search"):
            plan, profile = search_again(run, importance, engine, plan, profile, found.timed)
    proposal = replace(proposal, profile=profile, plan=plan)
    return Finished(proposal, model, repairs, exported, validation, refused, found.outcomes)


def _export_inputs(run: Run, engine: Engine, plan: Plan) -> Inputs:
    return {
        "model": reconstruction_inputs(run, plan),
        "engine": {**engine.to_json(), "left_out": None},
        "evaluation": run.loaded.evaluation.fingerprint(),
        "int8_drop": run.config.int8_drop,
        "batch_size": run.config.batch_size,
        "target": target_inputs(run.loaded.target),
        "device": device_inputs(run.loaded.target),
    }


@stage(
    Stage("export", version=3, after="reconstruct", depends_on=("reconstruct",), libraries=(*EXPORTERS, *RUNTIMES)),
    inputs=lambda run, engine, plan, model: _export_inputs(run, engine, plan),
    codec=cache_codecs.EXPORTED,
    of=lambda run, engine, plan, model: engine.precision,
)
def export_file(run: Run, engine: Engine, plan: Plan, model: Any) -> Exported:
    """The file of the artifact.

    Args:
        run: with its device.
        engine: number format and form.
        plan: what the model keeps.
        model: what ``prune`` made of the plan.
    """
    return run.device.export(model, engine)


@stage(
    Stage(
        "validate", version=6, after="export", depends_on=("export", "dense", "form"), libraries=RUNTIMES, measured=True
    ),
    inputs=lambda run, exported, plan, profile: {
        "export": _export_inputs(run, exported.engine, plan),
        "deployment": deployment_inputs(run),
        "plan": digest(plan.to_json()),
        "profile": None if profile is None else digest(profile.to_json()),
        "size_mb": run.config.size_mb,
    },
    codec=cache_codecs.EVALUATED,
    of=lambda run, exported, plan, profile: exported.engine.precision,
)
def validate_file(run: Run, exported: Exported, plan: Plan, profile: Profile | None) -> Evaluated:
    """What was measured on the file.

    Args:
        run: with its device.
        exported: what ``export_file`` made.
        plan: what the model keeps.
        profile: predicts its latency; None where its number format was not profiled.
    """
    return run.device.validate(plan, exported, profile)
