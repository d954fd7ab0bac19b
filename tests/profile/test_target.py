"""Targets: the shipped ones load, a new device is one file, and every mistake is a TargetError that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import TargetError
from compress.profile.device import describe_device
from compress.profile.target import Target, list_targets, load_target, offered_precisions

GPU = 'device = "x"\nruntime = "onnxruntime-cuda"\n'


def test_cpu_is_the_shipped_default() -> None:
    target = load_target("cpu")
    assert (target.name, target.runtime, target.precision, target.threads) == ("cpu", "onnxruntime-cpu", "fp32", None)


def test_every_shipped_target_is_listed_under_the_name_that_loads_it() -> None:
    known = list_targets()
    assert "cpu" in [target.name for target in known]
    for target in known:
        assert load_target(target.name) == target


def test_targets_that_another_names_are_on_one_device() -> None:
    several = [target for target in list_targets() if target.one_of]
    assert [target.name for target in several] == ["auto-cpu"]
    for target in several:
        assert {load_target(name).device for name in target.one_of} == {target.device}


def test_a_new_device_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "edge-box.toml"
    file.write_text(
        'device = "four small cores"\nruntime = "onnxruntime-cpu"\nthreads = 4\nmemory_bandwidth_gb_s = 12\n'
        "[peak_flops]\nfp32 = 6.4e10\n"
    )
    target = load_target(str(file))
    assert target.name == "edge-box"
    assert target.threads == 4
    assert target.peak_flops == {"fp32": 6.4e10}
    assert describe_device(target)["threads"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('device = "x"\nruntime = "onnxruntime-cpu"\nthread = 2', ["unknown key 'thread'", "Did you mean 'threads'?"]),
        ('device = "x"\nruntime = "tensort"', ["runtime = 'tensort'", "Did you mean 'tensorrt'?"]),
        ('device = "x"', ["key 'runtime' is missing"]),
        ('device = "x"\nruntime = "onnxruntime-cpu"\nthreads = 0', ["threads = 0", "greater than or equal to 1"]),
        ('device = "x"\nruntime = "onnxruntime-cpu"\nthreads = "2"', ["threads = '2'", "integer"]),
        ('device = "x"\nruntime = "onnxruntime-cpu"\nthreads = true', ["threads = True"]),
        ('device = "x"\nruntime = "onnxruntime-cpu"\nmemory_bandwidth_gb_s = nan', ["memory_bandwidth_gb_s"]),
        (f"{GPU}memory_bandwidth_gb_s = 900e9", ["memory_bandwidth_gb_s", "3.35 TB/s is 3350"]),
        (f"{GPU}launch_overhead_us = -1", ["launch_overhead_us = -1"]),
        (f"{GPU}launch_overhead_us = 5000", ["launch_overhead_us", "microseconds"]),
        (f"{GPU}[peak_flops]\nfp16 = 125", ["peak_flops", "125 for fp16", "125 TFLOP/s is 125e12"]),
        (f"{GPU}[peak_flops]\nbf16 = 1e14", ["peak_flops.bf16"]),
        (f"{GPU}compute_capability = 7.0", ["compute_capability = 7.0", "string"]),
        (f'{GPU}compute_capability = "70"', ["compute_capability = '70'"]),
        (f"{GPU}tile_sizes = [[64]]", ["tile_sizes"]),
        (f'{GPU}precisions = ["half"]', ["precisions", "'half'"]),
        (f'{GPU}compute_capability = "9.0"\nmemory_bandwidth_gb_s = 3.35', ["3.35 TB/s is 3350"]),
        (f"{GPU}[calls]\nbatch_size = [1, 8, 4]\nseq_len = [1, 64, 64]", ["calls.batch_size", "the least, the usual"]),
        (f"{GPU}[calls]\nbatch_size = [1, 8, 8]", ["calls.seq_len", "missing"]),
        (f"{GPU}[calls]\nbatch_size = [0, 8, 8]\nseq_len = [1, 64, 64]", ["calls.batch_size"]),
        (f"{GPU}memory_bandwidth = 900", ["unknown key 'memory_bandwidth'", "Did you mean 'memory_bandwidth_gb_s'?"]),
        ('like = "auto-cpu"\nthreads = 2', ["one_of", "threads goes into the file of each"]),
        ('like = "cpu"\none_of = [""]', ["one_of"]),
        ("device = ", ["not valid TOML"]),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(TargetError) as caught:
        load_target(str(file))
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_a_file_may_be_like_a_shipped_target(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text('like = "v100"\ndevice = "V100 PCIe"\nmemory_bandwidth_gb_s = 890\n[peak_flops]\nfp16 = 112e12\n')
    ours, theirs = load_target(str(file)), load_target("v100")
    assert (ours.name, ours.device, ours.memory_bandwidth_gb_s) == ("ours", "V100 PCIe", 890)
    assert ours.peak_flops == {"fp16": 112e12} and ours.tile_sizes == theirs.tile_sizes
    for text, words in (
        ('like = "v10"', r"like = 'v10': no shipped target.*Did you mean 'v100'\?"),
        ("like = 7", "like = 7: no shipped target"),
        ('like = "v100-tensorrt"', "that target is itself like 'v100'; use like = 'v100'"),
    ):
        file.write_text(text)
        with pytest.raises(TargetError, match=words):
            load_target(str(file))


def test_every_gpu_has_a_target_for_tensorrt_that_differs_in_the_runtime_alone() -> None:
    for name in ("v100", "t4", "a100", "l4", "h100", "jetson-orin"):
        plain, engines = load_target(name), load_target(f"{name}-tensorrt")
        same = {"name", "runtime", "precisions", "description"}
        assert plain.model_dump(exclude=same) == engines.model_dump(exclude=same)
        assert engines.runtime == "tensorrt" and engines.name == f"{name}-tensorrt"
        assert not [p for p in offered_precisions(engines, "auto") if engines.missing_for(p)]
    assert "int8" not in offered_precisions(load_target("v100-tensorrt"), "auto"), "Volta has no int8 matrix units"


def test_targets_of_tensorrt_rtx_say_what_they_are_built_for() -> None:
    capabilities = {"t4-rtx": "7.5", "a100-rtx": "8.0", "rtx-3090": "8.6", "l4-rtx": "8.9", "rtx-4090": "8.9"}
    for name, capability in {**capabilities, "rtx-5090": "12.0"}.items():
        target = load_target(name)
        assert (target.runtime, target.compute_capability) == ("tensorrt-rtx", capability)
        assert offered_precisions(target, "auto") == ("fp32", "fp16", "int8") and target.precision == "fp16"
        assert not [p for p in offered_precisions(target, "auto") if target.missing_for(p)]
        # Ranges of an engine, as for TensorRT.
        assert target.for_calls(2, 64).calls is not None


def test_unknown_names_get_a_suggestion_and_the_list() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'cpuu'\. Did you mean 'cpu'\? Known targets: .*cpu"):
        load_target("cpuu")
    with pytest.raises(TargetError, match="Did you mean 'cpu'"):
        load_target("CPU")


@pytest.mark.parametrize("path", ["missing.toml", "no/such/target"])
def test_missing_files(path: str) -> None:
    with pytest.raises(TargetError, match="does not exist"):
        load_target(path)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("folder.toml", "binary.toml"):
        with pytest.raises(TargetError, match="cannot read target file"):
            load_target(str(tmp_path / name))


@given(st.text(max_size=40))
def test_any_text_as_a_target_is_at_worst_a_target_error(name: str) -> None:
    try:
        assert isinstance(load_target(name), Target)
    except TargetError as error:
        assert str(error)


def test_device_description_says_what_decides_latency() -> None:
    described = describe_device(load_target("cpu"))
    assert {"processor", "cores", "threads", "system", "python", "runtime"} <= set(described)
    assert described["threads"] == described["cores"]


def test_a_gpu_has_the_precisions_that_its_file_names() -> None:
    v100 = load_target("v100")
    assert v100.precision == "fp16" and offered_precisions(v100, "auto") == ("fp32", "fp16")
    with pytest.raises(
        TargetError, match=r"'v100' \(onnxruntime-cuda\) has no int8; use --precision fp32, fp16 or auto"
    ):
        offered_precisions(v100, "int8")
