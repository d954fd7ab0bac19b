"""A target that is not this machine: planned and exported here, called estimated everywhere, never passed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from compress import cli, pipeline
from compress.core.errors import ProfileError, TargetError
from compress.core.hashing import sha256_of
from compress.core.plan import Plan
from compress.export import cuda, rtx_library
from compress.export.standard_ops import unsupported
from compress.export.tensorrt_file import RtxRecord, read_record
from compress.inputs.load import load_model
from compress.options.run_config import RunConfig
from compress.pipeline import single_stages
from compress.profile import gpu
from compress.profile.device import check_device
from compress.profile.profiles import Profiles
from compress.profile.roofline import estimate_profile
from compress.profile.take import Profile
from compress.profile.target import load_target
from support.runs import run

LENGTH = 24
SLOW = """device = "a slow box"
runtime = "onnxruntime-cuda"
precision = "fp16"
precisions = ["fp32", "fp16"]
memory_bandwidth_gb_s = 1
launch_overhead_us = 0.1
processors = 1
tile_sizes = [[4, 4]]
[peak_flops]
fp32 = 1e9
fp16 = 2e9
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines with a GPU are tested as if they had none."""
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    monkeypatch.setattr(cuda, "gpus", lambda: ())


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A target whose estimates depend on every head and filter, even of a tiny model."""
    file = tmp_path / "slow.toml"
    file.write_text(SLOW)
    return file


def configured(model: Path, data: Path, output: Path, **options: Any) -> RunConfig:
    given = {"seq_len": LENGTH, "samples": 32, "precision": "fp16", "effort": "fast", "allow_chance": True, **options}
    return RunConfig(model=str(model), data=str(data), eval_data=str(data), output=output, **given)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    yield lambda: capsys.readouterr()


def test_a_run_plans_exports_and_stays_inconclusive(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, slow: Path, said: Any
) -> None:
    out = tmp_path / "out"
    arguments = [
        "run",
        str(tiny_bert),
        "--allow-chance",
        "--data",
        str(data_csv),
        "--eval-data",
        str(data_csv),
        "--speedup",
        "4",
    ]
    arguments += ["--target", str(slow), "--seq-len", str(LENGTH), "--samples", "32", "--effort", "fast"]
    assert cli.main([*arguments, "--output", str(out)]) == 2
    printed = said()
    assert "not on this machine" in printed.err and "compress profile MODEL --target slow" in printed.err
    assert "estimated" in printed.out and "inconclusive" in printed.out

    plan, validation = Plan.read(out), json.loads((out / "validation.json").read_text())
    assert plan.latency_source == "estimated" and "estimated profile" in plan.explain()
    assert plan.structure.widths != plan.shape.dense
    profile = Profile.read(out)
    assert profile.source == "estimated"
    assert plan.dense_ms is not None and profile.table.predict(plan.structure.widths) <= plan.dense_ms / 4
    latency = validation["latency_ms"]
    # Nothing was timed, and nothing looks as if it had been.
    assert (latency["dense"], latency["compressed"], latency["ci95"], latency["rounds"]) == (None, None, None, 0)
    assert "estimated" in latency["source"] and latency["predicted"] == pytest.approx(plan.predicted_ms, abs=1e-3)
    assert validation["speedup"]["value"] is None and validation["speedup"]["predicted"] >= 4
    assert validation["verdict"] == "inconclusive" and "estimated" in validation["reason"]
    assert {"drop_of_fp16", "drop_of_fp16_emulated"} <= set(validation["metric"])
    card = (out / "README.md").read_text()
    assert "**estimated**" in card and "latency, ms (median)" not in card

    weights = onnx.load(str(out / "model.onnx")).graph.initializer
    assert {t.data_type for t in weights if np.prod(t.dims) > 100} == {TensorProto.FLOAT16}
    assert validation["deployment"]["engine"]["precision"] == "fp16"

    assert cli.main(["validate", str(out), "--target", str(slow)]) == 3
    assert "Run the same command on the device" in said().err


