"""TensorRT for RTX: builds engines for a compute capability, on any machine, and runs them on RTX GPUs.

Engines are strongly typed, as TensorRT's are (``export/tensorrt.py``). They are built through the library's own
interface and not through polygraphy, for two reasons: whether attention is fused is read from what the builder says of
its layers, since the engine inspector needs a GPU; and polygraphy chooses between TensorRT and TensorRT-RTX once for
the whole process.

No engine has been run on a GPU yet: see ``docs/gpu.md``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ExportError, TargetError
from compress.export import rtx_library, standard_ops
from compress.export.cuda import device_number
from compress.export.engine_session import (
    EngineSession,
    build_once,
    ranges_of,
    read_graph,
    refuse_unusable,
    stated_calls,
    unread_outputs,
)
from compress.export.ep_context import write_context
from compress.export.outputs import answer_names
from compress.export.tensorrt_file import (
    RtxRecord,
    context_path,
    engine_path,
    onnx_digest,
    read_engine,
    read_record,
    record_path,
    write_engine,
)
from compress.profile.gpu import gpus

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.profile.target import Target

# Kernels that compute a whole attention, by their names in the builder's list of layers: "_gemm_mha_v2_myl0_7".
# Names that come from the graph do not begin with an underscore.
_FUSED = re.compile(r"^Name: _\w*mha\w*, LayerType:", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Built:
    """A new engine.

    Attributes:
        engine: serialized.
        fused: attentions that are one kernel in it.
    """

    engine: bytes
    fused: int


def open_tensorrt_rtx(model: Path | bytes, target: Target) -> Session:
    """Load an exported model as an engine: the engine beside the file if there is one, otherwise a new one.

    Args:
        model: an ONNX file of standard operators, or its bytes.
        target: a target that runs in TensorRT-RTX, with ``calls``.

    Returns:
        A session on the engine.

    Raises:
        TargetError: the GPU, TensorRT-RTX or polygraphy is missing here, or they do not go together; or the engine
            beside the file was built by another release, or for another compute capability or model.
        ExportError: there is no such file, or the model cannot be built.
    """
    require_gpu(target)
    if isinstance(model, Path) and not model.is_file():
        raise ExportError(f"there is no model file '{model}'; export it with `compress export`")
    record = make_record(model, target)
    if isinstance(model, Path) and engine_path(model).exists():
        engine, where = read_engine(model, record), f"engine '{engine_path(model)}'"
    else:
        engine, where = build_once(record, lambda: build(model, target, record).engine), "a new engine"
    rtx_library.check_valid(engine, where)
    _choose_polygraphys_library()
    return EngineSession(engine, record, stated_calls(target))


def keep_engine(model: Path, target: Target) -> RtxRecord:
    """Write the engine of an ONNX file, its record and its file for ONNX Runtime into ``engine/`` beside the file.

    Builds nothing if there is an engine for this release, compute capability and model already. No GPU is needed.

    Args:
        model: an ONNX file of standard operators.
        target: a target that runs in TensorRT-RTX, with ``calls``.

    Returns:
        The record of the engine.

    Raises:
        TargetError: TensorRT-RTX is missing here, or does not know the compute capability; or there is an engine of
            another case.
        ExportError: the model cannot be built.
    """
    rtx_library.require(target)
    record = make_record(model, target)
    if engine_path(model).exists():
        read_engine(model, record)
        return read_record(model, RtxRecord)
    built = build(model, target, record)
    record = replace(record, attention_fused=built.fused)
    write_engine(model, built.engine, record)
    write_context(model, record)
    return record


def files_of(model: Path) -> tuple[Path, ...]:
    """What ``keep_engine`` writes."""
    return engine_path(model), record_path(model), context_path(model)


def require_gpu(target: Target) -> None:
    """Check that TensorRT-RTX can be used on the target's GPU, which is this machine's.

    Raises:
        TargetError: the GPU, TensorRT-RTX or polygraphy is missing, or they do not go together.
    """
    number = device_number(target)
    lacking = rtx_library.lacking(gpus()[number].compute_capability)
    if lacking is None:
        try:
            import polygraphy  # noqa: F401
        except ImportError as error:
            lacking = f"polygraphy cannot be loaded ({error}); {rtx_library.INSTALL}"
    refuse_unusable(target, number, rtx_library.PRODUCT, lacking)


def make_record(model: Path | bytes, target: Target) -> RtxRecord:
    """The record of an engine of a model, as if built here.

    Args:
        model: an ONNX file of standard operators, or its bytes.
        target: gives compute capability and calls.

    Returns:
        The record, without what is known when the engine is built.

    Raises:
        ExportError: the parser does not take the model.
    """
    graph, calls = read_graph(model), stated_calls(target)
    standard_ops.check_supported(graph, target, model if isinstance(model, Path) else None)
    return RtxRecord(
        release=rtx_library.release(),
        compute_capability=target.compute_capability or "",
        precision=standard_ops.precision_of(graph),
        attention=standard_ops.count_attention(graph),
        onnx_sha256=onnx_digest(model),
        batch_size=calls.batch_size,
        seq_len=calls.seq_len,
        inputs=tuple(value.name for value in graph.graph.input),
        outputs=answer_names([value.name for value in graph.graph.output]),
    )


def build(model: Path | bytes, target: Target, record: RtxRecord) -> Built:
    """Build the engine of a model for a compute capability; no GPU is needed.

    Args:
        model: an ONNX file of standard operators, or its bytes.
        target: gives the engine's calls.
        record: the model's record.

    Returns:
        The engine, and how many of its attentions are fused.

    Raises:
        ExportError: TensorRT-RTX cannot build the model.
    """
    module = rtx_library.load()
    assert module is not None, "make_record has asked for it"
    log, graph = rtx_library.listener(module), read_graph(model)
    builder = module.Builder(log)
    network = rtx_library.strong_network(module, builder)
    parser = module.OnnxParser(network, log)
    # By path, so that it finds the weights beside the file.
    read = parser.parse_from_file(str(model)) if isinstance(model, Path) else parser.parse(model)
    if not read:
        errors = [rtx_library.said_of(parser.get_error(number)) for number in range(parser.num_errors)]
        raise rtx_library.failure(log, "reading the model", errors)
    unread = unread_outputs(graph)
    for output in [network.get_output(number) for number in range(network.num_outputs)]:
        if output.name in unread:
            network.unmark_output(output)
    config = _config(module, builder, record.compute_capability)
    profile = builder.create_optimization_profile()
    for name, (least, usual, most) in ranges_of(graph, stated_calls(target)).items():
        profile.set_shape(name, least, usual, most)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise rtx_library.failure(log, "building an engine")
    return Built(bytes(engine), len(_FUSED.findall(log.layers)))


def _config(module: Any, builder: Any, compute_capability: str) -> Any:
    """The builder's configuration: the compute capability, no TF32, and the list of layers in its log."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx_library.capability_of(module, compute_capability), 0)
    # float32 in the file means float32, as for the other runtimes (cuda.py).
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    return config


def _choose_polygraphys_library() -> None:
    """Let polygraphy, which runs the engine, use TensorRT-RTX from here on.

    Raises:
        TargetError: it has loaded TensorRT in this process already.
    """
    from polygraphy import config

    if config.USE_TENSORRT_RTX:
        return
    if "polygraphy.backend.trt" in sys.modules:
        raise TargetError(
            "polygraphy uses TensorRT in this process already, and cannot use TensorRT-RTX too: start another process, "
            "with POLYGRAPHY_USE_TENSORRT_RTX=1"
        )
    config.USE_TENSORRT_RTX = True
