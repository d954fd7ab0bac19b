"""From a model in PyTorch to a file that a target runs, compared with PyTorch on real examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.core.progress import Progress, Silent
from compress.core.trace import span
from compress.data.batches import Encoded, fixed_batch
from compress.export import fp16, graph, openvino
from compress.export.aotinductor_record import PACKAGE
from compress.export.filling import fill
from compress.export.graph import EXTERNAL_DATA_ABOVE_BYTES
from compress.export.lowering import Engine, lower
from compress.export.onnx import check_parity, export_onnx, read_report
from compress.export.runtime import open_session
from compress.inputs.load import Loaded
from compress.models.encoder import longest_input
from compress.profile.target import load_target
from compress.stages.results import Exported

if TYPE_CHECKING:
    from torch import Tensor

    from compress.export.aotinductor import Interface

PARITY_EXAMPLES = 64
# Examples that static int8 takes the ranges of activations from.
STATIC_EXAMPLES = 128
# As exported, in float32.
DENSE_ENGINE = Engine()
# Batch sizes and lengths that every file is run at, beside those of the examples. The exporter traces another pair.
OTHER_SHAPES = ((1, 7), (3, 19))


def export_checked(
    model: Any,
    path: Path,
    loaded: Loaded,
    engine: Engine = DENSE_ENGINE,
    float_path: Path | None = None,
    pattern: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Export a model, compare it with PyTorch, and lower it to its number format.

    The float graph has to equal PyTorch; what int8 differs by is measured, and judged by the accuracy it costs.

    Args:
        model: in PyTorch.
        path: file to write.
        loaded: examples to compare on, and to calibrate int8 on.
        engine: form and number format.
        float_path: where the float32 file goes; None keeps none beside a quantized one.
        pattern: see ``write_onnx``.
        progress: told what stays in fp32; None says nothing.

    Raises:
        ExportError: the float graph is not the model.
    """
    unquantized = path if engine.scheme in ("float", "nncf") else (float_path or path.with_name(f".{path.name}.float"))
    parity = _write_float(model, unquantized, loaded, engine, pattern)
    if loaded.target.runtime == "openvino":
        return _as_openvino(model, unquantized, loaded, engine)
    if engine.scheme != "float":
        if engine.rest == "fp16":
            engine = replace(engine, float32_nodes=_float32_nodes(unquantized, loaded, progress or Silent()))
        write_lowered(unquantized, replace(engine, form="plain"), path, loaded)
        parity = parity_of(path, model, loaded, tolerance=math.inf)
        if float_path is None:
            graph.remove(unquantized)
            unquantized = path
    return Exported(path, engine, read_report(path), parity, unquantized)


def _write_float(model: Any, path: Path, loaded: Loaded, engine: Engine, pattern: Path | None) -> float:
    """Write a float32 file in an engine's form; returns its largest difference from PyTorch."""
    filled = write_onnx(model, path, loaded, pattern)
    write_lowered(path, replace(engine, precision="fp32", scheme="float"), path, loaded)
    try:
        return parity_of(path, model, loaded)
    except ExportError:
        if not filled:
            raise
    # A graph that another one was made into may be wrong where an export is not.
    return _write_float(model, path, loaded, engine, None)


def export_half(
    model: Any,
    path: Path,
    loaded: Loaded,
    engine: Engine,
    float_path: Path,
    progress: Progress,
    pattern: Path | None = None,
) -> Exported:
    """Export a model in fp16; what fp16 cannot hold on real examples stays in fp32.

    Args:
        model: in PyTorch.
        path: file to write.
        loaded: examples to compare on, and to find overflow on.
        engine: form and number format.
        float_path: where the float32 file goes, which is compared with PyTorch.
        progress: told what stays in fp32.
        pattern: see ``write_onnx``.
    """
    export_checked(model, float_path, loaded, replace(engine, precision="fp32"), pattern=pattern)
    engine = replace(engine, left_out=_float32_nodes(float_path, loaded, progress))
    # The float file has the form already.
    write_lowered(float_path, replace(engine, form="plain"), path, loaded)
    return Exported(path, engine, read_report(path), parity_of(path, model, loaded, math.inf), float_path)


def _float32_nodes(float_path: Path, loaded: Loaded, progress: Progress) -> tuple[str, ...]:
    """Nodes of a float32 file that fp16 cannot hold on real examples, by name."""
    import onnx

    kept = fp16.choose_float32_nodes(onnx.load(str(float_path)), samples_of(loaded))
    if kept.nodes:
        progress.info(f"kept in fp32: {kept.reason}: {', '.join(kept.nodes)}")
    return kept.nodes


