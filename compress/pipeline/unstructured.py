"""The job of a run with ``--unstructured``: weights masked, trained, packed, exported, and measured for accuracy.

Nothing is profiled or timed: zeros in a matrix save bytes, and no runtime that is served here skips them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.artifact.directory import staged
from compress.artifact.files import TRAINING
from compress.artifact.model import save_model
from compress.artifact.validation import Validation, WeightsMetric
from compress.core.errors import ConfigError
from compress.core.plan import Plan
from compress.core.trace import span
from compress.fineprune.log import phase_summary, write_log
from compress.fineprune.prepare import Prepared, open_session, prepare, teacher_name
from compress.inputs.load import Loaded, load, settle_seq_len
from compress.options.run_config import RunConfig
from compress.options.table import OPTIONS, flag
from compress.stages.computing import computing
from compress.stages.context import Run
from compress.stages.results import Evaluated, FinePruned, Finished, Proposal, Repairs
from compress.stages.search import dense_plan
from compress.stages.stage import Stages

if TYPE_CHECKING:
    from compress.sparsity.compact_file import Stored
    from compress.sparsity.train import Thinned


def refuse_contradictions(config: RunConfig) -> None:
    """Raise ConfigError for options that mean nothing together with ``--unstructured``."""
    for name, option in OPTIONS.items():
        value, why = getattr(config, name), option.pointless_unstructured
        if why is not None and value != option.default:
            raise ConfigError(
                f"{flag(name)} {value} and --unstructured {config.unstructured:g}: {why}; leave one of them out"
            )


def read_inputs(config: RunConfig, stages: Stages) -> tuple[Run, Prepared]:
    """Everything that the job reads, checked.

    Args:
        config: with ``unstructured``.
        stages: told what is read.

    Returns:
        The run, and what its training needs.
    """
    refuse_contradictions(config)
    loaded = load(config, stages)
    config = settle_seq_len(config, loaded)
    prepared = prepare(config, loaded, stages)
    assert prepared is not None
    return Run(config, loaded, stages), prepared


def run_unstructured(
    config: RunConfig, stages: Stages, origins: Mapping[str, str] | None = None
) -> tuple[Plan, Validation]:
    """Leave a fraction of the encoder's single weights, and write the artifact.

    Args:
        config: with ``unstructured``.
        stages: told how it goes.
        origins: per option where its value came from, for the manifest.

    Returns:
        A plan that removes no unit, and what validation.json holds.

    Raises:
        CompressError: see ``core/errors.py``; nothing is written then.
    """
    from compress.export.lowering import Engine
    from compress.sparsity.compact_file import NAME, load_compact, write_compact
    from compress.stages.export import export_checked
    from compress.stages.write import write_artifact

    with staged(config.output) as output:
        with stages.stage("load"):
            run, prepared = read_inputs(config, stages)
            loaded = run.loaded
        with stages.stage("fine-prune"):
            thinned = _thin_out(run, prepared)
            if thinned.phase is not None:
                write_log(output / TRAINING, list(thinned.phase.rows))
        # What the file gives back is what is measured, not what was put in.
        with stages.stage("pack"):
            state = write_compact(thinned.model, output / NAME)
            compact = load_compact(output / NAME)
        with stages.stage("export"):
            exported = export_checked(thinned.model, output / "model.onnx", loaded)
            save_model(thinned.model, output)
        with stages.stage("validate"):
            found = _validate(run, thinned, compact, state, output, exported.parity)
        validation = found.validation
        stages.info(validation.reason)
        plan = dense_plan(run)
        done = Finished(
            Proposal(Engine(), None, plan),
            thinned.model,
            Repairs(fine_pruned=_account(prepared, loaded, thinned, validation)),
            exported,
            validation,
            outcomes=found.outcomes,
        )
        write_artifact(output, run, done, [], origins)
    return plan, validation


@computing
def _thin_out(run: Run, prepared: Prepared) -> Thinned:
    from compress.sparsity.train import thin_out

    config, loaded, recipe = run.config, run.loaded, prepared.recipe
    assert config.unstructured is not None and recipe.unstructured is not None
    session = open_session(config, loaded, prepared, run.stages) if recipe.unstructured.trains else None
    return thin_out(loaded.checkpoint, recipe, config.unstructured, session, seed=config.seed)


@computing
@span("answers")
def _answers(run: Run, masked: Any, compact: Any) -> list[NDArray[Any]]:
    """Outputs of the dense model, the masked one and the compact file, where PyTorch computes."""
    from compress.tasks import outputs_of

    loaded = run.loaded
    task, found = loaded.checkpoint.task, []
    for model in (loaded.checkpoint.model, masked, compact):
        with loaded.compute.on(replace(loaded.checkpoint, model=model)) as there:
            found.append(outputs_of(there.model, task, loaded.evaluation))
    return found


def _validate(
    run: Run,
    thinned: Thinned,
    compact: Any,
    state: Mapping[str, Stored],
    output: Path,
    parity: float,
) -> Evaluated:
    """Measures the compact file, and the masked checkpoint beside it."""
    from compress.artifact.model import PYTORCH, WEIGHTS
    from compress.artifact.sparse import said
    from compress.sparsity.compact_file import NAME
    from compress.sparsity.summary import weights_section
    from compress.stages.evaluate import weakness
    from compress.stages.export import DENSE_ENGINE
    from compress.stages.validate import Measurement, deployment_section, metric_section, slices_section

    config, loaded = run.config, run.loaded
    task, data = loaded.checkpoint.task, loaded.evaluation
    dense, masked, packed = _answers(run, thinned.model, compact)
    metric, outcomes = metric_section(task, data, dense, packed)
    assert config.unstructured is not None
    weights = weights_section(
        loaded.checkpoint.encoder,
        thinned.model,
        state,
        asked=config.unstructured,
        metric=WeightsMetric(
            name=metric.name,
            dense=metric.dense,
            masked=metric_section(task, data, dense, masked)[0].compressed,
            compact=metric.compressed,
        ),
        # The dense model's file has the same tensors.
        files=((output / PYTORCH / WEIGHTS).stat().st_size, (output / NAME).stat().st_size),
    )
    plan = dense_plan(run)
    validation = Measurement(
        plan=plan,
        predicted_ms=None,
        comparison=None,
        verdict="pass" if weights.remaining <= config.unstructured + 1e-9 else "fail",
        reason=said(weights) + weakness(task, data, dense),
        metric=metric,
        sizes=(weights.file_bytes.dense, weights.file_bytes.compact),
        size_mb=None,
        length=loaded.length,
        parity=parity,
        deployment=deployment_section(config, config.target, DENSE_ENGINE, loaded.target),
        slices=slices_section(task, data, loaded.output_names, dense, packed),
    ).document()
    source = "not measured: zeros among weights save bytes, not time"
    latency = validation.latency_ms.model_copy(update={"source": source})
    return Evaluated(validation.model_copy(update={"latency_ms": latency, "unstructured": weights}), outcomes)


def _account(prepared: Prepared, loaded: Loaded, thinned: Thinned, validation: Validation) -> FinePruned:
    phases = () if thinned.phase is None else ({"name": "unstructured", **phase_summary(thinned.phase)},)
    return FinePruned(
        recipe=prepared.recipe.model_dump(mode="json", exclude_none=True),
        teacher=teacher_name(prepared, loaded) if phases else None,
        examples=len(prepared.train),
        phases=phases,
        metric_before=validation.metric.dense,
    )