@pytest.mark.e2e
def test_a_budget_that_the_dense_model_meets_prunes_nothing_and_is_still_open(
    tiny_bert: Path, data_csv: Path, tmp_path: Path
) -> None:
    result = run(configured(tiny_bert, data_csv, tmp_path / "out", target="v100", latency_ms=5.0))
    assert result.plan.structure.widths == result.plan.shape.dense
    assert (result.verdict, result.exit_code) == ("inconclusive", 2)
    assert "nothing is pruned" in result.validation["reason"]
    unpruned = result.validation["unpruned"]
    assert unpruned["latency_ms"] is None and unpruned["predicted_ms"] <= 5.0
    assert unpruned["next_budget"].startswith("--latency-ms ")


@pytest.mark.e2e
@pytest.mark.skipif(rtx_library.load() is None, reason="tensorrt_rtx is not installed here: `make rtx`")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_run_for_an_rtx_gpu_writes_its_engine(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, said: Any, precision: str
) -> None:
    out = tmp_path / "out"
    given = ["--data", str(data_csv), "--eval-data", str(data_csv), "--allow-chance", "--samples", "32"]
    given += ["--effort", "fast", "--seq-len", str(LENGTH), "--precision", precision, "--int8-drop", "1"]
    assert cli.main(["run", str(tiny_bert), *given, "--target", "rtx-4090", "--macs", "0.5", "--output", str(out)]) == 0
    record = read_record(out / "model.onnx", RtxRecord)
    assert (record.compute_capability, record.precision) == ("8.9", precision)
    assert f"engine: {record.said}" in said().err
    assert sha256_of(out / "engine" / "model.plan") == record.engine_sha256
    listed = json.loads((out / "manifest.json").read_text())["files"]
    assert {"engine/model.plan", "engine/model.json", "engine/model_ctx.onnx"} <= set(listed)
    assert record.said in (out / "README.md").read_text()
    halves = {t.data_type for t in onnx.load(str(out / "model.onnx")).graph.initializer if np.prod(t.dims) > 100}
    assert halves == {TensorProto.FLOAT16, *((TensorProto.INT8,) if precision == "int8" else ())}


