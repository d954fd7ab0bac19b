"""The device of a run: the dense model loaded on it, structures timed on it, the artifact measured on it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.validation import Deployment, EngineForm
from compress.core.plan import Plan, Widths
from compress.core.progress import Silent
from compress.data.batches import fixed_batch
from compress.export import graph, openvino
from compress.export.lowering import IN_GRAPH, Engine, lower, variants
from compress.export.measure import LatencyComparison, choose, compare_latency, compare_without_copies
from compress.export.onnx import report_of
from compress.export.runtime import open_session, refuse_absent, require_runtime
from compress.export.session import Session
from compress.inputs.load import Loaded
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig
from compress.profile.take import Profile, take_profile
from compress.profile.target import Precision, Target, describe_device
from compress.stages import cache_keys
from compress.stages.context import Stages
from compress.stages.export import (
    DENSE_ENGINE,
    export_checked,
    export_half,
    made_up,
    parity_of,
    write_lowered,
    write_onnx,
)
from compress.stages.int8_accuracy import answers_of, drop_between, hold_accuracy
from compress.stages.results import Evaluated, Exported
from compress.stages.validate import document, measured_verdict, metric_section, slices_section, with_size

if TYPE_CHECKING:
    from compress.core.progress import Progress

# Sessions that only serve to be timed carry this many rows of the vocabulary: the rest costs memory, not time.
TIMED_VOCABULARY = 2000
CHECK_SECONDS = 3.0
FORM_SECONDS = 1.5
# Widest interval of a checked speed-up, relative to it, that is not measured longer.
WIDEST_CHECK = 0.03


class Device:
    """The target with the dense model on it.

    Args:
        config: batch size and length of the deployment.
        target: what sessions run on.
        dense: the dense model's file; others are written beside it.
        feed: one batch of the deployment.
        stages: told what goes on, and remembers what was measured; None does neither.
    """

    def __init__(
        self,
        config: RunConfig,
        target: Target,
        dense: Path,
        feed: dict[str, NDArray[Any]],
        stages: Stages | None = None,
    ) -> None:
        self._target, self._dense, self._feed = target, dense, feed
        self._config, self._stages = config, stages or Stages(Silent())
        self._session: Session | None = None
        self._pattern: Any = None
        self._settled: dict[tuple[Precision, Widths], Engine] = {}

    @classmethod
    def open(cls, config: RunConfig, loaded: Loaded, scratch: Path, stages: Stages | None = None) -> Device:
        """Export the dense model into ``scratch``.

        Raises:
            TargetError: the target is not on this machine, or its runtime is not installed.
        """
        refuse_absent(loaded.target)
        require_runtime(loaded.target)
        stages = stages or Stages(Silent())
        dense = stages.result(lambda: cache_keys.export_dense(loaded), lambda: write_dense(loaded, scratch))
        return cls(config, loaded.target, dense, deployment_feed(config, loaded), stages)

    def dense_bytes(self, loaded: Loaded, engine: Engine) -> float:
        """Size of the dense model's file as an engine has it; int8 is built, the others follow from float32."""
        dense = graph.size_bytes(self._dense)
        if engine.precision != "int8":
            return dense / (2 if engine.precision == "fp16" else 1)
        # What is built has few rows of the vocabulary; int8 takes a byte for each of the rest.
        whole = loaded.shape.dense
        rest = dense - len(self.build(loaded, whole))
        return len(self.build(loaded, whole, engine)) + rest / 4

    def baseline(self, loaded: Loaded) -> Session:
        """The dense float32 model in its fastest form: what every speed-up is against."""
        if self._session is None:
            path = self._dense.with_name("baseline.onnx")
            shutil.copyfile(self._dense, path)
            write_lowered(self._dense, self.settle("fp32", loaded, loaded.shape.dense), path, loaded)
            self._session = open_session(path, self._target)
        return self._session

    def close(self) -> None:
        """Free the sessions."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._pattern = None

    def build(self, loaded: Loaded, widths: Widths, engine: Engine = DENSE_ENGINE) -> bytes:
        """The file that a structure of these widths would have, but for its weights; good for timing."""
        if loaded.checkpoint.encoder.family.attention_kind is not None:
            if self._pattern is None:
                self._pattern = self._without_vocabulary(self._dense)
            narrowed = graph.narrow(self._pattern, loaded.checkpoint.encoder, widths)
        else:
            narrowed = self._exported_anew(loaded, widths)
        if engine.scheme == "nncf":
            return openvino.to_bytes(
                openvino.convert(narrowed.SerializeToString(), self._target, [self.timing_feed], quick=True)
            )
        data: bytes = lower(narrowed, engine, [self.timing_feed], timing_only=True).SerializeToString()
        return data

    def _exported_anew(self, loaded: Loaded, widths: Widths) -> Any:
        """``graph.narrow`` by way of PyTorch, in seconds: for attention that is exported as it is written."""
        import copy

        from compress.pruning.removal import narrow_to

        model = copy.deepcopy(loaded.checkpoint.model)
        narrow_to(model, widths)
        path = self._dense.with_name("structure.onnx")
        write_onnx(model, path, loaded)
        return self._without_vocabulary(path)

    def _without_vocabulary(self, path: Path) -> Any:
        """An exported model without the rows of its vocabulary that timing does not need; images have none."""
        import onnx

        proto = onnx.load(str(path))
        return graph.trim_vocabulary(proto, TIMED_VOCABULARY) if "input_ids" in self._feed else proto

    @property
    def timing_feed(self) -> dict[str, NDArray[Any]]:
        """The deployment's batch, with token ids that ``build`` has rows for."""
        return {k: v % TIMED_VOCABULARY if k == "input_ids" else v for k, v in self._feed.items()}

    def settle(self, precision: Precision, loaded: Loaded, widths: Widths | None = None) -> Engine:
        """The fastest way to run a structure in a precision on the target, found by timing all there are.

        Args:
            precision: number format.
            loaded: encoder and target.
            widths: of the structure; None is half of every sublayer, which stands for pruned ones.
        """
        shape = loaded.shape
        widths = widths or Widths(
            (max(1, shape.heads // 2),) * shape.layers, (max(1, shape.filters // 2),) * shape.layers
        )
        if (precision, widths) not in self._settled:
            self._settled[precision, widths] = self._stages.result(
                lambda: cache_keys.choose_form(self._config, loaded, self._target, precision, widths),
                lambda: self._fastest(precision, loaded, widths),
            )
        return self._settled[precision, widths]

    def _fastest(self, precision: Precision, loaded: Loaded, widths: Widths) -> Engine:
        offered = variants(self._target, precision)
        sessions: dict[str, Session] = {}
        try:
            for engine in offered if len(offered) > 1 else ():
                sessions[engine.name] = open_session(self.build(loaded, widths, engine), self._target)
            chosen = choose(sessions, self.timing_feed, seconds=FORM_SECONDS) if sessions else offered[0].name
        finally:
            for session in sessions.values():
                session.close()
        return next(engine for engine in offered if engine.name == chosen)

    def compare(self, loaded: Loaded, widths: Widths, engine: Engine) -> LatencyComparison:
        """Time a structure beside the dense float32 model, before its weights exist.

        Measured longer while the interval of the speed-up is wide: a search corrected by noise goes astray.
        """
        shape = loaded.shape
        dense = open_session(self.build(loaded, shape.dense, self.settle("fp32", loaded, shape.dense)), self._target)
        candidate = open_session(self.build(loaded, widths, engine), self._target)
        try:
            for factor in (1, 2):
                timed = compare_latency(dense, candidate, self.timing_feed, seconds=factor * CHECK_SECONDS)
                if timed.speedup.high - timed.speedup.low <= WIDEST_CHECK * timed.speedup.value:
                    break
            return timed
        finally:
            dense.close()
            candidate.close()

    def take_profile(self, config: RunConfig, loaded: Loaded, engine: Engine, progress: Progress | Stages) -> Profile:
        """See ``take_device_profile``; one that was taken before may be used again."""
        return self._stages.result(
            lambda: cache_keys.take_profile(config, loaded, engine),
            lambda: take_device_profile(config, loaded, self, engine, progress),
        )

    def export(self, model: Any, loaded: Loaded, engine: Engine, allowed_drop: float, stages: Stages) -> Exported:
        """Write a model as an engine has it, layers that int8 harms left in float, beside the dense one."""
        folder = self._dense.parent / engine.precision
        folder.mkdir(exist_ok=True)
        path, float_path = folder / "model.onnx", folder / "float.onnx"
        if engine.precision == "fp16":
            return export_half(model, path, loaded, engine, float_path, stages)
        exported = export_checked(model, path, loaded, engine, float_path)
        if engine.scheme in IN_GRAPH:
            held = hold_accuracy(float_path, engine, loaded, allowed_drop, stages)
            if held != engine:
                write_lowered(float_path, replace(held, form="plain"), path, loaded)
                parity = parity_of(path, model, loaded, tolerance=math.inf)
                exported = replace(exported, engine=held, report=report_of(path), parity=parity)
        return exported

    def validate(self, plan: Plan, exported: Exported, loaded: Loaded, profile: Profile | None = None) -> Evaluated:
        """Measure latency and metric of the exported file against the dense float32 one.

        Args:
            plan: what the file should be.
            exported: the file.
            loaded: evaluation examples.
            profile: what predicted its latency; None takes the plan's prediction.

        Returns:
            The timing (None where the target is not here to be timed), the document, and the outcome of every example.
        """
        compressed = open_session(exported.path, self._target)
        baseline = self.baseline(loaded)

        def compare(seconds: float) -> LatencyComparison:
            return compare_latency(baseline, compressed, self._feed, seconds=seconds)

        try:
            comparison, verdict, reason = measured_verdict(plan, compare)
            verdict, reason = with_size(verdict, reason, exported.report.size_bytes, self._config.size_mb)
            on_gpu = compare_without_copies(baseline, compressed, self._feed)
            evaluation, task = loaded.evaluation, loaded.checkpoint.task
            ours = answers_of(compressed, loaded, evaluation, self._rows_per_call(exported))
            dense = answers_of(baseline, loaded, evaluation)
            metric, outcomes = metric_section(task, evaluation, dense, ours)
            slices = slices_section(task, evaluation, loaded.output_names, dense, ours)
            if exported.float_path != exported.path:
                unquantized = self._in_float(exported, loaded)
                drop = drop_between(loaded, evaluation, unquantized, ours)
                metric = metric.with_drop_of(exported.engine.precision, drop)
        finally:
            compressed.close()
        validation = document(
            plan=plan,
            predicted_ms=plan.predicted_ms if profile is None else profile.table.predict(plan.structure.widths),
            comparison=comparison,
            verdict=verdict,
            reason=reason,
            metric=metric,
            sizes=(graph.size_bytes(self._dense), exported.report.size_bytes),
            size_mb=self._config.size_mb,
            length=loaded.length,
            parity=exported.parity,
            deployment=deployment_section(self._config, self._target.name, exported.engine, self._target),
            slices=slices,
            on_gpu=on_gpu,
        )
        return Evaluated(validation, outcomes, comparison)

    def _rows_per_call(self, exported: Exported) -> int:
        # Dynamic int8 takes the range of activations from the whole call: answers depend on what shares it.
        return self._config.batch_size if exported.engine.scheme == "dynamic" else 32

    def _in_float(self, exported: Exported, loaded: Loaded) -> NDArray[np.float64]:
        session = open_session(exported.float_path, self._target)
        try:
            return answers_of(session, loaded, loaded.evaluation)
        finally:
            session.close()


def deployment_section(config: RunConfig, name: str, engine: Engine, here: Target) -> Deployment:
    """What validation.json says of where and how a file was run.

    Args:
        config: batch size and length.
        name: of the target that the file is for.
        engine: how it runs.
        here: what the metric was computed on: the target itself, or the processor in its stead.
    """
    return Deployment(
        target=name,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        precision=engine.precision,
        engine=EngineForm.model_validate(engine.to_json()),
        device=describe_device(here),
    )


def take_device_profile(
    config: RunConfig, loaded: Loaded, device: Device, engine: Engine, progress: Progress | Stages
) -> Profile:
    """Measure the latency table of an engine on the device, and the dense float32 model beside it."""
    shape = loaded.shape
    profile = take_profile(
        lambda widths: device.build(loaded, widths, engine),
        lambda data: open_session(data, loaded.target),
        device.timing_feed,
        shape=shape,
        target=loaded.target.model_copy(update={"precision": engine.precision}),
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        seconds=EFFORT[config.effort].profile_seconds,
        seed=config.seed,
    )
    profile = replace(profile, engine=engine.name)
    if engine.precision != "fp32":
        timed = device.compare(loaded, shape.dense, engine)
        profile = replace(profile, baseline_ms=profile.table.dense_ms * timed.speedup.value)
    errors = sorted(abs(check.error) for check in profile.check)
    dense = f"dense {profile.table.dense_ms:.2f} ms" + (
        "" if profile.baseline_ms is None else f" (fp32 {profile.dense_ms:.2f} ms)"
    )
    progress.info(
        f"{engine.name}: {dense}, embeddings and head {profile.table.fixed_ms:.2f} ms; prediction off "
        f"by {errors[len(errors) // 2]:.1%} (median of {len(errors)} random structures)"
    )
    return profile


def write_dense(loaded: Loaded, scratch: Path) -> Path:
    """Export the dense model."""
    path = scratch / "dense.onnx"
    write_onnx(loaded.checkpoint.model, path, loaded)
    return path


def deployment_feed(config: RunConfig, loaded: Loaded) -> dict[str, NDArray[Any]]:
    """One batch of the deployment's shape: real examples where there are some, else made-up ones."""
    if len(loaded.calibration):
        return fixed_batch(loaded.calibration, config.batch_size, config.seq_len)
    return fixed_batch(made_up(loaded, config.seq_len, 4), config.batch_size, config.seq_len)
