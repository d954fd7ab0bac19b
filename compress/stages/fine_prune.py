"""The stage of a run: from a finished candidate to a fine-pruned one that is exported and measured again."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.files import TRAINING
from compress.artifact.validation import FinePrunedFrom
from compress.core.errors import ArtifactError
from compress.core.plan import Plan, Structure
from compress.distributed.group import joined
from compress.fineprune.log import phase_summary, write_log
from compress.fineprune.prepare import Prepared, open_session, teacher_name
from compress.fineprune.projection import importance_of, masks_of
from compress.inputs.load import Loaded
from compress.options.run_config import RunConfig
from compress.search.planner import describe_plan
from compress.stages.finish import pruned
from compress.stages.int8_accuracy import refusal_of
from compress.stages.results import FinePruned
from compress.stages.settle_structure import Settling, costs_of

if TYPE_CHECKING:
    from compress.fineprune.fake_quant import Rounding
    from compress.fineprune.session import Session
    from compress.fineprune.train import Phase
    from compress.profile.take import Profile
    from compress.stages.context import Stages
    from compress.stages.device import Device
    from compress.stages.results import Finished, Repairs


def fine_prune(
    config: RunConfig, loaded: Loaded, prepared: Prepared, chosen: Finished, device: Device, log: Path, stages: Stages
) -> Finished:
    """Train what a run has finished, export and measure it again.

    Args:
        config: options.
        loaded: dense model and data.
        prepared: by ``prepare``.
        chosen: the post-training result.
        device: the run's.
        log: directory of the artifact, which gets ``training.csv``.
        stages: told how it goes.

    Raises:
        TrainingError: training diverges.
    """
    before = chosen.measured.metric
    with stages.stage("fine-prune"):
        trained = _train(config, loaded, prepared, chosen, device, stages)
        plan, phases = trained.plan, trained.phases
        write_log(log / TRAINING, [row for _, phase in phases for row in phase.rows])
    engine = chosen.proposal.engine
    with stages.stage("export"):
        exported = device.export(trained.model, loaded, engine, config.int8_drop, stages)
    stages.info(exported.summary())
    with stages.stage("validate"):
        found = device.validate(plan, exported, loaded, trained.profile)
        if found.validation.verdict != "pass" and chosen.measured.verdict == "pass":
            # The weights of a structure that was within the budget make it no slower: the device was, for a while.
            found = device.validate(plan, exported, loaded, trained.profile)
    validation = found.validation
    stages.info(validation.reason)
    after = validation.metric.compressed
    stages.info(f"{before.name} {before.compressed:.4f} before fine-pruning, {after:.4f} after it")
    refused = refusal_of(validation, exported, loaded, config.int8_drop)
    done = FinePruned(
        recipe=prepared.recipe.model_dump(mode="json", exclude_none=True),
        teacher=teacher_name(prepared, loaded),
        examples=len(prepared.train),
        phases=tuple({"name": name, **phase_summary(phase)} for name, phase in phases),
        metric_before=before.compressed,
        processes=joined().world,
    )
    started = FinePrunedFrom(recipe=prepared.recipe.name, before=before)
    return replace(
        chosen,
        proposal=replace(chosen.proposal, plan=plan, profile=trained.profile),
        model=trained.model,
        repairs=replace(trained.repairs, fine_pruned=done),
        exported=exported,
        validation=validation.model_copy(update={"fine_pruned": started}),
        refused=refused,
        outcomes=found.outcomes,
    )


@dataclass(frozen=True)
class _Trained:
    """What all phases come to.

    Attributes:
        model: on the processor.
        plan, profile: of its structure, and what predicts it.
        repairs: what the weights had been through before they were trained.
        phases: what each ended with, by name.
    """

    model: Any
    plan: Plan
    profile: Profile | None
    repairs: Repairs
    phases: list[tuple[str, Phase]]


def _train(
    config: RunConfig, loaded: Loaded, prepared: Prepared, chosen: Finished, device: Device, stages: Stages
) -> _Trained:
    """All phases."""
    plan, profile, repairs = chosen.proposal.plan, chosen.proposal.profile, chosen.repairs
    found = plan.structure.widths != plan.shape.dense and prepared.recipe.structure is not None
    session = open_session(config, loaded, prepared, stages)
    structure, model = session.resumed_structure(), None
    if structure is not None:
        stages.info("going on from the checkpoint, with its structure")
        if structure != plan.structure:
            plan = _plan_of(structure, config, loaded, chosen, profile)
    elif found:
        costs = costs_of(config, loaded, chosen.proposal)
        settling = Settling.of(config, loaded, chosen.proposal, costs, device, stages)
        start = importance_of(chosen.proposal.weighed.rankings)
        dense, masking, _ = session.find_structure(costs, start, settling)
        structure, profile = masking.structure, profile if settling is None else settling.profile
        plan = _plan_of(structure, config, loaded, chosen, profile)
        model, repairs = _better(config, loaded, plan, session.carry_out(dense, masking), session, repairs, stages)
    else:
        structure, model = plan.structure, copy.deepcopy(chosen.model)
    if prepared.recipe.weights is not None and session.resumed_phase != "quantization":
        model, _ = session.train_weights(model, structure)
    rounding = _rounding(config, prepared, chosen, session, stages)
    if rounding is not None:
        model, _ = session.train_quantized(model, structure, rounding)
    assert model is not None
    return _Trained(model.cpu(), plan, profile, repairs, session.phases)


def _better(
    config: RunConfig, loaded: Loaded, plan: Plan, trained: Any, session: Session, repairs: Repairs, stages: Stages
) -> tuple[Any, Repairs]:
    """The weights that a structure's scores were found with, or those that reconstruction gives it, if they do better.

    Some hundred steps under a falling budget do not make up for what the closed form gives at once.
    """
    rebuilt, done = pruned(config, loaded, plan, stages)
    losses = session.held_loss(trained), session.held_loss(rebuilt)
    taken = losses[1] < losses[0]
    stages.info(
        f"loss on held-out examples {losses[0]:.4f} as trained, {losses[1]:.4f} reconstructed from the dense model: "
        f"{'the reconstructed' if taken else 'the trained'} weights go on"
    )
    return (rebuilt, done) if taken else (trained, repairs)


def _rounding(
    config: RunConfig, prepared: Prepared, chosen: Finished, session: Session, stages: Stages
) -> Rounding | None:
    """The rounding that the last phase trains with; None where the recipe has none, or the file is not dynamic int8.

    Raises:
        ArtifactError: the checkpoint is of int8, the file is not.
    """
    from compress.fineprune.fake_quant import Rounding

    if prepared.recipe.quantization is None:
        return None
    engine = chosen.exported.engine
    rounding = Rounding.of(engine, chosen.exported.float_path, config.batch_size)
    if rounding is None:
        if session.resumed_phase == "quantization":
            raise ArtifactError(
                f"the checkpoint in '{config.checkpoints}' was trained for dynamic int8, this run takes {engine.name}; "
                "choose another --checkpoints, or ask for --precision int8"
            )
        stages.info(
            f"[quantization] of recipe '{prepared.recipe.name}' is left out: it rounds as dynamic int8 does, and this "
            f"file is {engine.name}"
        )
    return rounding


def _plan_of(
    structure: Structure, config: RunConfig, loaded: Loaded, chosen: Finished, profile: Profile | None
) -> Plan:
    """The plan of a structure that scores chose."""
    before, rankings = chosen.proposal.plan, chosen.proposal.weighed.rankings
    plan = describe_plan(
        loaded.shape, structure, before.budget, before.method, rankings, loaded.length, profile, None, config.seed
    )
    masks, importance = masks_of(structure, loaded.shape), importance_of(rankings)
    kept = sum(float(part[mask].sum()) for part, mask in zip(importance, masks, strict=True))
    return replace(plan, importance_kept=round(kept / max(sum(float(p.sum()) for p in importance), 1e-30), 6))
