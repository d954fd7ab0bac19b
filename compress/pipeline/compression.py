"""`compress run`: load, profile, calibrate, search, remove, reconstruct, export, validate.

The work of a stage is in ``compress.stages``; here is which stage follows which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.directory import scratch_beside, staged
from compress.cache.memo import Memory
from compress.cache.store import Store
from compress.core.plan import Plan
from compress.core.progress import Progress, Silent
from compress.export.runtime import require_builder
from compress.fineprune.prepare import prepare
from compress.inputs.load import load, settle_seq_len
from compress.inputs.torch_state import own_torch_state
from compress.options.run_config import RunConfig
from compress.search.trade_off import trade_off
from compress.stages.calibrate import calibrate
from compress.stages.candidates import account, best, place
from compress.stages.context import Run
from compress.stages.fine_prune import fine_prune
from compress.stages.finish import finish_promising
from compress.stages.kept import keep_beside, place_kept, rows_of
from compress.stages.open_device import open_device
from compress.stages.profile import profiles_of, reachable
from compress.stages.search import propose_all
from compress.stages.stage import Stages

if TYPE_CHECKING:
    from compress.artifact.validation import Validation
    from compress.cache.memo import Foreseen


@dataclass(frozen=True)
class RunResult:
    """What a run ends with.

    Attributes:
        output: the artifact; None where none was written.
        plan: what was kept.
        validation: what ``validation.json`` holds.
        verdict: pass, fail or inconclusive.
        exit_code: of the verdict: 0, 1 or 2.
        seconds: per stage.
        spent: the same with the parts of the stages, see ``core/time_spent.py``.
    """

    output: Path | None
    plan: Plan
    validation: dict[str, Any]
    verdict: str
    exit_code: int
    seconds: dict[str, float] = field(default_factory=dict)
    spent: dict[str, Any] = field(default_factory=dict)


@own_torch_state()
def run(
    config: RunConfig,
    *,
    origins: Mapping[str, str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Compress a model to its budget and write the artifact.

    Args:
        config: resolved options; data and exactly one budget are needed.
        origins: per option where its value came from, for the manifest; None leaves it out.
        resume: use again what earlier runs have stored; what this one finds is stored either way.
        progress: told about stages as they begin; None says nothing.

    Raises:
        CompressError: see ``core/errors.py``; nothing is written then.
    """
    from compress.stages.write import write_artifact

    if config.unstructured is not None:
        return _run_unstructured(config, origins, resume, progress or Silent())
    store = Store.default()
    with staged(config.output) as output, scratch_beside(output) as scratch:
        stages = Stages(progress or Silent(), Memory(store, scratch, reading=resume))
        # Read and check everything the user gave before the first second of computing.
        with stages.stage("load"):
            loaded = load(config, stages, further=True)
            require_builder(loaded.target)
            config = settle_seq_len(config, loaded)
            training = prepare(config, loaded, stages)
        # The dense model, exported as the compressed one will be: baseline and pattern of every structure to time.
        run = Run(config, loaded, stages)
        with stages.stage("export dense"):
            run = open_device(run, scratch)
        try:
            # How long heads and filters take on the target, in every precision in question.
            with stages.stage("profile"):
                profiles = reachable(run, profiles_of(run))
            # Which heads and filters the loss cares for.
            with stages.stage("calibrate"):
                importance = calibrate(run)
            # Which of them to keep within the budget, checked on the device before anything expensive rests on it.
            with stages.stage("search"):
                proposals = propose_all(run, importance, profiles)
            # Carry out what is promising, and keep the most accurate.
            finished, set_aside = finish_promising(run, proposals)
            chosen = best(finished)
            rows, why_chosen = account(proposals, finished, chosen, set_aside)
            stages.info(why_chosen)
            # Train it, if that was asked for, and measure it again.
            if training is not None:
                chosen = fine_prune(run, training, chosen, output)
            chosen = keep_beside(run, chosen, finished, profiles)
            more: dict[str, Any] = {"candidates": rows, "chosen_because": why_chosen, **rows_of(chosen.kept)}
            validation = chosen.measured.model_copy(update=more)
            curve = trade_off(
                chosen.proposal.weighed.rankings, chosen.proposal.measured_with, loaded.length, config.seed
            )
            place(chosen.exported, output)
            place_kept(chosen.kept, output)
            write_artifact(output, run, replace(chosen, validation=validation), curve, origins)
        finally:
            run.device.close()
    return result_of(config.output, chosen.proposal.plan, validation, stages)


@own_torch_state()
def foresee(config: RunConfig, *, progress: Progress | None = None) -> list[Foreseen]:
    """What ``run(config, resume=True)`` would find stored and what it would make, without making anything.

    Args:
        config: resolved options.
        progress: told about warnings; None says nothing.
    """
    from compress.pipeline import dry_run

    return dry_run.foresee(config, progress=progress)


def why(artifact: Path) -> dict[str, Any]:
    """Where an artifact's time goes by its profile, and what one millisecond more or less would have bought.

    Returns:
        ``sublayers`` (layer, kind, width, of, ms, share), ``fixed_ms``, ``total_ms``, ``one_more_ms``, ``one_less_ms``;
        ``damage`` too where files are not as they were written: which ones.
    """
    from compress.report.why import explain

    return explain(artifact)


def _run_unstructured(
    config: RunConfig, origins: Mapping[str, str] | None, resume: bool, progress: Progress
) -> RunResult:
    from compress.pipeline.unstructured import run_unstructured

    stages = Stages(progress)
    if resume:
        stages.info("--resume finds nothing stored with --unstructured; --checkpoints DIR keeps its training")
    plan, validation = run_unstructured(config, stages, origins)
    return result_of(config.output, plan, validation, stages)


def result_of(output: Path, plan: Plan, validation: Validation, stages: Stages) -> RunResult:
    """The result of a run.

    Args:
        output: the artifact.
        plan: what was kept.
        validation: what was measured.
        stages: seconds per stage.
    """
    # Plain JSON types from here on: the Python API promises a dict.
    document = validation.to_json()
    seconds, spent = dict(stages.seconds), stages.spent.document()
    return RunResult(output, plan, document, validation.verdict, validation.exit_code, seconds, spent)
