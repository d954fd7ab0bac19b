"""TensorRT: builds engines with polygraphy, and runs them.

Engines are strongly typed: the precision comes from the ONNX file alone, from its fp16 casts and its symmetric Q/DQ
pairs, and not from flags of the builder. An engine accepts calls in the ranges of its target (``Target.calls``) and is
fastest at the usual one. The timing cache keeps the speed of each kernel on this GPU between builds, so structures that
differ in a few layers are built quickly.

The tests need no GPU; ``docs/gpu.md`` lists the runs on GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from compress.core.errors import ExportError
from compress.export import standard_ops
from compress.export.cuda import absence, device_number
from compress.export.engine_session import (
    EngineSession,
    build_once,
    polygraphy_errors,
    ranges_of,
    read_graph,
    refuse_unusable,
    stated_calls,
    unread_outputs,
)
from compress.export.outputs import answer_names
from compress.export.tensorrt_file import EngineRecord, engine_path, onnx_digest, read_engine, record_path, write_engine
from compress.profile.gpu import Gpu, gpus

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.profile.target import Calls, Target

INSTALL = "pip install -c constraints.txt 'compress[gpu]'; see docs/gpu.md"
# The release that dropped Volta, and the least compute capability since. Source: release notes of TensorRT 10.5,
# "NVIDIA Volta support (GPUs with compute capability 7.0) has been removed starting with TensorRT 10.5".
WITHOUT_VOLTA, SINCE_THEN = (10, 5), (7, 5)
FOR_VOLTA = (
    "use TensorRT 10.4, the last release that knows it, with CUDA 12: pip install tensorrt-cu12==10.4.0, or the image "
    "of `docker build --build-arg FLAVOR=v100`"
)
# Strongly typed networks came with 9.1, and the interface used here (execute_async_v3 on tensors by name) with 10.
LEAST = (10, 0)


def open_tensorrt(model: Path | bytes, target: Target) -> Session:
    """Load an exported model as a TensorRT engine: the engine beside the file if there is one, otherwise a new one.

    Args:
        model: an ONNX file of standard operators, or its bytes.
        target: a target that runs in TensorRT, with ``calls``.

    Returns:
        A session on the engine.

    Raises:
        TargetError: the GPU, TensorRT or polygraphy is missing here, or they do not go together; or the engine beside
            the file was built for another GPU, TensorRT or model, and the message names both.
        ExportError: there is no such file, or TensorRT cannot build the model.
    """
    gpu = usable_gpu(target)
    if isinstance(model, Path) and not model.is_file():
        raise ExportError(f"there is no model file '{model}'; export it with `compress export`")
    record = make_record(model, target, gpu)
    engine = read_engine(model, record) if isinstance(model, Path) and engine_path(model).exists() else None
    return EngineSession(engine or build_cached(model, target, record), record, stated_calls(target))


def keep_engine(model: Path, target: Target) -> tuple[Path, ...]:
    """Write the engine of an ONNX file and its record into ``engine/`` beside the file.

    Does nothing for targets with other runtimes or on other machines, and if there is an engine already.

    Args:
        model: an ONNX file of standard operators.
        target: the deployment's target.

    Returns:
        The written files.

    Raises:
        TargetError: TensorRT or polygraphy is missing here, or does not go with the GPU.
        ExportError: TensorRT cannot build the model.
    """
    if target.runtime != "tensorrt" or absence(target) is not None or engine_path(model).exists():
        return ()
    record = make_record(model, target, usable_gpu(target))
    write_engine(model, build_cached(model, target, record), record)
    return engine_path(model), record_path(model)


def usable_gpu(target: Target) -> Gpu:
    """The target's GPU; checks that TensorRT can use it.

    Raises:
        TargetError: the GPU or TensorRT is missing here, or they do not go together; the message says what to do.
    """
    number = device_number(target)
    gpu = gpus()[number]
    lacking = lacking_tensorrt(gpu.compute_capability)
    refuse_unusable(target, number, "TensorRT", lacking)
    return gpu


def lacking_tensorrt(compute_capability: str) -> str | None:
    """Reason why TensorRT cannot use a GPU; None if it can."""
    for name in ("tensorrt", "polygraphy"):
        try:
            import_module(name)
        except ImportError as error:
            return f"{name} cannot be loaded ({error}); {INSTALL}"
    version = release()
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < LEAST:
        return f"TensorRT {version} is older than {'.'.join(map(str, LEAST))}; {INSTALL}"
    capability = tuple(int(part) for part in compute_capability.split("."))
    if numbers >= WITHOUT_VOLTA and capability < SINCE_THEN:
        return f"TensorRT {version} does not know compute capability {compute_capability} any more; {FOR_VOLTA}"
    return None


def release() -> str:
    """Version of TensorRT."""
    import tensorrt

    return str(tensorrt.__version__)


def make_record(model: Path | bytes, target: Target, gpu: Gpu) -> EngineRecord:
    """The record of an engine of a model, as if built on this machine.

    Args:
        model: an ONNX file of standard operators, or its bytes.
        target: gives the engine's calls.
        gpu: the target's GPU.

    Returns:
        The record, without the engine's digest.

    Raises:
        ExportError: TensorRT's parser does not support the model.
    """
    proto = read_graph(model)
    standard_ops.check_supported(proto, target)
    calls = stated_calls(target)
    return EngineRecord(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        tensorrt=release(),
        driver=gpu.driver,
        onnx_sha256=onnx_digest(model),
        batch_size=calls.batch_size,
        seq_len=calls.seq_len,
        inputs=tuple(value.name for value in proto.graph.input),
        outputs=answer_names([value.name for value in proto.graph.output]),
    )


def build_cached(model: Path | bytes, target: Target, record: EngineRecord) -> bytes:
    """Build the engine of a model, cached in this process.

    Args:
        model: an ONNX file of standard operators, or its bytes.
        target: gives the engine's calls.
        record: the model's record, the key of the cache.

    Returns:
        The serialized engine.

    Raises:
        ExportError: TensorRT cannot build the model.
    """
    return build_once(record, lambda: _build(model, stated_calls(target), record))


def _build(model: Path | bytes, calls: Calls, record: EngineRecord) -> bytes:
    from polygraphy.backend import trt

    cache = timing_cache(record)
    cache.parent.mkdir(parents=True, exist_ok=True)
    # By path, so that TensorRT finds the weights beside the file.
    network = (
        trt.NetworkFromOnnxPath(str(model), strongly_typed=True)
        if isinstance(model, Path)
        else trt.NetworkFromOnnxBytes(model, strongly_typed=True)
    )
    graph = read_graph(model)
    unread = unread_outputs(graph)
    if unread:
        network = trt.ModifyNetworkOutputs(network, exclude_outputs=unread)
    with polygraphy_errors(f"TensorRT {release()}", "building an engine"):
        config = builder_config(ranges_of(graph, calls), cache)
        return bytes(trt.engine_bytes_from_network(network, config=config, save_timing_cache=str(cache)))


def builder_config(ranges: Mapping[str, tuple[tuple[int, ...], ...]], cache: Path) -> Any:
    """Configure polygraphy's builder: one optimization profile, no precision flags, the timing cache.

    Args:
        ranges: least, usual and most shape of every input, from ``ranges_of``.
        cache: timing cache to start from; it need not exist.

    Returns:
        polygraphy's ``CreateConfig``.
    """
    from polygraphy.backend.trt import CreateConfig, Profile

    profile = Profile()
    for name, (least, usual, most) in ranges.items():
        profile.add(name, min=least, opt=usual, max=most)
    # tf32=False: float32 in the file means float32, as for ONNX Runtime's provider (cuda.py).
    return CreateConfig(tf32=False, profiles=[profile], load_timing_cache=str(cache) if cache.exists() else None)


def timing_cache(record: EngineRecord) -> Path:
    """Where timings of kernels are kept: per GPU and release, in the user's cache."""
    root = user_cache_path("compress", appauthor=False) / "tensorrt"
    gpu = "".join(letter if letter.isalnum() else "-" for letter in record.gpu)
    return root / f"{gpu}-{record.compute_capability}-{record.tensorrt}.cache"
