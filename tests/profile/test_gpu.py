"""What the driver prints becomes GPUs; what it prints when it fails becomes none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.profile import gpu
from compress.profile.device import describe_device
from compress.profile.target import load_target
from compress.stages import cache_keys

LINES = """Tesla V100-SXM2-16GB, 7.0, 535.183.01, 16384, 1530, 135
Orin (nvgpu), 8.7, 540.4.0, [N/A], [N/A], [N/A]
"""


def test_gpus_as_the_driver_prints_them() -> None:
    found = gpu.parse_nvidia_smi(LINES)
    assert found[0] == gpu.Gpu("Tesla V100-SXM2-16GB", "7.0", "535.183.01", 16384, 1530, 135)
    assert (found[1].compute_capability, found[1].memory_mb) == ("8.7", 0)
    assert found[0].description["gpu"] == "Tesla V100-SXM2-16GB"


@given(st.text())
def test_any_other_text_is_no_gpu(text: str) -> None:
    assert all(found.compute_capability.replace(".", "", 1).isdigit() for found in gpu.parse_nvidia_smi(text))


def test_a_failing_driver_is_no_gpu() -> None:
    text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    assert gpu.parse_nvidia_smi(text) == []


def test_a_target_is_here_where_the_compute_capability_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: tuple(gpu.parse_nvidia_smi(LINES)))
    assert [found.name for found in gpu.matching_gpus("7.0")] == ["Tesla V100-SXM2-16GB"]
    assert gpu.matching_gpus("8.0") == []
    assert len(gpu.matching_gpus(None)) == 2


def test_profiles_have_the_clock_at_work_and_stored_results_do_not_rest_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = gpu.Gpu("Tesla T4", "7.5", "550", 15360, 1590, 300)
    monkeypatch.setattr(gpu, "gpus", lambda: (idle,))
    t4, described, rests_on = load_target("t4"), [], []
    for clock in (1200, 1500):
        monkeypatch.setattr(gpu, "_asked", lambda clock=clock: (replace(idle, now_mhz=clock),))
        described.append(describe_device(t4))
        rests_on.append(cache_keys.device_inputs(t4))
    assert [found["gpu_clock_mhz"] for found in described] == [1200, 1500]
    assert rests_on[0] == rests_on[1] and rests_on[0]["gpu"] == "Tesla T4"
    assert gpu.with_current_clock(gpu.Gpu("Tesla V100", "7.0", "550", 16384, 1530, 135)).now_mhz == 135, (
        "another GPU's is not taken"
    )
