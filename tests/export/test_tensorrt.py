"""Engines up to the edge: real polygraphy, real configuration, real files; TensorRT itself where there is a GPU.

What TensorRT-RTX has alike is asked of it, where it is installed; GPU, timings and loading are a stand-in's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import EXIT_ERROR, ExportError, TargetError
from compress.export import cuda, engine_session, rtx_library, tensorrt
from compress.export.runtime import open_session, require_runtime
from compress.export.tensorrt_file import EngineRecord, engine_path, read_record
from compress.profile import gpu
from compress.profile.target import Calls, Target, load_target
from support import fake_tensorrt
from support.fake_tensorrt import FakeTensorRT, install

V100 = gpu.Gpu("Tesla V100-SXM2-16GB", "7.0", "535.183.01", 16384, 1530, 135)
T4 = gpu.Gpu("Tesla T4", "7.5", "550.54.15", 15360, 1590, 300)
needs_polygraphy = pytest.mark.skipif(
    importlib.util.find_spec("polygraphy") is None, reason="polygraphy, which builds engines, is not installed here"
)

needs_rtx = pytest.mark.skipif(rtx_library.load() is None, reason="tensorrt_rtx is not installed here: `make rtx`")


def as_if(monkeypatch: pytest.MonkeyPatch, *found: gpu.Gpu) -> None:
    for module in (gpu, cuda, tensorrt):
        monkeypatch.setattr(module, "gpus", lambda: found)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_session, "_BUILT", type(engine_session._BUILT)())
    as_if(monkeypatch, T4)
    return install(monkeypatch, "10.9.0.34")


def target(**changes: Any) -> Target:
    return load_target("t4-tensorrt").for_calls(4, 64).model_copy(update=changes)


def model(shift: float = 0.0) -> bytes:
    """Two inputs, as an encoder's; standard operators."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in ("input_ids", "attention_mask")]
    nodes = [helper.make_node("Cast", [value.name], [f"{value.name}.float"], to=TensorProto.FLOAT) for value in inputs]
    nodes.append(helper.make_node("Mul", ["input_ids.float", "attention_mask.float"], ["seen"]))
    nodes.append(helper.make_node("Add", ["seen", "shift"], ["logits"]))
    weights = [numpy_helper.from_array(np.array(shift, np.float32), "shift")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model())
    return path


@needs_polygraphy
def test_networks_are_strongly_typed_and_profiles_are_the_stated_calls(fake: FakeTensorRT, file: Path) -> None:
    wide = target(calls=Calls(batch_size=(1, 4, 16), seq_len=(8, 64, 128)))
    tensorrt.keep_engine(file, wide)
    assert fake.flags & (1 << 1), "STRONGLY_TYPED"
    assert fake.parsed == onnx.load_from_string(model())
    assert fake.shapes == dict.fromkeys(("input_ids", "attention_mask"), ((1, 8), (4, 64), (16, 128)))
    # The file alone says what is computed in what.
    assert not fake.set & {"FP16", "INT8", "BF16"} and "TF32" not in fake.set
    assert engine_path(file).read_bytes() == b"engine 1"
    record = json.loads((file.parent / "engine" / "model.json").read_text())
    assert (record["gpu"], record["compute_capability"], record["driver"]) == ("Tesla T4", "7.5", "550.54.15")
    assert record["tensorrt"] == "10.9.0.34" and len(record["onnx_sha256"]) == 64


REAL = """
import json, pathlib, sys
import onnx, tensorrt_rtx
from polygraphy.backend import trt
from compress.export.engine_session import ranges_of
from compress.export.tensorrt import builder_config
from compress.profile.target import Calls
path = pathlib.Path(sys.argv[1])
builder, network, _ = trt.network_from_onnx_path(str(path), strongly_typed=True)
ranges = ranges_of(onnx.load(str(path)), Calls(batch_size=(1, 4, 16), seq_len=(8, 64, 128)))
config = builder_config(ranges, path.with_name("no.cache"))(builder, network)
print(json.dumps({
    "typed": network.get_flag(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
    "inputs": [network.get_input(i).name for i in range(network.num_inputs)],
    "profiles": config.num_optimization_profiles,
    "flags": config.flags,
}))
"""


