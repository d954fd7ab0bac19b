"""A run for a target that is not this machine: planned, exported and compared here, timed on the device later.

Answers do not depend on the device, so accuracy and parity are measured here, on the processor. Latencies are predicted
by a profile that was brought from the device, or by one estimated from the target's data sheet; both are said, and the
verdict on a latency stays inconclusive until ``compress validate`` has run on the device.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.plan import Plan, Widths
from compress.core.progress import Silent
from compress.export import graph, standard_ops
from compress.export.cuda import absence
from compress.export.lowering import Engine, variants
from compress.export.runtime import open_session
from compress.inputs.load import Loaded
from compress.options.run_config import RunConfig
from compress.profile.roofline import Roofline, estimate_profile
from compress.profile.take import Profile
from compress.profile.target import GPU_RUNTIMES, Precision, Target, load_target
from compress.stages import cache_keys
from compress.stages.context import Stages
from compress.stages.device import Device, deployment_feed, deployment_section, write_dense
from compress.stages.int8_accuracy import answers_of, drop_between
from compress.stages.results import Evaluated, Exported
from compress.stages.validate import document, metric_section, slices_section, verdict_of, with_size

if TYPE_CHECKING:
    from compress.core.progress import Progress


def open_device(config: RunConfig, loaded: Loaded, scratch: Path, stages: Stages) -> Device:
    """The target, whether it is this machine or not.

    Raises:
        TargetError: it is this machine, but its runtime is missing; or it is not, and there is neither a profile nor a
            data sheet.
    """
    target = loaded.target
    reason = absence(target) if target.runtime in GPU_RUNTIMES else None
    if reason is None:
        return Device.open(config, loaded, scratch, stages)
    if config.profile is None:
        Roofline.of(target, target.precision if config.precision == "auto" else config.precision)
    stages.info(
        f"warning: target '{target.name}' is not on this machine: {reason}. "
        + ("Latencies are predicted by the given profile" if config.profile else "Latencies are estimated")
        + f", and nothing is timed. To measure: `compress profile MODEL --target {target.name} --seq-len "
        f"{config.seq_len} --batch-size {config.batch_size} --output {target.name}.json` on the device, then pass "
        f"--profile {target.name}.json here"
    )
    return AbsentDevice.open(config, loaded, scratch, stages)


def here(loaded: Loaded) -> Loaded:
    """The same on this machine: on the target where it is here, else on the processor, which answers alike."""
    target = loaded.target
    return replace(loaded, target=load_target("cpu")) if target.runtime in GPU_RUNTIMES and absence(target) else loaded


class AbsentDevice(Device):
    """A target that is elsewhere. What does not depend on it is computed on this machine's processor."""

    def __init__(self, config: RunConfig, target: Target, dense: Path, feed: Any, stages: Stages | None = None) -> None:
        self._elsewhere = target
        super().__init__(config, load_target("cpu"), dense, feed, stages)

    @classmethod
    def open(cls, config: RunConfig, loaded: Loaded, scratch: Path, stages: Stages | None = None) -> AbsentDevice:
        """Export the dense model into ``scratch``."""
        import onnx

        stages = stages or Stages(Silent())
        dense = stages.result(lambda: cache_keys.export_dense(loaded), lambda: write_dense(loaded, scratch))
        if loaded.target.runtime == "tensorrt":
            # What its parser does not take, it would refuse on the device, when everything has been computed.
            standard_ops.require(standard_ops.expand_attention(onnx.load(str(dense))), loaded.target)
        return cls(config, loaded.target, dense, deployment_feed(config, loaded), stages)

    def settle(self, precision: Precision, loaded: Loaded, widths: Widths | None = None) -> Engine:
        """The runtime's default form: there is nothing to time."""
        return variants(self._elsewhere, precision)[0]

    def take_profile(self, config: RunConfig, loaded: Loaded, engine: Engine, progress: Progress | Stages) -> Profile:
        """Estimated, from the target's data sheet."""
        profile = estimate_profile(loaded.shape, self._elsewhere, engine.precision, config.batch_size, config.seq_len)
        progress.info(
            f"{engine.name}: dense {profile.table.dense_ms:.3f} ms, embeddings and head {profile.table.fixed_ms:.3f} "
            f"ms, both estimated from the data sheet of {self._elsewhere.device}"
        )
        return profile

    def export(self, model: Any, loaded: Loaded, engine: Engine, allowed_drop: float, stages: Stages) -> Exported:
        """As for the device, compared with PyTorch here."""
        return super().export(model, self._here(loaded), engine, allowed_drop, stages)

    def validate(self, plan: Plan, exported: Exported, loaded: Loaded, profile: Profile | None = None) -> Evaluated:
        """Metric and parity of the exported file against the dense float32 one; latencies are predictions."""
        here, evaluation, task = self._here(loaded), loaded.evaluation, loaded.checkpoint.task
        dense = self._answers(self._dense, here)
        ours = self._answers(exported.path, here)
        metric, outcomes = metric_section(task, evaluation, dense, ours)
        if exported.float_path != exported.path:
            unquantized = self._answers(exported.float_path, here)
            precision = exported.engine.precision
            metric = metric.with_drop_of(precision, drop_between(here, evaluation, unquantized, ours))
            if precision == "fp16":
                rounded = self._emulated(exported, here)
                drop = drop_between(here, evaluation, unquantized, rounded)
                metric = metric.with_drop_of("fp16_emulated", drop)
        verdict, reason = verdict_of(plan, None)
        verdict, reason = with_size(verdict, reason, exported.report.size_bytes, self._config.size_mb)
        predicted = plan.predicted_ms if profile is None else profile.table.predict(plan.structure.widths)
        deployment = deployment_section(self._config, self._elsewhere.name, exported.engine, self._target)
        validation = document(
            plan=plan,
            predicted_ms=predicted,
            comparison=None,
            verdict=verdict,
            reason=reason,
            metric=metric,
            sizes=(graph.size_bytes(self._dense), exported.report.size_bytes),
            size_mb=self._config.size_mb,
            length=loaded.length,
            parity=exported.parity,
            # The metric was computed on this processor; the target itself has been nowhere near.
            deployment=deployment.model_copy(update={"latency": plan.latency_source}),
            slices=slices_section(task, evaluation, loaded.output_names, dense, ours),
        )
        return Evaluated(validation, outcomes)

    def _here(self, loaded: Loaded) -> Loaded:
        return replace(loaded, target=self._target)

    def _answers(self, path: Path, here: Loaded) -> Any:
        session = open_session(path, self._target)
        try:
            return answers_of(session, here, here.evaluation)
        finally:
            session.close()

    def _emulated(self, exported: Exported, here: Loaded) -> Any:
        """Answers with every value between operators rounded to fp16, as on a GPU."""
        import onnx

        from compress.export import fp16

        rounded = fp16.emulated(onnx.load(str(exported.float_path)), exported.engine.left_out)
        with tempfile.TemporaryDirectory(prefix="compress-") as folder:
            path = Path(folder) / "model.onnx"
            graph.save(rounded, path, graph.EXTERNAL_DATA_ABOVE_BYTES)
            return self._answers(path, here)
