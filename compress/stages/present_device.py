"""A target that is this machine: structures are timed on it, and the artifact is measured on it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.plan import Plan, Widths
from compress.core.trace import span
from compress.export.apart import RUNTIMES as TIMED_APART
from compress.export.apart import Apart
from compress.export.lowering import INVARIANT, Engine, usable_variants
from compress.export.measure import LatencyComparison, choose_fastest, compare_latency, compare_without_copies
from compress.export.runtime import open_session, refuse_absent, require_runtime
from compress.export.session import Session
from compress.options.effort import EFFORT
from compress.profile.take import ModelSource, Profile, Workload, take_profile
from compress.profile.target import Precision
from compress.stages import cache_codecs
from compress.stages.cache_keys import deployment_inputs
from compress.stages.context import Run
from compress.stages.dense_model import DenseModel, deployment_feed, export_dense
from compress.stages.device import Device
from compress.stages.evaluate import Answers, Evaluation, Timing, answers_of_file
from compress.stages.export import export_as, quantize_again, write_lowered
from compress.stages.forms import open_forms
from compress.stages.int8_accuracy import answers_of, hold_accuracy, hold_ranges
from compress.stages.invariance import measure_invariance
from compress.stages.results import Evaluated, Exported
from compress.stages.stage import Stage, stage
from compress.stages.validate import (
    measured_verdict,
)

if TYPE_CHECKING:
    from compress.inputs.load import Loaded

RUNTIMES = ("onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "torch")
CHECK_SECONDS = 2.0
FORM_SECONDS = 1.0
# Of the dense model in the file's number format against the file: no verdict rests on it.
UNPRUNED_SECONDS = 1.2
# Share of a profile's time that is enough where nothing is planned by it.
ROUGH = 0.3
# Widest interval of a checked speed-up, relative to it, that is not measured longer.
WIDEST_CHECK = 0.03
# What int8 that answers alike in every call may cost in speed before another form is taken unasked.
WORTH_INVARIANCE = 0.1


class PresentDevice(Device):
    """``Device`` on this machine.

    Args:
        run: options, inputs and progress; the device in it is not used.
        dense: the dense model.
    """

    def __init__(self, run: Run, dense: DenseModel) -> None:
        self._run, self._dense = run, dense
        self._session: Session | None = None
        self._baseline: Path | bytes | None = None
        apart = run.loaded.target.runtime in TIMED_APART
        self._apart = Apart(run.loaded.target, dense.path.parent) if apart else None
        self._forms: dict[tuple[Precision, Widths], Engine] = {}

    @classmethod
    def open(cls, run: Run, scratch: Path) -> PresentDevice:
        """Export the dense model.

        Args:
            run: gives model and target.
            scratch: directory to export into.

        Raises:
            TargetError: the target is not on this machine, or its runtime is not installed.
        """
        refuse_absent(run.loaded.target)
        require_runtime(run.loaded.target)
        path = export_dense(run, scratch)
        return cls(run, DenseModel(run.loaded, path, deployment_feed(run.config, run.loaded)))

    @property
    def _loaded(self) -> Loaded:
        return self._run.loaded

    def dense_bytes(self, engine: Engine) -> float:
        """See ``Device``."""
        return self._dense.size_bytes(engine)

    def baseline(self) -> Session:
        """The dense float32 model in its fastest form: what every speed-up is against."""
        if self._session is None:
            self._session = open_session(self._baseline_source(), self._loaded.target)
        return self._session

    def _baseline_source(self) -> Path | bytes:
        if self._baseline is None:
            engine, path = self.fastest("fp32", self._loaded.shape.dense), self._dense.path.with_name("baseline.onnx")
            if engine.form == "compiled":
                self._baseline = self._dense.build(self._loaded.shape.dense, engine)
            else:
                shutil.copyfile(self._dense.path, path)
                write_lowered(self._dense.path, engine, path, self._loaded)
                self._baseline = path
        return self._baseline

    def close(self) -> None:
        """See ``Device``."""
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._apart is not None:
            self._apart.close()
        self._dense.forget()

    def fastest(self, precision: Precision, widths: Widths | None = None) -> Engine:
        """See ``Device``; found by timing all forms there are."""
        widths = widths or half(self._loaded)
        if (precision, widths) not in self._forms:
            self._forms[precision, widths] = _choose_form(self._run, self._dense, precision, widths)
        return self._forms[precision, widths]

    def compare(self, widths: Widths, engine: Engine) -> LatencyComparison:
        """See ``Device``.

        Measured longer while the interval of the speed-up is wide: a search corrected by noise goes astray.
        """
        built = self._dense.build(widths, engine)
        how: dict[str, Any] = {"seconds": CHECK_SECONDS, "widest": WIDEST_CHECK, "most": 2}
        if self._apart is not None:
            return self._apart.compare(self._baseline_source(), built, self._dense.timing_feed, **how)
        candidate = open_session(built, self._loaded.target)
        try:
            return compare_latency(self.baseline(), candidate, self._dense.timing_feed, **how)
        finally:
            candidate.close()

    def take_profile(self, engine: Engine) -> Profile:
        """See ``Device``."""
        return measure_profile(self._run.on(self), self._dense, engine)

    def export(self, model: Any, engine: Engine) -> Exported:
        """See ``Device``."""
        return export_beside(self._run, self._dense, model, engine)

    def validate(self, plan: Plan, exported: Exported, profile: Profile | None = None) -> Evaluated:
        """See ``Device``."""
        loaded = self._loaded
        compressed = open_session(exported.path, loaded.target)
        baseline = self.baseline()

        def compare(seconds: float) -> LatencyComparison:
            if self._apart is not None:
                return self._apart.compare(self._baseline_source(), exported.path, self._dense.feed, seconds)
            return compare_latency(baseline, compressed, self._dense.feed, seconds=seconds)

        try:
            with span("timing"):
                comparison, verdict, reason = measured_verdict(plan, compare)
                on_gpu = compare_without_copies(baseline, compressed, self._dense.feed)
                unpruned = self._without_pruning(plan, exported, compressed)
            with span("answers"):
                ours = answers_of(compressed, loaded, loaded.evaluation, self._rows_per_call(exported))
                dense = answers_of(baseline, loaded, loaded.evaluation)
            with span("invariance"):
                invariance = measure_invariance(compressed, loaded)
        finally:
            compressed.close()
        quantized = exported.float_path != exported.path
        answers = Answers(dense, ours, answers_of_file(self._run, exported.float_path) if quantized else None)
        answers = replace(answers, invariance=invariance)
        timing = Timing(verdict, reason, comparison, on_gpu, unpruned)
        return Evaluation(self._run, self._dense, loaded.target.name).of(exported, plan, profile, timing, answers)

    def _without_pruning(self, plan: Plan, exported: Exported, compressed: Session) -> LatencyComparison | None:
        """The dense model as the file's engine has it, timed against the file; None where that is no third model."""
        engine = exported.engine
        if engine.precision == "fp32" or plan.structure.widths == plan.shape.dense:
            return None
        # Nodes that stay in float32 are of the pruned file.
        engine = replace(engine, float32_nodes=(), left_out=engine.left_out if engine.precision == "int8" else ())
        built = self._dense.build(plan.shape.dense, engine)
        if self._apart is not None:
            return self._apart.compare(built, exported.path, self._dense.timing_feed, UNPRUNED_SECONDS)
        dense = open_session(built, self._loaded.target)
        try:
            return compare_latency(dense, compressed, self._dense.timing_feed, seconds=UNPRUNED_SECONDS)
        finally:
            dense.close()

    def _rows_per_call(self, exported: Exported) -> int:
        # Dynamic int8 takes the range of activations from the whole call: answers depend on what shares it.
        return self._run.config.batch_size if exported.engine.scheme == "dynamic" else 32


