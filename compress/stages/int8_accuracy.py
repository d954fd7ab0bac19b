"""int8 that holds its accuracy: the layers whose rounding changes the outputs most stay in float."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.core.statistics import Interval, drop_interval
from compress.data.batches import Encoded
from compress.stages.export import batches_of, samples_of

if TYPE_CHECKING:
    from compress.artifact.validation import Validation
    from compress.core.progress import Progress
    from compress.export.lowering import Engine
    from compress.export.session import Session
    from compress.inputs.load import Loaded
    from compress.stages.results import Exported

# Calibration examples that int8 is judged on: enough to tell 1 % from 3 %, few enough for every layer in turn.
JUDGED_EXAMPLES = 256
# Share of values that a static range may cut off.
MOST_BEYOND = 0.001
# nncf takes seconds for each layer that it is asked about, most of them for ranges: a few batches rank layers as well.
RANKED_SAMPLES = 2


@dataclass(frozen=True)
class Sensitivity:
    """What int8 does to the outputs when one weight alone is quantized.

    Attributes:
        weight: as ``quantize.quantizable`` names it.
        error: root mean square of the change of the outputs, relative to their spread.
    """

    weight: str
    error: float


def answers_of(session: Session, loaded: Loaded, data: Encoded, batch_size: int = 32) -> NDArray[Any]:
    """What a file answers on examples, as its task reads it.

    Args:
        session: the loaded file.
        loaded: has the task.
        data: the examples.
        batch_size: examples per call.
    """
    from compress.export.measure import predict

    task = loaded.checkpoint.task
    return predict(session, data, batch_size, read=task.read_file, fill=task.fill)


def drop_between(loaded: Loaded, data: Encoded, dense: NDArray[Any], ours: NDArray[Any]) -> Interval:
    """What ``ours`` loses of the metric against ``dense``, paired; without labels, of agreement with it.

    Args:
        loaded: has the task.
        data: the examples.
        dense: answers of the better model.
        ours: answers of the other.
    """
    task = loaded.checkpoint.task
    before, after = task.evaluate(dense, data, dense), task.evaluate(ours, data, dense)
    return drop_interval(before.scores, after.scores, after.combine)


def too_much(drop: Interval, allowed: float) -> bool:
    """Whether a drop is beyond what is allowed, and beyond the noise of the examples it was measured on.

    Args:
        drop: of the metric, with its interval.
        allowed: largest drop.
    """
    return drop.value > allowed and drop.low > 0


def hold_accuracy(float_path: Path, engine: Engine, loaded: Loaded, allowed: float, progress: Progress) -> Engine:
    """Leave the most sensitive layers out of int8 until what it loses on calibration data is allowed.

    Args:
        float_path: the model in float32, in the engine's form.
        engine: int8.
        loaded: calibration examples and target.
        allowed: drop of the metric.
        progress: told what was left out.

    Returns:
        The engine, with ``left_out`` filled where it had to be. Where even half of the layers in float do not help, as
        few as lose least.
    """
    data = loaded.calibration.select(range(max(0, len(loaded.calibration) - JUDGED_EXAMPLES), len(loaded.calibration)))
    if not len(data):
        return engine
    bench = _Bench(float_path, engine, loaded, data)
    if not too_much(bench.drop(()), allowed):
        return engine
    ranked = bench.ranked()
    tried: list[tuple[float, int]] = []
    count = 1
    while count <= max(1, len(ranked) // 2):
        left_out = tuple(found.weight for found in ranked[:count])
        drop = bench.drop(left_out)
        tried.append((drop.value, count))
        if not too_much(drop, allowed):
            break
        count *= 2
    _, count = min(tried)
    left_out = tuple(found.weight for found in ranked[:count])
    progress.info(f"left in {engine.rest}, since int8 changes the outputs most there: {', '.join(left_out)}")
    return replace(engine, left_out=left_out)


def hold_ranges(float_path: Path, engine: Engine, loaded: Loaded, progress: Progress) -> Engine:
    """Leave layers out of invariant int8 whose ranges do not hold on evaluation data.

    Args:
        float_path: the model in float32, in the engine's form.
        engine: int8.
        loaded: examples.
        progress: told which layers, and what is the matter with the calibration data.

    Returns:
        The engine, with more in ``left_out`` where it had to be.
    """
    import onnx

    from compress.export import int8_invariant
    from compress.export.lowering import lower

    if engine.scheme != "invariant" or not len(loaded.evaluation):
        return engine
    model = onnx.load(str(float_path))
    quantized = lower(model, replace(engine, form="plain"), samples_of(loaded))
    shares = int8_invariant.exceeded(model, quantized, batches_of(loaded.evaluation))
    beyond = {weight: share for weight, share in shares.items() if share > MOST_BEYOND}
    if not beyond:
        return engine
    worst = ", ".join(f"{weight} ({share:.2%})" for weight, share in beyond.items())
    progress.info(
        f"left in fp32, since evaluation data exceeds the ranges of calibration data there: {worst}; calibration "
        f"examples have {loaded.calibration.mean_length:.0f} tokens, evaluation examples "
        f"{loaded.evaluation.mean_length:.0f}: calibrate on data like the deployment's"
    )
    return replace(engine, left_out=(*engine.left_out, *(name for name in beyond if name not in engine.left_out)))


def offenders(float_path: Path, engine: Engine, loaded: Loaded) -> list[Sensitivity]:
    """The weights that int8 hurts most, worst first.

    Args:
        float_path: the model in float32.
        engine: int8.
        loaded: calibration examples and target.
    """
    if engine.scheme == "float" or not len(loaded.calibration):
        return []
    count = len(loaded.calibration)
    data = loaded.calibration.select(range(max(0, count - JUDGED_EXAMPLES), count))
    return _Bench(float_path, engine, loaded, data).ranked()


class _Bench:
    """Runs a model on some examples with any of its layers in int8."""

    def __init__(self, float_path: Path, engine: Engine, loaded: Loaded, data: Encoded) -> None:
        import onnx

        self._model = onnx.load(str(float_path))
        self._engine, self._loaded, self._data = replace(engine, form="plain"), loaded, data
        self._dense = self._answers(None)

    def _answers(self, left_out: Sequence[str] | None, samples: int | None = None) -> NDArray[Any]:
        """Outputs with these weights in float; None leaves all of them. Ranges are of so many batches; None for all."""
        from compress.export import graph, openvino
        from compress.export.lowering import lower
        from compress.export.runtime import open_session

        model, target = self._model, self._loaded.target
        feeds = samples_of(self._loaded)[:samples]
        if left_out is not None:
            model = lower(model, replace(self._engine, left_out=tuple(left_out)), feeds)
        with tempfile.TemporaryDirectory(prefix="compress-") as folder:
            path = Path(folder) / "model.onnx"
            graph.save(graph.copy_of(model), path, graph.EXTERNAL_DATA_ABOVE_BYTES)
            file: Path | bytes = path
            if self._engine.scheme == "nncf" and left_out is not None:
                file = openvino.to_bytes(openvino.convert(path, target, feeds, left_out))
            session = open_session(file, target)
            try:
                return answers_of(session, self._loaded, self._data)
            finally:
                session.close()

    def drop(self, left_out: Sequence[str]) -> Interval:
        return drop_between(self._loaded, self._data, self._dense, self._answers(left_out))

    def ranked(self) -> list[Sensitivity]:
        """Every weight's own error, the largest first."""
        from compress.export.int8 import output_error, quantizable

        weights = list(quantizable(self._model).values())
        samples = RANKED_SAMPLES if self._engine.scheme == "nncf" else None
        found = []
        for weight in weights:
            alone = self._answers([other for other in weights if other != weight], samples)
            found.append(Sensitivity(weight, output_error([alone], [self._dense])))
        return sorted(found, key=lambda sensitivity: -sensitivity.error)