def export_as(
    engine: Engine,
    model: Any,
    path: Path,
    loaded: Loaded,
    float_path: Path,
    progress: Progress,
    pattern: Path | None = None,
) -> Exported:
    """Export a model in an engine's number format.

    Args:
        engine: form and number format.
        model: in PyTorch.
        path: file to write.
        loaded: examples to compare on, and to calibrate int8 on.
        float_path: where the float32 file goes that a file in another format is made of.
        progress: told what stays in fp32.
        pattern: see ``write_onnx``.

    Raises:
        ExportError: the float graph is not the model.
    """
    if engine.form == "compiled" and loaded.target.runtime == "aotinductor":
        return _as_package(engine, model, path, loaded, float_path, progress)
    if engine.precision == "fp16":
        return export_half(model, path, loaded, engine, float_path, progress, pattern)
    return export_checked(model, path, loaded, engine, float_path, pattern, progress)


def quantize_again(exported: Exported, engine: Engine, model: Any, loaded: Loaded) -> Exported:
    """Write an int8 file anew with other layers left out.

    Args:
        exported: the file, and the float32 file that it was made of.
        engine: int8, with ``left_out``.
        model: in PyTorch, to compare with.
        loaded: examples to compare on, and to calibrate on.
    """
    if engine.scheme == "nncf":
        return _as_openvino(model, exported.float_path, loaded, engine)
    write_lowered(exported.float_path, replace(engine, form="plain"), exported.path, loaded)
    parity = parity_of(exported.path, model, loaded, tolerance=math.inf)
    return replace(exported, engine=engine, report=read_report(exported.path), parity=parity)


def _as_openvino(model: Any, onnx_file: Path, loaded: Loaded, engine: Engine) -> Exported:
    """The IR beside a float32 ONNX file, which stays for other runtimes."""
    path = onnx_file.parent / openvino.IR
    samples = samples_of(loaded) if engine.scheme == "nncf" else None
    openvino.save(openvino.convert(onnx_file, loaded.target, samples, engine.left_out), path)
    parity = parity_of(path, model, loaded, tolerance=1e-3 if samples is None else math.inf)
    size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return Exported(
        path, engine, replace(read_report(onnx_file), size_bytes=size), parity, path if samples is None else onnx_file
    )


def _as_package(
    engine: Engine, model: Any, path: Path, loaded: Loaded, float_path: Path, progress: Progress
) -> Exported:
    """AOTInductor's package beside an ONNX file of the same weights, which stays for other runtimes."""
    from compress.export.aotinductor import keep_package

    processor = replace(loaded, target=load_target("cpu"))
    onnx = export_as(replace(engine, form="plain"), model, path, processor, float_path, progress)
    package = path.parent / PACKAGE
    keep_package(model, package, interface_of(loaded), loaded.target, engine.precision)
    parity = parity_of(package, model, loaded, tolerance=1e-3 if engine.precision == "fp32" else math.inf)
    report = replace(onnx.report, size_bytes=package.stat().st_size)
    return Exported(package, engine, report, parity, package)


def interface_of(loaded: Loaded) -> Interface:
    """How a compiled model of the task is called.

    Args:
        loaded: names the inputs, and has the task.
    """
    from compress.export.aotinductor import Interface

    task = loaded.checkpoint.task
    return Interface(tuple(loaded.input_names), tuple(task.file_names), task.file_outputs)


@span("graph")
def write_onnx(model: Any, path: Path, loaded: Loaded, pattern: Path | None = None) -> bool:
    """Export a model with the inputs and outputs of its task.

    Args:
        model: in PyTorch.
        path: file to write.
        loaded: names the inputs, and has the dense model and its task.
        pattern: the dense model as this function wrote it: its graph is taken where it fits, which saves an export.
            None exports anew.

    Returns:
        Whether the dense model's graph was taken.
    """
    import onnx

    filled = None if pattern is None else fill(onnx.load(str(pattern)), loaded.checkpoint.encoder, model)
    if filled is not None:
        graph.save(filled, path, EXTERNAL_DATA_ABOVE_BYTES)
        return True
    task = loaded.checkpoint.task
    export_onnx(model, path, input_names=loaded.input_names, output_names=task.file_names, outputs=task.file_outputs)
    return False