def _planned_without(run: Run) -> bool:
    """Whether the plan takes no latency from the profile, which then only tells what to expect."""
    budget = run.config.budget_given
    return budget is not None and budget.kind == "macs"


def half(loaded: Loaded) -> Widths:
    """Half of every sublayer, which stands for pruned structures.

    Args:
        loaded: the dense model.
    """
    shape = loaded.shape
    return Widths((max(1, shape.heads // 2),) * shape.layers, (max(1, shape.filters // 2),) * shape.layers)


@stage(
    Stage("form", version=7, after="target", libraries=RUNTIMES, measured=True),
    inputs=lambda run, dense, precision, widths: {
        "deployment": deployment_inputs(run),
        "precision": precision,
        "int8": run.config.int8 if precision == "int8" else None,
        "examples": len(run.loaded.calibration) if precision == "int8" else None,
        "heads": list(widths.heads),
        "filters": list(widths.filters),
    },
    codec=cache_codecs.ENGINE,
    of=lambda run, dense, precision, widths: precision,
)
def _choose_form(run: Run, dense: DenseModel, precision: Precision, widths: Widths) -> Engine:
    """The fastest form of a number format, by timing all there are; of int8 an invariant one where it costs little."""
    offered = usable_variants(run.loaded.target, precision, run.config.int8, len(run.loaded.calibration))
    sessions: dict[str, Session] = {}
    try:
        if len(offered) > 1:
            sessions = open_forms(run, dense, widths, offered)
        chosen = choose_fastest(sessions, dense.timing_feed, seconds=FORM_SECONDS) if sessions else offered[0].name
        if precision == "int8" and run.config.int8 != "fastest":
            chosen = _invariant_if_worth_it(run, dense, offered, sessions, chosen)
    finally:
        for session in sessions.values():
            session.close()
    return next(engine for engine in offered if engine.name == chosen)


def _invariant_if_worth_it(
    run: Run, dense: DenseModel, offered: Sequence[Engine], sessions: Mapping[str, Session], fastest: str
) -> str:
    """The first invariant form if it is nearly as fast as the fastest, which otherwise is taken and said.

    It has scales for what static ranges cut off or round coarsely. all-mpnet-base-v2 was planned for 6x with static
    ranges; then 16 of its layers had to stay in float32, and the file had 4.2x.

    Args:
        run: told about the choice.
        dense: has the batch to time on.
        offered: all forms.
        sessions: of each form, by its name.
        fastest: name of the fastest form.
    """
    invariant = [engine.name for engine in offered if engine.scheme in INVARIANT]
    if not invariant or fastest == invariant[0]:
        return fastest
    timed = compare_latency(
        sessions[invariant[0]], sessions[fastest], dense.timing_feed, seconds=FORM_SECONDS, seed=run.config.seed
    )
    cost = timed.speedup.value - 1
    if cost < WORTH_INVARIANCE:
        return invariant[0]
    if fastest in invariant:
        run.info(f"{fastest} is taken: {invariant[0]}, which rounds less coarsely, takes {cost:.0%} longer here")
    else:
        run.info(
            f"{fastest} is taken: {invariant[0]}, whose answers do not depend on what shares a call, takes {cost:.0%} "
            "longer here; --int8 invariant takes it all the same"
        )
    return fastest


@stage(
    Stage("profile", version=6, after="form", depends_on=("form",), libraries=RUNTIMES, measured=True),
    inputs=lambda run, dense, engine: {
        "deployment": deployment_inputs(run),
        "engine": engine.to_json(),
        "measured_seconds": EFFORT[run.config.effort].profile_seconds,
        "rough": _planned_without(run),
        "seed": run.config.seed,
    },
    codec=cache_codecs.PROFILE,
    of=lambda run, dense, engine: engine.precision,
)
def measure_profile(run: Run, dense: DenseModel, engine: Engine) -> Profile:
    """Measure the latency table of an engine on the device, and the dense float32 model beside it.

    Args:
        run: deployment, effort and seed; its device times the float32 model.
        dense: structures to time.
        engine: number format and form.
    """
    config, loaded = run.config, run.loaded
    # Otherwise the first structure would seem to take long, and the profile would have fewer of them.
    dense.prepare(engine)
    profile = take_profile(
        ModelSource(
            lambda widths: dense.build(widths, engine),
            lambda data: open_session(data, loaded.target),
            dense.timing_feed,
            slow=engine.form == "compiled",
        ),
        Workload(
            loaded.shape,
            loaded.target.model_copy(update={"precision": engine.precision}),
            config.batch_size,
            config.seq_len,
        ),
        seconds=EFFORT[config.effort].profile_seconds * (ROUGH if _planned_without(run) else 1.0),
        rough=_planned_without(run),
        seed=config.seed,
    )
    profile = replace(profile, engine=engine.name)
    if engine.precision != "fp32":
        timed = run.device.compare(loaded.shape.dense, engine)
        profile = replace(profile, baseline_ms=profile.table.dense_ms * timed.speedup.value)
    errors = sorted(abs(check.error) for check in profile.check)
    whole = f"dense {profile.table.dense_ms:.2f} ms" + (
        "" if profile.baseline_ms is None else f" (fp32 {profile.dense_ms:.2f} ms)"
    )
    run.info(
        f"{engine.name}: {whole}, embeddings and head {profile.table.fixed_ms:.2f} ms; prediction off "
        f"by {errors[len(errors) // 2]:.1%} (median of {len(errors)} random structures)"
    )
    return profile


def export_beside(run: Run, dense: DenseModel, model: Any, engine: Engine) -> Exported:
    """Write a model as an engine has it, beside the dense one; layers that int8 harms stay in float.

    Args:
        run: examples to compare on, and what int8 may lose.
        dense: where the file goes.
        model: in PyTorch.
        engine: number format and form.
    """
    loaded = run.loaded
    folder = dense.path.parent / engine.precision
    folder.mkdir(exist_ok=True)
    path, float_path = folder / "model.onnx", folder / "float.onnx"
    exported = export_as(engine, model, path, loaded, float_path, run.stages, dense.path)
    if engine.precision == "int8":
        held = hold_accuracy(exported.float_path, engine, loaded, run.config.int8_drop, run.stages)
        held = hold_ranges(exported.float_path, held, loaded, run.stages)
        if held != engine:
            exported = quantize_again(exported, held, model, loaded)
    return exported