def test_without_the_library_a_run_for_an_rtx_gpu_ends_before_any_work(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    given = ["--data", str(data_csv), "--eval-data", str(data_csv), "--allow-chance", "--seq-len", str(LENGTH)]
    given += ["--target", "rtx-4090", "--latency-ms", "5", "--output", str(tmp_path / "out")]
    assert cli.main(["run", str(tiny_bert), *given]) == 3
    printed = said().err
    assert "pip install -c constraints.txt 'compress[rtx]'" in printed and "export dense" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_a_macs_budget_needs_no_device(tiny_bert: Path, data_csv: Path, tmp_path: Path) -> None:
    result = run(configured(tiny_bert, data_csv, tmp_path / "out", target="v100", macs=0.5))
    assert result.verdict == "pass" and result.validation["latency_ms"]["compressed"] is None


def test_the_same_table_gives_the_same_plan_fresh_or_from_a_file(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tiny_bert, data_csv, tmp_path / "out", target="cpu", precision="fp32", speedup=2.0)
    shape = load_model(config).shape
    # A measured table would differ from run to run; what it says does not matter here, only that it is the same.
    fresh = estimate_profile(shape, load_target(str(slow)), "fp32", 1, LENGTH)
    fresh = replace(fresh, target="cpu", source="measured", device={"runtime": "onnxruntime-cpu"})
    monkeypatch.setattr(single_stages, "_profile_alone", lambda *_: fresh)
    from_memory, _ = pipeline.make_plan(config)
    monkeypatch.undo()
    fresh.write(tmp_path / "cpu.json")
    from_file, read = pipeline.make_plan(config.model_copy(update={"profile": tmp_path / "cpu.json"}))
    assert read == fresh
    assert from_file.to_json() == from_memory.to_json()


@pytest.mark.e2e
def test_a_profile_brought_from_the_device_plans_here(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, slow: Path
) -> None:
    config = configured(tiny_bert, data_csv, tmp_path / "out", target=str(slow), speedup=4.0)
    shape = load_model(config).shape
    brought = estimate_profile(shape, load_target(str(slow)), "fp16", 1, LENGTH)
    replace(brought, source="measured", device={"gpu": "a slow box"}).write(tmp_path / "slow.json")
    result = run(config.model_copy(update={"profile": tmp_path / "slow.json"}))
    assert result.plan.latency_source == "measured"
    assert result.verdict == "inconclusive" and "not timed" in result.validation["reason"]
    assert "predicted, not timed" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("command", ["profile", "run"])
def test_neither_gpu_nor_profile_nor_data_sheet_is_exit_3_and_nothing_written(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, said: Any, command: str
) -> None:
    bare = tmp_path / "bare.toml"
    bare.write_text('device = "a box"\nruntime = "onnxruntime-cuda"\n')
    arguments = [command, str(tiny_bert), "--data", str(data_csv), "--target", str(bare), "--seq-len", str(LENGTH)]
    arguments += ["--speedup", "2", "--allow-chance"] if command == "run" else []
    assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 3
    message = said().err
    assert "compress profile" in message
    assert ("peak_flops" if command == "run" else "not on this machine") in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.toml"]


def test_profile_offers_an_estimate_that_says_so(tiny_bert: Path, tmp_path: Path, said: Any) -> None:
    file = tmp_path / "v100.json"
    arguments = ["profile", str(tiny_bert), "--target", "v100", "--seq-len", str(LENGTH), "--output", str(file)]
    assert cli.main(arguments) == 3
    assert "--estimate" in said().err and not file.exists()
    assert cli.main([*arguments, "--estimate"]) == 0
    assert "estimated" in said().out
    assert Profile.read(file).source == "estimated"


def test_profiles_of_another_device_or_shape_or_format_are_refused(
    tiny_bert: Path, data_csv: Path, tmp_path: Path
) -> None:
    config = configured(tiny_bert, data_csv, tmp_path / "out", target="v100", latency_ms=5.0)
    shape = load_model(config).shape
    file = tmp_path / "profile.json"
    given = config.model_copy(update={"profile": file})
    t4 = estimate_profile(shape, load_target("t4"), "fp16", 1, LENGTH)
    for text, words in (
        (t4.to_json(), "target t4, not v100"),
        (replace(t4, target="v100", precision="fp32").to_json(), "precision fp32, not fp16"),
        (t4.to_json().replace('"format": 1', '"format": 0'), "format 0"),
        (t4.to_json()[:100], "no[t]? .*profile"),
    ):
        file.write_text(text)
        with pytest.raises(ProfileError, match=words):
            pipeline.make_plan(given)


def test_a_profile_measured_on_another_gpu_is_refused(tiny_bert: Path, data_csv: Path, tmp_path: Path) -> None:
    config = configured(tiny_bert, data_csv, tmp_path / "out", target="v100", latency_ms=5.0)
    brought = estimate_profile(load_model(config).shape, load_target("v100"), "fp16", 1, LENGTH)
    device: dict[str, str | int] = {"gpu": "NVIDIA L4", "compute_capability": "8.9"}
    replace(brought, source="measured", device=device).write(tmp_path / "v100.json")
    with pytest.raises(ProfileError, match=r"NVIDIA L4 \(compute capability 8.9\).*7.0"):
        pipeline.make_plan(config.model_copy(update={"profile": tmp_path / "v100.json"}))


def test_a_gpu_without_its_runtime_is_a_problem(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (gpu.Gpu("Tesla V100-SXM2-16GB", "7.0", "535.183.01", 16384, 1530, 135),)
    monkeypatch.setattr(gpu, "gpus", lambda: found)
    monkeypatch.setattr(cuda, "gpus", lambda: found)
    monkeypatch.setattr(cuda, "lacking_provider", lambda: "ONNX Runtime has no CUDA provider")
    config = configured(tiny_bert, data_csv, tmp_path / "out", target="v100", latency_ms=5.0)
    with pytest.raises(TargetError, match="is here, but cannot be used"):
        run(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_a_tensorrt_target_gets_a_file_of_standard_operators(tiny_bert: Path, data_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(configured(tiny_bert, data_csv, out, target="t4-tensorrt", macs=0.6))
    proto = onnx.load(str(out / "model.onnx"))
    assert {node.domain for node in proto.graph.node} == {""} and unsupported(proto) == []
    engine = result.validation["deployment"]["engine"]
    assert (engine["precision"], engine["form"]) == ("fp16", "standard")
    # An engine is made where the GPU is: there is none here.
    assert not (out / "engine").exists()


@pytest.mark.e2e
def test_a_length_between_two_that_were_taken_is_called_interpolated(
    tiny_bert: Path, data_csv: Path, tmp_path: Path, slow: Path, said: Any
) -> None:
    file = tmp_path / "slow.json"
    arguments = ["profile", str(tiny_bert), "--target", str(slow), "--estimate", "--output", str(file)]
    assert cli.main([*arguments, "--seq-len", "16,32", "--batch-size", "1,2", "--seq-len", "40"]) == 0
    assert str(Profiles.read(file)) == ", ".join(f"batch size {b} at length {n}" for b in (1, 2) for n in (16, 32, 40))
    said()
    # Before the first is measured, not after it.
    assert cli.main([*arguments[:-1], str(tmp_path / "long.json"), "--seq-len", "16,64"]) == 3
    printed = said().err
    assert "64 is beyond the 40 positions" in printed and printed.count("load: done") == 0
    run = [
        "run",
        str(tiny_bert),
        "--allow-chance",
        "--data",
        str(data_csv),
        "--eval-data",
        str(data_csv),
        "--target",
        str(slow),
    ]
    run += ["--speedup", "4", "--samples", "32", "--effort", "fast", "--profile", str(file), "--output"]
    out = tmp_path / "out"
    assert cli.main([*run, str(out), "--seq-len", str(LENGTH)]) == 2
    assert "interpolated between two lengths" in said().out
    plan, validation = Plan.read(out), json.loads((out / "validation.json").read_text())
    assert plan.latency_source == "estimated, interpolated" and "interpolated profile" in plan.explain()
    assert validation["latency_ms"]["predicted_by"] == "estimated, interpolated profile"
    assert "interpolated between lengths" in validation["reason"]
    assert Profile.read(out).interpolated == (16, 32)

    refused = tmp_path / "refused"
    assert cli.main([*run, str(refused), "--seq-len", "8"]) == 3
    assert "not extrapolated; it has batch size 1 at length 16" in said().err
    assert cli.main([*run, str(refused), "--seq-len", "32", "--batch-size", "4"]) == 3
    assert "batch sizes are not interpolated" in said().err
    assert not refused.exists()


@pytest.mark.parametrize("given", ["64,", "0", "64,-1", "long"])
def test_what_is_no_list_of_lengths_is_exit_3(tiny_bert: Path, tmp_path: Path, said: Any, given: str) -> None:
    assert cli.main(["profile", str(tiny_bert), "--seq-len", given, "--output", str(tmp_path / "p.json")]) == 3
    assert "64,128" in said().err and not (tmp_path / "p.json").exists()


def test_a_picture_is_of_one_shape(tiny_bert: Path, tmp_path: Path, said: Any) -> None:
    arguments = ["profile", str(tiny_bert), "--seq-len", "16,32", "--plot", str(tmp_path / "p.png")]
    assert cli.main([*arguments, "--output", str(tmp_path / "p.json")]) == 3
    assert "--plot draws one" in said().err


def test_a_profile_of_another_runtime_or_of_another_gpu_than_the_one_here_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    t4 = load_target("t4")
    with pytest.raises(ProfileError, match="measured in tensorrt, target 't4' runs in onnxruntime-cuda"):
        check_device({"runtime": "tensorrt"}, t4)
    described: dict[str, str | int] = {"runtime": t4.runtime, "gpu": "Tesla T4", "compute_capability": "7.5"}
    check_device(described, t4)
    monkeypatch.setattr(gpu, "gpus", lambda: (gpu.Gpu("NVIDIA T1000", "7.5", "550", 4096, 1395, 300),))
    with pytest.raises(ProfileError, match="measured on Tesla T4, target 't4' is NVIDIA T1000 here"):
        check_device(described, t4)
