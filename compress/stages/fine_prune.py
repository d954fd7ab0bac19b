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
from compress.search.planner import SearchProblem, describe_plan
from compress.stages.computing import computing
from compress.stages.context import Run
from compress.stages.int8_accuracy import refusal_of
from compress.stages.prune import prune
from compress.stages.results import FinePruned
from compress.stages.settle_structure import Settling, costs_of

if TYPE_CHECKING:
    from compress.fineprune.fake_quant import Rounding
    from compress.fineprune.phase import Phase
    from compress.fineprune.session import TrainingSession
    from compress.profile.take import Profile
    from compress.stages.results import Finished, Repairs


def fine_prune(run: Run, prepared: Prepared, chosen: Finished, log: Path) -> Finished:
    """Train what a run has finished, export and measure it again.

    Args:
        run: with its device.
        prepared: by ``prepare``.
        chosen: the post-training result.
        log: directory of the artifact, which gets ``training.csv``.

    Raises:
        TrainingError: training diverges.
    """
    loaded, stages = run.loaded, run.stages
    before = chosen.measured.metric
    with stages.stage("fine-prune"):
        trained = _train(run, prepared, chosen)
        plan, phases = trained.plan, trained.phases
        write_log(log / TRAINING, [row for _, phase in phases for row in phase.rows])
    engine = chosen.proposal.engine
    with stages.stage("export"):
        exported = run.device.export(trained.model, engine)
    run.info(exported.summary())
    with stages.stage("validate"):
        found = run.device.validate(plan, exported, trained.profile)
        if found.validation.verdict != "pass" and chosen.measured.verdict == "pass":
            # The weights of a structure that was within the budget make it no slower: the device was, for a while.
            found = run.device.validate(plan, exported, trained.profile)
    validation = found.validation
    run.info(validation.reason)
    after = validation.metric.compressed
    run.info(f"{before.name} {before.compressed:.4f} before fine-pruning, {after:.4f} after it")
    refused = refusal_of(validation, exported, loaded, run.config.int8_drop)
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


@computing
def _train(run: Run, prepared: Prepared, chosen: Finished) -> _Trained:
    """All phases."""
    config, loaded = run.config, run.loaded
    plan, profile, repairs = chosen.proposal.plan, chosen.proposal.profile, chosen.repairs
    found = plan.structure.widths != plan.shape.dense and prepared.recipe.structure is not None
    session = open_session(config, loaded, prepared, run.stages)
    structure, model = session.resumed_structure(), None
    if structure is not None:
        run.info("going on from the checkpoint, with its structure")
        if structure != plan.structure:
            plan = _plan_of(structure, run, chosen, profile)
    elif found:
        costs = costs_of(run, chosen.proposal)
        settling = Settling.of(run, chosen.proposal, costs)
        start = importance_of(chosen.proposal.weighed.rankings)
        dense, masking, _ = session.find_structure(costs, start, settling)
        structure, profile = masking.structure, profile if settling is None else settling.profile
        plan = _plan_of(structure, run, chosen, profile)
        model, repairs = _better(run, plan, session.carry_out(dense, masking), session, repairs)
    else:
        structure, model = plan.structure, copy.deepcopy(chosen.model)
    if prepared.recipe.weights is not None and session.resumed_phase != "quantization":
        model, _ = session.train_weights(model, structure)
    rounding = _rounding(run, prepared, chosen, session)
    if rounding is not None:
        model, _ = session.train_quantized(model, structure, rounding)
    assert model is not None
    return _Trained(model.cpu(), plan, profile, repairs, session.phases)


def _better(run: Run, plan: Plan, trained: Any, session: TrainingSession, repairs: Repairs) -> tuple[Any, Repairs]:
    """The weights that a structure's scores were found with, or those that reconstruction gives it, if they do better.

    Some hundred steps under a falling budget do not make up for what the closed form gives at once.
    """
    rebuilt, done = prune(run, plan)
    losses = session.held_loss(trained), session.held_loss(rebuilt)
    taken = losses[1] < losses[0]
    run.info(
        f"loss on held-out examples {losses[0]:.4f} as trained, {losses[1]:.4f} reconstructed from the dense model: "
        f"{'the reconstructed' if taken else 'the trained'} weights go on"
    )
    return (rebuilt, done) if taken else (trained, repairs)


def _rounding(run: Run, prepared: Prepared, chosen: Finished, session: TrainingSession) -> Rounding | None:
    """The rounding that the last phase trains with; None where the recipe has none, or the file is not dynamic int8.

    Raises:
        ArtifactError: the checkpoint is of int8, the file is not.
    """
    from compress.fineprune.fake_quant import Rounding

    if prepared.recipe.quantization is None:
        return None
    engine = chosen.exported.engine
    rounding = Rounding.of(engine, chosen.exported.float_path, run.config.batch_size)
    if rounding is None:
        if session.resumed_phase == "quantization":
            raise ArtifactError(
                f"the checkpoint in '{run.config.checkpoints}' was trained for dynamic int8, this run takes "
                f"{engine.name}; choose another --checkpoints, or ask for --precision int8"
            )
        run.info(
            f"[quantization] of recipe '{prepared.recipe.name}' is left out: it rounds as dynamic int8 does, and this "
            f"file is {engine.name}; --int8 fastest may give a dynamic one"
        )
    return rounding


def _plan_of(structure: Structure, run: Run, chosen: Finished, profile: Profile | None) -> Plan:
    """The plan of a structure that scores chose."""
    loaded = run.loaded
    before, rankings = chosen.proposal.plan, chosen.proposal.weighed.rankings
    problem = SearchProblem(loaded.shape, before.budget, before.method, loaded.length, profile, seed=run.config.seed)
    plan = describe_plan(problem, structure, rankings, None)
    masks, importance = masks_of(structure, loaded.shape), importance_of(rankings)
    kept = sum(float(part[mask].sum()) for part, mask in zip(importance, masks, strict=True))
    return replace(plan, importance_kept=round(kept / max(sum(float(p.sum()) for p in importance), 1e-30), 6))
