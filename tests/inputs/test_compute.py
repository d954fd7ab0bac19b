"""Where PyTorch computes: what is asked for is there or refused, ``auto`` gives way, and errors say what to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from compress import cli
from compress.core.errors import ConfigError, DeviceError
from compress.inputs import compute as module
from compress.inputs import devices
from compress.inputs.compute import Compute, Need
from compress.options.run_config import make_config
from compress.profile.gpu import Gpu
from support.training import dense
from support.virtual_device import VIRTUAL, virtual_device

CPU = torch.device("cpu")
H100 = Gpu("NVIDIA H100", "9.0", "580.1", 81559, 1980, 1980)
NEED = Need(fixed=2_000_000_000, example=100_000_000)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """PyTorch as it is on a machine with two GPUs, up to the first thing that is computed there."""
    machine: dict[str, Any] = {"free": {0: 90e9, 1: 40e9}, "broken": {}}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    for place in (module, devices):
        monkeypatch.setattr(place, "free_bytes", lambda device: machine["free"].get(device.index))
        if place is module:
            monkeypatch.setattr(place, "why_broken", lambda device: machine["broken"].get(device.index))
    return machine


@pytest.mark.parametrize("given", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "", "xpu"])
def test_other_names_are_refused_with_those_that_there_are(given: str) -> None:
    with pytest.raises(ConfigError, match=r"must be auto, cpu, cuda, cuda:N \(as cuda:1\) or mps"):
        make_config({"model": "m", "device": given})


@pytest.mark.parametrize("given", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps", torch.device("cuda", 1)])
def test_the_names_there_are_and_devices_of_torch(given: object) -> None:
    assert make_config({"model": "m", "device": given}).device == str(given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("asked", ["cuda", "cuda:1", "mps"])
def test_a_gpu_that_is_not_here_is_refused_before_anything_is_read(
    asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["run", "no-such-model", "--data", "no-such-data", "--macs", "0.5", "--device", asked])
    said = capsys.readouterr().err
    assert code == 3 and f"--device {asked}: PyTorch sees no" in said
    assert "there is only cpu; use --device cpu" in said


def test_a_gpu_that_this_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: (H100,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match=r"this machine has NVIDIA H100, but .* is built without CUDA.*--device cpu"):
        devices.refuse_absent("cuda")


def test_a_number_too_high_is_told_those_there_are(two_gpus: dict[str, Any]) -> None:
    devices.refuse_absent("cuda:1")
    with pytest.raises(DeviceError, match=r"--device cuda:2: there are cpu, cuda:0 \(GPU 0\), cuda:1 \(GPU 1\)"):
        devices.refuse_absent("cuda:2")


@pytest.mark.parametrize(
    ("free", "broken", "expected", "warnings"),
    [
        ({0: 90e9, 1: 40e9}, {}, "cuda:0", 0),
        ({0: 1e9, 1: 40e9}, {}, "cuda:1", 1),
        ({0: 1e9, 1: 2e9}, {}, "cpu", 2),
        ({0: 2.1e9, 1: 0}, {}, "cuda:0", 0),
        ({0: 90e9, 1: 40e9}, {0: "CUDA error: no kernel image is available"}, "cuda:1", 1),
        ({0: 90e9, 1: 40e9}, {0: "busy", 1: "busy"}, "cpu", 2),
    ],
)
def test_auto_takes_a_gpu_that_works_and_has_room(
    two_gpus: dict[str, Any], free: Any, broken: Any, expected: str, warnings: int
) -> None:
    two_gpus.update(free=free, broken=broken)
    said: list[str] = []
    assert str(Compute("auto", NEED, said.append).device) == expected
    assert sum("warning" in line for line in said) == warnings
    if expected == "cpu" and not broken:
        assert "about 5.2 GB with 32 examples at once, 2.1 GB with one: PyTorch computes on the processor" in said[-1]
    assert any("PyTorch computes on cuda" in line for line in said) == (expected != "cpu")


def test_a_gpu_that_does_not_work_is_refused_where_it_was_asked_for(two_gpus: dict[str, Any]) -> None:
    two_gpus["broken"] = {1: "CUDA error: no kernel image is available"}
    with pytest.raises(DeviceError, match=r"--device cuda:1: GPU 1 does not work \(CUDA error: no kernel.*doctor"):
        assert Compute("cuda:1").device


def test_several_processes_share_no_gpu(two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "several_processes", lambda: True)
    monkeypatch.setattr(devices, "several_processes", lambda: True)
    with pytest.raises(DeviceError, match=r"cuda:1 names one GPU.*--device cuda each takes its own"):
        assert Compute("cuda:1").device
    # This process's own one has no room; the other belongs to another process.
    two_gpus["free"] = {0: 1e9, 1: 40e9}
    assert Compute("auto", NEED).device == CPU


def fails(error: Exception) -> Callable[[Compute], str]:
    def work(compute: Compute) -> str:
        if compute.device != CPU:
            raise error
        return "done"

    return work


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
LOST = torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")


def test_auto_goes_on_on_the_processor_where_memory_runs_out() -> None:
    said: list[str] = []
    compute = Compute.at(VIRTUAL, "auto", said.append)
    assert compute.attempt(lambda: fails(OUT)(compute)) == "done"
    assert compute.on_processor and "ran out of memory even with one example at once" in said[0]
    assert "PyTorch goes on on the processor" in said[0]
    assert compute.inputs() == {}


@pytest.mark.parametrize(("asked", "alone"), [("cuda", True), ("cuda:1", True), ("auto", False)])
def test_a_device_that_was_asked_for_is_not_given_up_nor_one_of_several(asked: str, alone: bool) -> None:
    compute = Compute.at(VIRTUAL, asked)
    with pytest.raises(DeviceError, match=r"ran out of memory.*shorter --seq-len.*--device cpu"):
        compute.attempt(lambda: fails(OUT)(compute), alone=alone)
    assert not compute.on_processor


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_gpu_that_vanishes_ends_the_run_with_what_to_do(asked: str) -> None:
    compute = Compute.at(VIRTUAL, asked)
    with pytest.raises(DeviceError) as caught:
        compute.attempt(lambda: fails(LOST)(compute))
    text = str(caught.value)
    assert "failed in the middle (CUDA error: unspecified launch failure); nothing was written" in text
    assert "--resume" in text and "--device cpu" in text and "\n" not in text


def test_an_operator_that_cannot_repeat_its_sums_is_said_and_used_all_the_same() -> None:
    said: list[str] = []
    compute, strict = Compute.at(VIRTUAL, "cuda", said.append), [True]

    def work() -> str:
        if strict:
            strict.clear()
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...")
        return "done"

    assert compute.attempt(work) == "done" and not compute.on_processor
    assert said == [
        "warning: cumsum_cuda_kernel of meta has no order of sums that repeats: two runs may differ by rounding"
    ]
    strict.append(True)
    with pytest.raises(RuntimeError, match="cumsum"):
        compute.attempt(work)


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("shapes differ"), MemoryError("of the host")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    compute = Compute.at(VIRTUAL, "auto")
    with pytest.raises(type(error), match=str(error)):
        compute.attempt(lambda: fails(error)(compute))
    assert not compute.on_processor


def test_the_dense_model_stays_on_the_processor_and_its_copy_frees_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = dense()
    with Compute().on(checkpoint) as there:
        assert there is checkpoint
    with virtual_device(), Compute.at(VIRTUAL).on(checkpoint) as there:
        assert there.encoder.device == VIRTUAL and there.encoder.model is there.model
        assert all(p.device == CPU for p in checkpoint.model.parameters())
    monkeypatch.setattr(Compute, "on_processor", False)
    with Compute.at(CPU).on(checkpoint) as there:
        assert there.model is not checkpoint.model and there.encoder.device == CPU
    assert all(p.is_meta for p in there.model.parameters())


def test_need_grows_with_everything() -> None:
    small, large = dense(), dense(intermediate_size=64)
    one, two = Need.of(small, 16), Need.of(large, 16)
    assert 0 < one.fixed < two.fixed and 0 < one.example < two.example
    assert Need.of(small, 32).example > 2 * one.example and one.bytes(8) == one.fixed + 8 * one.example


@pytest.mark.parametrize("strict", [True, False])
def test_settings_of_a_gpu_hold_for_the_block_alone(strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    deterministic: Any = torch.utils.deterministic
    fused = torch.backends.cuda.mem_efficient_sdp_enabled
    with module._settings(torch.device("cuda", 0), strict):
        assert torch.are_deterministic_algorithms_enabled() and not deterministic.fill_uninitialized_memory
        assert torch.is_deterministic_algorithms_warn_only_enabled() is not strict and fused() is strict
    assert not torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory and fused()