@span("parity")
def parity_of(path: Path, model: Any, loaded: Loaded, tolerance: float = 1e-3) -> float:
    """Largest difference of a file from the PyTorch model that it should equal.

    Compared on real examples, and on two other batch sizes and lengths: examples may all have one length.

    Args:
        path: the file.
        model: in PyTorch.
        loaded: examples, task and target.
        tolerance: largest difference allowed.

    Raises:
        ExportError: they differ by more than the tolerance.
    """
    examples, task = _some_examples(loaded), loaded.checkpoint.task
    session = open_session(path, loaded.target)
    try:
        batches = chain((batch.inputs for batch in examples.batches(8)), _of_other_shapes(examples, loaded))
        return check_parity(session, model, batches, task.forward, tolerance, read=task.read_file)
    finally:
        session.close()


@span("parity")
def check_on_processor(path: Path, model: Any, loaded: Loaded) -> None:
    """Compare an exported float32 file with its PyTorch model at ``OTHER_SHAPES``, before anything rests on it.

    Nothing is compared where ONNX Runtime is not installed: the file of the artifact is, in the target's runtime.

    Args:
        path: the file, as exported.
        model: in PyTorch.
        loaded: examples and task.

    Raises:
        ExportError: they differ, or the file does not run at these shapes.
    """
    if find_spec("onnxruntime") is None:
        return
    import torch

    task = loaded.checkpoint.task
    session = open_session(path, load_target("cpu"))
    try:
        batches = list(_of_other_shapes(_some_examples(loaded), loaded))
        # A model whose own answers are not finite is the calibration's to refuse: it names the layer.
        with torch.no_grad():
            batches = [batch for batch in batches if bool(torch.isfinite(task.forward(model, dict(batch))).all())]
        if batches:
            check_parity(session, model, batches, task.forward, read=task.read_file)
    finally:
        session.close()


def _of_other_shapes(examples: Encoded, loaded: Loaded) -> Iterator[dict[str, Tensor]]:
    """Yields batches of ``OTHER_SHAPES``, within the model's length and that of the target's calls."""
    import torch

    longest = longest_input(loaded.checkpoint.model.config) or OTHER_SHAPES[-1][1]
    calls = loaded.target.calls
    least, most = (1, longest) if calls is None else (calls.seq_len[0], min(calls.seq_len[2], longest))
    for batch, length in OTHER_SHAPES:
        feed = fixed_batch(examples, batch, max(least, min(length, most)))
        yield {name: torch.from_numpy(array) for name, array in feed.items()}


def write_lowered(source: Path, engine: Engine, path: Path, loaded: Loaded) -> None:
    """Write an exported float32 file as an engine has it.

    Nothing is written where that is the file as it was exported. A form that takes no file this large is left out.

    Args:
        source: the exported file.
        engine: form and number format.
        path: file to write.
        loaded: examples to calibrate int8 on.
    """
    import onnx

    if "offline" in engine.form and graph.size_bytes(source) > EXTERNAL_DATA_ABOVE_BYTES:
        # The optimizer takes no such file.
        engine = replace(engine, form="packed" if engine.form == "packed-offline" else "plain")
    if engine == Engine():
        return  # as exported
    graph.save(lower(onnx.load(str(source)), engine, samples_of(loaded)), path, EXTERNAL_DATA_ABOVE_BYTES)


def _some_examples(loaded: Loaded) -> Encoded:
    examples = loaded.evaluation if len(loaded.evaluation) else loaded.calibration
    if not len(examples):
        return made_up(loaded, 16, 8)
    return examples.select(range(min(PARITY_EXAMPLES, len(examples))))


def made_up(loaded: Loaded, length: int, count: int) -> Encoded:
    """Examples that mean nothing, for a model without data.

    Args:
        loaded: the model and its task.
        length: tokens of each.
        count: how many.
    """
    checkpoint = loaded.checkpoint
    return checkpoint.task.made_up(checkpoint.model.config, loaded.input_names, length, count)


def samples_of(loaded: Loaded) -> list[dict[str, NDArray[Any]]]:
    """Batches to calibrate int8 on."""
    return batches_of(loaded.calibration)


def batches_of(examples: Encoded) -> list[dict[str, NDArray[Any]]]:
    """Batches of some examples, arrays by input name."""
    examples = examples.select(range(min(STATIC_EXAMPLES, len(examples))))
    return [{name: tensor.numpy() for name, tensor in batch.inputs.items()} for batch in examples.batches(8)]