@needs_polygraphy
@needs_rtx
def test_the_real_library_takes_what_the_stand_in_is_given(file: Path) -> None:
    """polygraphy with TensorRT-RTX, which has TensorRT's interface and needs no GPU up to here; in its own process."""
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    command = [sys.executable, "-c", REAL, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    # No flag at all: neither TF32 nor a precision.
    assert found == {"typed": True, "inputs": ["input_ids", "attention_mask"], "profiles": 1, "flags": 0}


@needs_rtx
def test_the_stand_in_has_the_real_library_s_names() -> None:
    import tensorrt_rtx

    def public(stand_in: type) -> set[str]:
        return {name for name in vars(stand_in) if not name.startswith("_")}

    assert public(fake_tensorrt._Parser) <= set(dir(tensorrt_rtx.OnnxParser))
    assert public(fake_tensorrt._Builder) <= set(dir(tensorrt_rtx.Builder))
    configured = {"set_flag", "clear_flag", "create_timing_cache", "get_timing_cache", "num_optimization_profiles"}
    assert configured <= set(dir(tensorrt_rtx.IBuilderConfig))
    assert hasattr(tensorrt_rtx.Runtime, "deserialize_cuda_engine")
    assert hasattr(tensorrt_rtx.IOptimizationProfile, "set_shape")


@needs_polygraphy
def test_timings_are_kept_between_builds_and_builds_within_a_run(fake: FakeTensorRT, file: Path) -> None:
    record = tensorrt.make_record(file, target(), T4)
    cache = tensorrt.timing_cache(record)
    assert tensorrt.build_cached(file, target(), record) == b"engine 1"
    assert cache.read_bytes() == b"timings" and "Tesla-T4-7.5-10.9.0.34" in cache.name
    assert tensorrt.build_cached(file, target(), record) == b"engine 1", "built once"
    other = tensorrt.make_record(model(1.0), target(), T4)
    assert tensorrt.build_cached(model(1.0), target(), other) == b"engine 2"
    assert b"timings" in fake.caches, "the second build begins with what the first has timed"


@needs_polygraphy
def test_an_engine_of_another_gpu_release_or_file_is_refused_before_it_is_loaded(
    fake: FakeTensorRT, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt.keep_engine(file, target())
    as_if(monkeypatch, gpu.Gpu("NVIDIA T1000", "7.5", "550.54.15", 4096, 1395, 300))
    with pytest.raises(TargetError, match=r"GPU Tesla T4, here NVIDIA T1000.*remove.*model.plan") as caught:
        open_session(file, target())
    assert caught.value.exit_code == EXIT_ERROR
    as_if(monkeypatch, T4)
    fake.__version__ = "10.13.3.9"
    with pytest.raises(TargetError, match=r"TensorRT 10.9.0.34, here 10.13.3.9"):
        open_session(file, target())
    fake.__version__ = "10.9.0.34"
    file.write_bytes(model(2.0))
    with pytest.raises(TargetError, match=r"ONNX file [0-9a-f]{12}\.\.\., here [0-9a-f]{12}\.\.\."):
        open_session(file, target())
    file.write_bytes(model())
    with pytest.raises(TargetError, match=r"lengths 1, 64, 64, here 1, 128, 128"):
        open_session(file, load_target("t4-tensorrt").for_calls(4, 128))
    engine_path(file).write_bytes(b"engine 9")
    with pytest.raises(TargetError, match="damaged"):
        open_session(file, target())
    assert fake.loaded == [], "nothing of it was loaded"


@needs_polygraphy
def test_another_driver_is_no_reason_to_refuse(fake: FakeTensorRT, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt.keep_engine(file, target())
    as_if(monkeypatch, gpu.Gpu(T4.name, "7.5", "560.1", 15360, 1590, 300))
    assert tensorrt.read_engine(file, tensorrt.make_record(file, target(), gpu.gpus()[0])) == b"engine 1"
    assert read_record(file, EngineRecord).driver == "550.54.15"


def test_volta_needs_the_last_release_that_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy", sys)
    as_if(monkeypatch, V100)
    v100 = load_target("v100-tensorrt").for_calls(1, 64)
    install(monkeypatch, "10.5.0")
    monkeypatch.setitem(sys.modules, "polygraphy", sys)
    with pytest.raises(TargetError, match=r"TensorRT 10.5.0 does not know compute capability 7.0.*10\.4.*CUDA 12"):
        require_runtime(v100)
    for version in ("10.4.0", "10.4.0.26"):
        install(monkeypatch, version)
        monkeypatch.setitem(sys.modules, "polygraphy", sys)
        require_runtime(v100)
    install(monkeypatch, "11.4.0.106")
    monkeypatch.setitem(sys.modules, "polygraphy", sys)
    as_if(monkeypatch, T4)
    require_runtime(target())
    install(monkeypatch, "8.6.1")
    monkeypatch.setitem(sys.modules, "polygraphy", sys)
    with pytest.raises(TargetError, match=r"8\.6\.1 is older than 10\.0"):
        require_runtime(target())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    as_if(monkeypatch)
    with pytest.raises(TargetError, match="'t4-tensorrt' is not on this machine"):
        open_session(file, target())
    as_if(monkeypatch, T4)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TargetError, match=r"tensorrt cannot be loaded.*compress\[gpu\]"):
        open_session(file, target())
    install(monkeypatch, "10.9.0")
    monkeypatch.setitem(sys.modules, "polygraphy", sys)
    as_if(monkeypatch, V100, T4)
    with pytest.raises(TargetError, match="CUDA_VISIBLE_DEVICES=1"):
        open_session(file, target())
    as_if(monkeypatch, T4)
    with pytest.raises(TargetError, match=r"give them in its file under \[calls\]"):
        open_session(file, load_target("t4-tensorrt"))
    with pytest.raises(ExportError, match="no model file"):
        open_session(file.with_name("other.onnx"), target())


def test_a_graph_that_the_parser_does_not_take_is_refused_before_building(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_if(monkeypatch, T4)
    fake = install(monkeypatch, "10.9.0")
    monkeypatch.setitem(sys.modules, "polygraphy", sys)
    node = helper.make_node("MultiHeadAttention", ["x"], ["y"], domain="com.microsoft", num_heads=1)
    graph = helper.make_graph([node], "g", [], [])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    with pytest.raises(ExportError, match=r"com.microsoft.MultiHeadAttention"):
        open_session(data, target())
    assert fake.parsed is None


def test_engines_are_kept_only_where_their_target_is(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    as_if(monkeypatch)
    tensorrt.keep_engine(file, target())
    as_if(monkeypatch, T4)
    tensorrt.keep_engine(file, load_target("t4"))
    assert not engine_path(file).exists()


def test_targets_state_ranges_or_take_the_command_line_s() -> None:
    assert target().calls == Calls(batch_size=(1, 4, 4), seq_len=(1, 64, 64))
    stated = target(calls=Calls(batch_size=(1, 8, 32), seq_len=(16, 64, 128)))
    assert stated.for_calls(16, 128).calls == Calls(batch_size=(1, 16, 32), seq_len=(16, 128, 128))
    with pytest.raises(TargetError, match=r"length 8 is outside the range of .* target.s file, 16 to 128"):
        stated.for_calls(1, 8)
    assert load_target("cpu").for_calls(4, 64) == load_target("cpu")