def refusal_of(validation: Validation, exported: Exported, loaded: Loaded, allowed: float) -> str | None:
    """Why a measured int8 file must not be used; None where it may be.

    Args:
        validation: what was measured on the file.
        exported: the file.
        loaded: calibration examples, on which the layers to blame are found.
        allowed: drop of the metric against the same model in float32.
    """
    found = validation.metric.drop_of_int8
    if found is None:
        return None
    drop = found.interval
    if not too_much(drop, allowed):
        return None
    return refusal(drop, allowed, offenders(exported.float_path, exported.engine, loaded))


def refusal(drop: Interval, allowed: float, worst: Sequence[Sensitivity]) -> str:
    """The message of an int8 that costs too much, with the layers that it hurts most.

    Args:
        drop: of the metric against the same model in float32.
        allowed: largest drop.
        worst: weights that int8 hurts most, worst first.
    """
    layers = ", ".join(f"{found.weight} ({found.error:.1%})" for found in worst[:4])
    return (
        f"int8 loses {drop.value:.4f} of the metric against the same model in fp32 (95 % interval {drop.low:.4f} to "
        f"{drop.high:.4f}), {allowed:g} is allowed"
        + (f"; it changes the outputs most in {layers}" if layers else "")
        + ". Use --precision fp32, or allow more with --int8-drop"
    )
