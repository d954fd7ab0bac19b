"""Metric, parity, sizes and timing of an exported file, brought together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.core.plan import Plan
from compress.core.statistics import Verdict
from compress.export import graph
from compress.export.runtime import open_session
from compress.stages.context import Run
from compress.stages.dense_model import DenseModel
from compress.stages.int8_accuracy import answers_of, drop_between
from compress.stages.results import Evaluated, Exported
from compress.stages.unpruned import unpruned_section
from compress.stages.validate import Measurement, deployment_section, metric_section, slices_section, with_size

if TYPE_CHECKING:
    from compress.artifact.validation import Invariance
    from compress.data.batches import Encoded
    from compress.export.measure import GpuComparison, LatencyComparison
    from compress.profile.latency_profile import Profile
    from compress.tasks import Task


@dataclass(frozen=True)
class Answers:
    """Outputs of the files on the evaluation examples, as the task reads them.

    Attributes:
        dense: of the float32 dense model.
        compressed: of the artifact.
        unquantized: of the artifact's weights in float32; None where nothing was quantized.
        emulated: of the artifact with every value between operators rounded to fp16, as on a GPU; None elsewhere.
        invariance: how the artifact's answers differ by batch, order and padding; None where that was not measured.
    """

    dense: NDArray[np.float64]
    compressed: NDArray[np.float64]
    unquantized: NDArray[np.float64] | None = None
    emulated: NDArray[np.float64] | None = None
    invariance: Invariance | None = None


@dataclass(frozen=True)
class Timing:
    """How fast a file is, and the verdict on that.

    Attributes:
        verdict: whether the latency budget is met.
        reason: why, in words.
        comparison: None where nothing was timed.
        on_gpu: the timing without copies; None on targets that are not GPUs.
        unpruned: the dense model in the file's number format against the file; None where that is not a third model.
    """

    verdict: Verdict
    reason: str
    comparison: LatencyComparison | None = None
    on_gpu: GpuComparison | None = None
    unpruned: LatencyComparison | None = None


def answers_of_file(run: Run, path: Path) -> NDArray[np.float64]:
    """What a file answers on the evaluation examples.

    Args:
        run: evaluation examples, and the target that runs the file.
        path: of the file.
    """
    session = open_session(path, run.loaded.target)
    try:
        return answers_of(session, run.loaded, run.loaded.evaluation)
    finally:
        session.close()


def weakness(task: Task, data: Encoded, dense: NDArray[np.float64]) -> str:
    """What the reason of a verdict has to add about a dense model that is at chance or little better.

    Args:
        task: gives the metric.
        data: evaluation examples.
        dense: outputs of the dense model, in the order of ``data``.

    Returns:
        Words that go on from the reason; empty where the dense model is sound, or where there are no labels.
    """
    standing = task.standing(dense, data)
    if standing is None or not standing.weak:
        return ""
    how = "not above chance" if standing.at_chance else "far below a fine-tuned model"
    name = task.evaluate(dense, data).name
    return f"; warning: the dense model is {how}: {standing.said(name)}, so the metric says little"


@dataclass(frozen=True)
class Evaluation:
    """Evaluates files of one run.

    Attributes:
        run: evaluation examples; its target is what the answers are computed on.
        dense: the dense model.
        target: name of the target that the files are for.
    """

    run: Run
    dense: DenseModel
    target: str

    def of(
        self, exported: Exported, plan: Plan, profile: Profile | None, timing: Timing, answers: Answers
    ) -> Evaluated:
        """Everything that validation.json and outcomes.json hold on a file.

        Args:
            exported: the file.
            plan: what the file should be, with its budget.
            profile: predicts its latency; None takes the plan's prediction.
            timing: how fast it is.
            answers: on the evaluation examples.
        """
        config, loaded = self.run.config, self.run.loaded
        evaluation, task = loaded.evaluation, loaded.checkpoint.task
        metric, outcomes = metric_section(task, evaluation, answers.dense, answers.compressed)
        if answers.unquantized is not None:
            rounded = {exported.engine.precision: answers.compressed, "fp16_emulated": answers.emulated}
            for precision, ours in rounded.items():
                if ours is not None:
                    drop = drop_between(loaded, evaluation, answers.unquantized, ours)
                    metric = metric.with_drop_of(precision, drop)
        verdict, reason = with_size(timing.verdict, timing.reason, exported.report.size_bytes, config.size_mb)
        reason += weakness(task, evaluation, answers.dense)
        deployment = deployment_section(config, self.target, exported.engine, loaded.target)
        if timing.comparison is None:
            # The metric was computed here; the target itself has been nowhere near.
            deployment = deployment.model_copy(update={"latency": plan.latency_source})
        measured = Measurement(
            plan=plan,
            predicted_ms=plan.predicted_ms if profile is None else profile.table.predict(plan.structure.widths),
            comparison=timing.comparison,
            verdict=verdict,
            reason=reason,
            metric=metric,
            sizes=(graph.size_bytes(self.dense.path), exported.report.size_bytes),
            size_mb=config.size_mb,
            length=loaded.length,
            parity=exported.parity,
            deployment=deployment,
            unpruned=unpruned_section(plan, exported.engine.precision, profile, timing.comparison, timing.unpruned),
            slices=slices_section(task, evaluation, loaded.output_names, answers.dense, answers.compressed),
            on_gpu=timing.on_gpu,
            invariance=answers.invariance,
        )
        return Evaluated(measured.document(), outcomes, timing.comparison)
