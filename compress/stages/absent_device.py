"""A target that is not this machine: planned, exported and compared here, timed on the device later.

Answers do not depend on the device, so accuracy and parity are measured here, on the processor. Latencies are predicted
by a profile that was brought from the device, or by one estimated from the target's data sheet; both are said, and the
verdict on a latency stays inconclusive until ``compress validate`` has run on the device.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import TargetError
from compress.core.plan import Plan, Widths
from compress.export import graph, standard_ops
from compress.export.cuda import absence
from compress.export.lowering import Engine, variants
from compress.inputs.load import Loaded
from compress.profile.roofline import estimate_profile
from compress.profile.take import Profile
from compress.profile.target import ENGINE_RUNTIMES, Precision, load_target
from compress.stages.context import Run
from compress.stages.dense_model import DenseModel, deployment_feed, export_dense
from compress.stages.device import Device
from compress.stages.evaluate import Answers, Evaluation, Timing, answers_of_file
from compress.stages.present_device import export_beside
from compress.stages.results import Evaluated, Exported
from compress.stages.validate import (
    verdict_of,
)

if TYPE_CHECKING:
    from compress.export.measure import LatencyComparison


def here(loaded: Loaded) -> Loaded:
    """The same on this machine: on the target where it is here, else on the processor, which answers alike."""
    target = loaded.target
    return replace(loaded, target=load_target("cpu")) if target.on_gpu and absence(target) else loaded


class AbsentDevice(Device):
    """``Device`` for a target that is elsewhere. The dense model runs on this machine's processor.

    Args:
        run: options, inputs and progress; its target is the absent one.
        dense: the dense model, for the processor.
    """

    def __init__(self, run: Run, dense: DenseModel) -> None:
        self._run, self._dense = run, dense
        # The same with the processor for a target.
        self._here = replace(run, loaded=dense.loaded)

    @classmethod
    def open(cls, run: Run, scratch: Path) -> AbsentDevice:
        """Export the dense model.

        Args:
            run: gives model and target.
            scratch: directory to export into.

        Raises:
            ExportError: the target's parser does not take the model.
        """
        import onnx

        loaded = run.loaded
        path = export_dense(run, scratch)
        if loaded.target.runtime in ENGINE_RUNTIMES:
            # What its parser does not take, it would refuse on the device, when everything has been computed.
            standard_ops.check_supported(standard_ops.expand_attention(onnx.load(str(path))), loaded.target)
        processor = replace(loaded, target=load_target("cpu"))
        return cls(run, DenseModel(processor, path, deployment_feed(run.config, loaded)))

    def dense_bytes(self, engine: Engine) -> float:
        """See ``Device``."""
        return self._dense.size_bytes(engine)

    def fastest(self, precision: Precision, widths: Widths | None = None) -> Engine:
        """The runtime's default form: there is nothing to time."""
        return variants(self._run.loaded.target, precision, self._run.config.int8)[0]

    def take_profile(self, engine: Engine) -> Profile:
        """Estimated, from the target's data sheet."""
        config, loaded = self._run.config, self._run.loaded
        profile = estimate_profile(loaded.shape, loaded.target, engine.precision, config.batch_size, config.seq_len)
        self._run.info(
            f"{engine.name}: dense {profile.table.dense_ms:.3f} ms, embeddings and head {profile.table.fixed_ms:.3f} "
            f"ms, both estimated from the data sheet of {loaded.target.device}"
        )
        return profile

    def compare(self, widths: Widths, engine: Engine) -> LatencyComparison:
        """Raise TargetError: nothing can be timed."""
        name = self._run.loaded.target.name
        raise TargetError(f"target '{name}' is not on this machine, so no structure can be timed on it")

    def export(self, model: Any, engine: Engine) -> Exported:
        """As for the device, compared with PyTorch here."""
        return export_beside(self._here, self._dense, model, engine)

    def close(self) -> None:
        """See ``Device``."""
        self._dense.forget()

    def validate(self, plan: Plan, exported: Exported, profile: Profile | None = None) -> Evaluated:
        """Metric and parity of the exported file against the dense float32 one; latencies are predictions."""
        run, quantized = self._here, exported.float_path != exported.path
        answers = Answers(
            answers_of_file(run, self._dense.path),
            answers_of_file(run, exported.path),
            answers_of_file(run, exported.float_path) if quantized else None,
            self._emulated(exported) if exported.engine.precision == "fp16" else None,
        )
        evaluation = Evaluation(run, self._dense, self._run.loaded.target.name)
        return evaluation.of(exported, plan, profile, Timing(*verdict_of(plan, None)), answers)

    def _emulated(self, exported: Exported) -> Any:
        """Answers with every value between operators rounded to fp16, as on a GPU."""
        import onnx

        from compress.export import fp16

        rounded = fp16.emulate_fp16(onnx.load(str(exported.float_path)), exported.engine.left_out)
        with tempfile.TemporaryDirectory(prefix="compress-") as folder:
            path = Path(folder) / "model.onnx"
            graph.save(rounded, path, graph.EXTERNAL_DATA_ABOVE_BYTES)
            return answers_of_file(self._here, path)
