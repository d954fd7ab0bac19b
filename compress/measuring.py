"""The device of a run: the dense model loaded on it, structures timed on it, the artifact measured on it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.config import RunConfig
from compress.data import Encoded, fixed_batch
from compress.effort import EFFORT
from compress.export import graph
from compress.export.onnx import (
    EXTERNAL_DATA_ABOVE_BYTES,
    ExportReport,
    check_parity,
    export_onnx,
    report_of,
)
from compress.export.runtime import Session, open_session
from compress.export.validate import LatencyComparison, choose, compare_latency, predict
from compress.loading import Loaded
from compress.plan import Budget, Plan, Widths
from compress.profile.latency import Profile, recalibrate, take_profile
from compress.profile.target import Target, describe_device
from compress.validation import document, measured_verdict, metric_section

if TYPE_CHECKING:
    from compress.progress import Progress
    from compress.stages import Stages

# Sessions that only serve to be timed carry this many rows of the vocabulary: the rest costs memory, not time.
TIMED_VOCABULARY = 2000
PARITY_EXAMPLES = 64
CHECK_SECONDS = 3.0
FORM_SECONDS = 1.5
# Widest interval of a checked speed-up, relative to it, that is not measured longer.
WIDEST_CHECK = 0.03


@dataclass(frozen=True)
class Exported:
    """A written ONNX file.

    Attributes:
        path: the file.
        report: operators and size.
        parity: largest absolute difference from PyTorch on real examples, padding included.
    """

    path: Path
    report: ExportReport
    parity: float

    def summary(self) -> str:
        """One line for people: size, opset, fused operators, parity."""
        fused = ", ".join(f"{count} {name}" for name, count in sorted(self.report.fusions.items())) or "none"
        return (
            f"{self.report.size_bytes / 1e6:.1f} MB, opset {self.report.opset}, fused operators: {fused}; "
            f"differs from PyTorch by at most {self.parity:.1e}"
        )

    @classmethod
    def check(cls, path: Path, model: Any, loaded: Loaded, report: ExportReport) -> Exported:
        """Compare a file with the PyTorch model it should equal.

        Raises:
            ExportError: they differ.
        """
        examples, task = _some_examples(loaded), loaded.checkpoint.task
        session = open_session(path, loaded.target)
        try:
            parity = check_parity(
                session, model, (batch.inputs for batch in examples.batches(8)), task.forward, read=task.read_file
            )
        finally:
            session.close()
        return cls(path, report, parity)


def export_checked(
    model: Any, path: Path, loaded: Loaded, feed: dict[str, NDArray[np.int64]] | None = None
) -> Exported:
    """Export a model, in its faster form where a feed to time it on is given, and compare the file with it."""
    _write_onnx(model, path, loaded)
    if feed is not None:
        settle_form(path, loaded.target, feed)
    return Exported.check(path, model, loaded, report_of(path))


def _write_onnx(model: Any, path: Path, loaded: Loaded) -> None:
    """Export a model with the inputs and outputs of its task."""
    task = loaded.checkpoint.task
    export_onnx(model, path, input_names=loaded.input_names, output_names=task.file_names, outputs=task.file_outputs)


def settle_form(path: Path, target: Target, feed: dict[str, NDArray[np.int64]]) -> str:
    """Keep the faster of two forms of an exported file: as it is, or fused by ONNX Runtime's offline optimizer.

    Returns:
        ``plain`` or ``offline``: what the file is now. Plain unless the other is faster beyond doubt.
    """
    import onnx

    if graph.size_bytes(path) > EXTERNAL_DATA_ABOVE_BYTES:
        return "plain"
    fused = path.with_name(f".{path.name}.offline")
    sessions: dict[str, Session] = {}
    try:
        graph.save(graph.fuse_offline(onnx.load(str(path))), fused, EXTERNAL_DATA_ABOVE_BYTES)
        sessions = {"plain": open_session(path, target), "offline": open_session(fused, target)}
        chosen = choose(sessions, feed, seconds=FORM_SECONDS)
        if chosen == "offline":
            fused.replace(path)
        return chosen
    finally:
        for session in sessions.values():
            session.close()
        fused.unlink(missing_ok=True)


class Device:
    """The target with the dense model on it."""

    def __init__(self, config: RunConfig, target: Target, dense: Path, feed: dict[str, NDArray[np.int64]]) -> None:
        self._target, self._dense, self._feed = target, dense, feed
        self._config = config
        self._session: Session | None = None
        self._pattern: Any = None

    @classmethod
    def open(cls, config: RunConfig, loaded: Loaded, scratch: Path) -> Device:
        """Export the dense model into ``scratch``."""
        dense = scratch / "dense.onnx"
        _write_onnx(loaded.checkpoint.model, dense, loaded)
        return cls(config, loaded.target, dense, deployment_feed(config, loaded))

    @property
    def dense(self) -> Session:
        """The dense model's session: the baseline, given the same choice of forms as the compressed model."""
        if self._session is None:
            baseline = self._dense.with_name("baseline.onnx")
            shutil.copyfile(self._dense, baseline)
            settle_form(baseline, self._target, self._feed)
            self._session = open_session(baseline, self._target)
        return self._session

    def close(self) -> None:
        """Free the sessions."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._pattern = None

    def build(self, loaded: Loaded, widths: Widths) -> bytes:
        """The exported file that a structure of these widths would have, but for its weights; good for timing."""
        import onnx

        if self._pattern is None:
            self._pattern = graph.trim_vocabulary(onnx.load(str(self._dense)), TIMED_VOCABULARY)
        data: bytes = graph.narrow(self._pattern, loaded.checkpoint.encoder, widths).SerializeToString()
        return data

    @property
    def timing_feed(self) -> dict[str, NDArray[np.int64]]:
        """The deployment's batch, with token ids that ``build`` has rows for."""
        return {k: v % TIMED_VOCABULARY if k == "input_ids" else v for k, v in self._feed.items()}

    def time_structure(self, plan: Plan, loaded: Loaded) -> LatencyComparison:
        """Time a planned structure beside the dense model, before its weights exist.

        Measured longer while the interval of the speed-up is wide: a search corrected by noise goes astray.
        """
        dense = open_session(self.build(loaded, plan.shape.dense), self._target)
        candidate = open_session(self.build(loaded, plan.structure.widths), self._target)
        try:
            for factor in (1, 2):
                timed = compare_latency(dense, candidate, self.timing_feed, seconds=factor * CHECK_SECONDS)
                if timed.speedup.high - timed.speedup.low <= WIDEST_CHECK * timed.speedup.value:
                    break
            return timed
        finally:
            dense.close()
            candidate.close()

    def export(self, model: Any, path: Path, loaded: Loaded) -> Exported:
        """Export the compressed model and compare the file with it."""
        return export_checked(model, path, loaded, self._feed)

    def validate(
        self, plan: Plan, exported: Exported, loaded: Loaded, profile: Profile | None = None
    ) -> tuple[LatencyComparison, dict[str, Any]]:
        """Measure latency and metric of the exported file against the dense one.

        Args:
            plan: what the file should be.
            exported: the file.
            loaded: evaluation examples.
            profile: what predicted its latency; None takes the plan's prediction.

        Returns:
            The timing, and what validation.json holds.
        """
        compressed = open_session(exported.path, self._target)

        def compare(seconds: float) -> LatencyComparison:
            return compare_latency(self.dense, compressed, self._feed, seconds=seconds)

        try:
            comparison, verdict, reason = measured_verdict(plan, compare)
            evaluation, task = loaded.evaluation, loaded.checkpoint.task
            metric = metric_section(
                task,
                evaluation,
                predict(self.dense, evaluation, read=task.read_file, fill=task.fill),
                predict(compressed, evaluation, read=task.read_file, fill=task.fill),
            )
        finally:
            compressed.close()
        return comparison, document(
            plan=plan,
            predicted_ms=plan.predicted_ms if profile is None else profile.table.predict(plan.structure.widths),
            comparison=comparison,
            verdict=verdict,
            reason=reason,
            metric=metric,
            sizes=(graph.size_bytes(self._dense), exported.report.size_bytes),
            length=loaded.length,
            parity=exported.parity,
            deployment={
                "target": self._target.name,
                "batch_size": self._config.batch_size,
                "seq_len": self._config.seq_len,
                "precision": self._config.precision,
                "device": describe_device(self._target),
            },
        )


