"""Files beside model.onnx (``--keep``): the chosen model in other number formats, exported and measured likewise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress.artifact.files import BESIDE
from compress.artifact.validation import KeptFile
from compress.core.errors import PrecisionRefused
from compress.export import graph
from compress.inputs.precisions import formats_to_keep
from compress.stages.context import Run
from compress.stages.finish import export_file, validate_file
from compress.stages.int8_accuracy import refusal_of
from compress.stages.results import Kept

if TYPE_CHECKING:
    from compress.artifact.validation import Validation
    from compress.export.lowering import Engine
    from compress.profile.take import Profile
    from compress.profile.target import Precision
    from compress.stages.results import Exported, Finished


def keep_beside(
    run: Run, chosen: Finished, finished: Sequence[Finished], profiles: Sequence[tuple[Engine, Profile]]
) -> Finished:
    """Export and measure the chosen model in the other number formats that are to be kept.

    Args:
        run: with its device.
        chosen: what model.onnx is.
        finished: all candidates that were carried out; one of the same model is taken as it is.
        profiles: engine and profile of every precision in question.

    Returns:
        The chosen one, with what stands beside it; itself where nothing does.

    Raises:
        PrecisionRefused: int8 loses more than is allowed.
    """
    kept = []
    for precision in formats_to_keep(run.config, run.loaded.target):
        if precision == chosen.proposal.engine.precision:
            continue
        same = next((one for one in finished if _same_model(one, chosen, precision)), None)
        if same is None:
            profile = next((found for engine, found in profiles if engine.precision == precision), None)
            exported, validation = _carried_out(run, chosen, precision, profile)
        else:
            exported, validation = same.exported, same.measured
        refused = refusal_of(validation, exported, run.loaded, run.config.int8_drop)
        if refused is not None:
            raise PrecisionRefused(f"--keep {run.config.keep}: {refused}; or leave {precision} out of --keep")
        kept.append(Kept(BESIDE[precision], exported, validation))
    return replace(chosen, kept=tuple(kept)) if kept else chosen


def _same_model(candidate: Finished, chosen: Finished, precision: str) -> bool:
    """Whether a candidate has the weights of the chosen one: equal structures are reconstructed equally."""
    return (
        chosen.repairs.fine_pruned is None
        and candidate.proposal.engine.precision == precision
        and candidate.proposal.plan.structure == chosen.proposal.plan.structure
    )


def _carried_out(
    run: Run, chosen: Finished, precision: Precision, profile: Profile | None
) -> tuple[Exported, Validation]:
    """The chosen model in the fastest form of a number format, and what was measured on it."""
    stages, plan, model = run.stages, chosen.proposal.plan, chosen.model
    # What the plan predicts is of another number format.
    predicted = None if profile is None else round(profile.table.predict(plan.structure.widths), 6)
    plan = replace(plan, predicted_ms=predicted)
    # What was trained is stored nowhere.
    stored = chosen.repairs.fine_pruned is None
    with stages.stage("export"):
        engine = run.device.fastest(precision)
        exported = export_file(run, engine, plan, model) if stored else run.device.export(model, engine)
    run.info(exported.summary())
    with stages.stage("validate"):
        found = validate_file(run, exported, plan, profile) if stored else run.device.validate(plan, exported, profile)
    run.info(f"{BESIDE[precision]}: {found.validation.reason}")
    return exported, found.validation


def place_kept(kept: Sequence[Kept], directory: Path) -> None:
    """Put files beside model.onnx, under their names.

    Args:
        kept: the files.
        directory: the artifact.
    """
    for one in kept:
        graph.move(one.exported.path, directory / one.name)


def rows_of(kept: Sequence[Kept]) -> dict[str, tuple[KeptFile, ...]]:
    """What validation.json says of files beside model.onnx, by its key; empty where there are none.

    Args:
        kept: the files.
    """
    rows = tuple(KeptFile.of(one.name, one.validation) for one in kept if one.validation is not None)
    return {"kept": rows} if rows else {}
