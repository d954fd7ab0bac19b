"""The doctor is right about this machine, and about machines it is told of."""

from __future__ import annotations

import json
import platform
from types import SimpleNamespace

import pytest
import torch

from compress import cli
from compress.cli import doctor
from compress.export import rtx_library
from compress.profile import gpu

V100 = gpu.Gpu("Tesla V100-SXM2-16GB", "7.0", "535.183.01", 16384, 1530, 135)


def test_it_is_right_about_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--json"])
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["Python"]["value"] == platform.python_version()
    assert found["torch"]["value"] == torch.__version__
    assert "CPUExecutionProvider" in found["ONNX Runtime"]["value"]
    assert all(finding["remedy"] for finding in found.values() if finding["state"] != "ok")
    assert code == (3 if any(finding["state"] == "problem" for finding in found.values()) else 0)


def test_people_get_a_line_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda device: [doctor.Check("torch", "problem", "not installed", "pip it")])
    assert cli.main(["doctor"]) == 3
    assert "problem  torch  not installed; pip it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("installed", "state", "word"),
    [
        (("onnxruntime", "onnxruntime-gpu"), "problem", "both"),
        ((), "problem", "not installed"),
        (("onnxruntime",), "ok", "onnxruntime"),
    ],
)
def test_runtimes(monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], state: str, word: str) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.31" if name in installed else None)
    monkeypatch.setattr(doctor, "gpus", lambda: ())
    finding = next(iter(doctor._runtimes()))
    assert (finding.state, word in finding.value) == (state, True)


def test_a_gpu_without_its_provider_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.31" if name == "onnxruntime" else None)
    monkeypatch.setattr(doctor, "gpus", lambda: (V100,))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    finding = next(iter(doctor._runtimes()))
    assert finding.state == "warning" and "compress[gpu]" in finding.remedy


def test_a_volta_gpu_is_told_what_still_supports_it() -> None:
    finding = doctor.judge(V100)
    assert finding.state == "warning" and "TensorRT 10.4" in finding.remedy
    assert doctor.judge(gpu.Gpu("NVIDIA L4", "8.9", "580.0", 23034, 2040, 2040)).state == "ok"


def test_tensorrt_rtx_is_named_with_what_it_builds_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx_library, "load", lambda: None)
    assert doctor._tensorrt_rtx().state == "ok" and "'rtx'" in doctor._tensorrt_rtx().remedy
    names = dict.fromkeys(("NONE", "CURRENT", "SM89", "SM120"))
    module = SimpleNamespace(__version__="1.7.1.116", ComputeCapability=SimpleNamespace(__members__=names))
    monkeypatch.setattr(rtx_library, "load", lambda: module)
    assert doctor._tensorrt_rtx().value == "1.7.1.116, builds for compute capability 8.9, 12.0"


@pytest.mark.parametrize(("spread", "state"), [(0.02, "ok"), (0.3, "warning"), (0.9, "warning")])
def test_spreads_of_timings(spread: float, state: str) -> None:
    finding = doctor.judge_spread(spread, 1.0)
    assert finding.state == state and f"{spread:.0%}" in finding.value


def test_old_libraries_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: "2.8.1+cu126")
    assert doctor._library("torch", "2.9", "upgrade").state == "problem"
    monkeypatch.setattr(doctor, "version_of", lambda name: "2.13.0+cpu")
    assert doctor._library("torch", "2.9", "upgrade").state == "ok"


@pytest.mark.parametrize(
    ("asked", "state", "words"),
    [
        ("auto", "ok", "cpu"),
        ("cpu", "ok", "cpu"),
        ("cuda", "problem", "PyTorch sees no GPU"),
        ("mps", "problem", "mps"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
def test_where_pytorch_computes(asked: str, state: str, words: str) -> None:
    finding = doctor.computing(asked)
    assert (finding.name, finding.state) == (f"--device {asked}", state) and words in finding.value


def test_a_gpu_that_this_torch_cannot_use_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for place in ("compress.cli.doctor.gpus", "compress.inputs.devices.gpus"):
        monkeypatch.setattr(place, lambda: (V100,))
    finding = doctor.computing("auto")
    assert finding.state == "warning" and "Tesla V100-SXM2-16GB, but PyTorch cannot use it" in finding.value