def used_budget(budget: Budget, timed: LatencyComparison) -> float:
    """Measured latency as a fraction of a latency or speed-up budget."""
    if budget.kind == "speedup":
        return budget.value / timed.speedup.value
    return timed.compressed.value / budget.value


def corrected(profile: Profile, plan: Plan, timed: LatencyComparison) -> Profile:
    """The profile, corrected so that it predicts what was measured for a plan's structure.

    For a speed-up only the ratio counts, and the profile's dense latency stays; for a latency both are as measured now.
    """
    widths = plan.structure.widths
    if plan.budget.kind == "speedup":
        return recalibrate(profile, widths, profile.table.dense_ms / timed.speedup.value)
    return recalibrate(profile, widths, timed.compressed.value, timed.dense.value)


def take_device_profile(config: RunConfig, loaded: Loaded, device: Device, progress: Progress | Stages) -> Profile:
    """Measure the latency table on the device."""
    profile = take_profile(
        lambda widths: device.build(loaded, widths),
        lambda data: open_session(data, loaded.target),
        device.timing_feed,
        shape=loaded.shape,
        target=loaded.target,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        seconds=EFFORT[config.effort].profile_seconds,
        seed=config.seed,
    )
    errors = sorted(abs(check.error) for check in profile.check)
    progress.info(
        f"dense {profile.table.dense_ms:.2f} ms, embeddings and head {profile.table.fixed_ms:.2f} ms; prediction off "
        f"by {errors[len(errors) // 2]:.1%} (median of {len(errors)} random structures)"
    )
    return profile


def deployment_feed(config: RunConfig, loaded: Loaded) -> dict[str, NDArray[np.int64]]:
    """One batch of the deployment's shape: real examples where there are some, else made-up token ids."""
    if len(loaded.calibration):
        return fixed_batch(loaded.calibration, config.batch_size, config.seq_len)
    return fixed_batch(_made_up(loaded, config.seq_len, 4), config.batch_size, config.seq_len)


def _some_examples(loaded: Loaded) -> Encoded:
    examples = loaded.evaluation if len(loaded.evaluation) else loaded.calibration
    if not len(examples):
        return _made_up(loaded, 16, 8)
    return examples.select(range(min(PARITY_EXAMPLES, len(examples))))


def _made_up(loaded: Loaded, length: int, count: int) -> Encoded:
    ids = np.random.default_rng(0).integers(0, loaded.checkpoint.model.config.vocab_size, size=(count, length))
    rows = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return Encoded(
        features={name: list(rows.get(name, np.zeros_like(ids))) for name in loaded.input_names},
        labels=None,
        padding=dict.fromkeys(loaded.input_names, 0),
    )
