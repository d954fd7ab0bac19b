"""Where tensors lie: one device per model, what grows with the examples, and the stand-in for a GPU that tests use."""

from __future__ import annotations

import copy

import pytest
import torch

from compress.core.errors import ModelError
from compress.models import placement
from compress.models.encoder import encoder_of
from compress.models.placement import device_of, exact, exact_device, moved, roomy, same_device
from compress.reconstruction.joint import fit_jointly
from compress.reconstruction.material import Length, Material
from compress.tasks import TASKS
from support.divergences import divergence
from support.examples import examples
from support.models import random_model
from support.virtual_device import VIRTUAL, MixedDevices, OnVirtual, virtual_device

CPU = torch.device("cpu")


def test_a_model_on_two_devices_is_refused_with_both_names() -> None:
    with virtual_device():
        model = random_model("bert")
        assert device_of(model) == CPU
        model.bert.encoder.layer[1].to(VIRTUAL)
        with pytest.raises(ModelError, match=r"lie on cpu and meta; move all of them to one device"):
            device_of(model)


def test_models_on_different_devices_are_not_run_side_by_side() -> None:
    task, data = TASKS["text-classification"], examples(count=80)
    with virtual_device():
        dense = random_model("bert")
        student = copy.deepcopy(dense).to(VIRTUAL)
        with pytest.raises(ModelError, match=r"one model lies on cpu, the other on meta.*model\.to\('cpu'\)"):
            same_device(dense, student)
        with pytest.raises(ModelError, match="lies on cpu, the other on meta"):
            divergence(dense, student, task, data)
        with pytest.raises(ModelError, match="lies on cpu, the other on meta"):
            fit_jointly(encoder_of(dense), encoder_of(student), task, Material.of(data, None, 0), length=Length(1, 1))


def test_float64_is_where_there_is_any() -> None:
    assert exact_device(torch.device("mps")) == CPU and exact_device(torch.device("cuda", 1)) == torch.device("cuda:1")
    with virtual_device():
        there = exact(torch.ones(2).to(VIRTUAL))
        assert there.dtype == torch.float64 and there.device == VIRTUAL


def test_what_is_nested_is_moved_and_the_rest_left() -> None:
    with virtual_device():
        value = {"a": (torch.ones(1), [torch.zeros(2), None]), "b": "text", "c": 3}
        there = moved(value, VIRTUAL)
        assert isinstance(there["a"][0], OnVirtual) and isinstance(there["a"][1][0], OnVirtual)
        assert there["a"][1][1] is None and there["b"] == "text" and there["c"] == 3
        back = moved(there, CPU)
        assert torch.equal(back["a"][0], value["a"][0])  # type: ignore[index]


@pytest.mark.parametrize(("free", "size", "expected"), [(None, 10**15, "cuda"), (100, 50, "cuda"), (100, 51, "cpu")])
def test_what_takes_more_than_half_of_a_gpu_waits_on_the_processor(
    monkeypatch: pytest.MonkeyPatch, free: int | None, size: int, expected: str
) -> None:
    monkeypatch.setattr(placement, "free_bytes", lambda device: free)
    assert roomy(torch.device("cuda", 0), size).type == expected


def test_the_stand_in_mixes_no_devices() -> None:
    with virtual_device():
        here, there = torch.ones(3), torch.ones(3).to(VIRTUAL)
        with pytest.raises(MixedDevices):
            here + there
        with pytest.raises(MixedDevices):
            torch.linalg.solve(torch.eye(3).to(VIRTUAL), here[:, None])
        with pytest.raises(RuntimeError):
            there.numpy()
        # As on a GPU: numbers and indices may come from the processor.
        assert float((there * torch.tensor(2.0)).sum()) == 6.0
        assert there[torch.tensor([True, False, True])].shape == (2,)
        assert torch.zeros(2, device=VIRTUAL).device == VIRTUAL and torch.equal(there.cpu(), here)
