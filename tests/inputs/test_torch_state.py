"""Torch's process-wide state: whatever the caller has set, results are the same and the caller finds it again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compress
from compress import pipeline
from compress.artifact.model import save_model
from compress.core.errors import CompressError
from compress.core.plan import Budget, Plan
from compress.inputs.torch_state import own_torch_state
from compress.models.encoder import shape_of
from compress.sparsity.compact_file import write_compact
from support.models import random_model
from support.runs import configured
from support.structures import first_units

Context = Callable[[], AbstractContextManager[Any]]


@contextmanager
def setting(write: Callable[[Any], Any], value: Any, read: Callable[[], Any]) -> Iterator[None]:
    """A setting as a program makes it, undone after the test."""
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def sdpa_without_math() -> AbstractContextManager[None]:
    cuda = torch.backends.cuda
    return setting(cuda.enable_math_sdp, False, cuda.math_sdp_enabled)


# What a program may have done before it calls.
CALLERS: dict[str, Context] = {
    "nothing": nullcontext,
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.get_default_dtype),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.get_default_dtype),
    "inference": lambda: torch.inference_mode(),
    "no-grad": lambda: torch.no_grad(),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "deterministic": lambda: setting(
        torch.use_deterministic_algorithms, True, torch.are_deterministic_algorithms_enabled
    ),
    "anomaly": lambda: torch.autograd.detect_anomaly(),
    "precision": lambda: setting(torch.set_float32_matmul_precision, "medium", torch.get_float32_matmul_precision),
    "cudnn": lambda: torch.backends.cudnn.flags(enabled=False, benchmark=True, deterministic=True),
    "sdpa": sdpa_without_math,
    "threads": lambda: setting(torch.set_num_threads, 1, torch.get_num_threads),
    "seeds": lambda: setting(torch.manual_seed, 123, torch.initial_seed),
}


def state() -> dict[str, Any]:
    """Everything that a program could find changed."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "sdpa": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        "torch": torch.get_rng_state().tolist(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "python": random.getstate(),
    }


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_state_inside_is_ours_and_given_back(caller: str, fails: bool) -> None:
    drawn = []
    with own_torch_state():
        ours = state()
        reference = (torch.rand(3).tolist(), np.random.rand(), random.random())
    with CALLERS[caller]():
        before = state()
        try:
            with own_torch_state():
                inside = state()
                drawn = [torch.rand(3).tolist(), np.random.rand(), random.random()]
                # Trainable, as nothing made in inference mode would be.
                torch.ones(2).requires_grad_().sum().backward()
                torch.set_default_dtype(torch.float16)
                torch.set_num_threads(torch.get_num_threads() + 1)
                if fails:
                    raise ValueError("on purpose")
        except ValueError:
            assert fails
        assert state() == before
    assert {k: v for k, v in inside.items() if k != "threads"} == {k: v for k, v in ours.items() if k != "threads"}
    assert tuple(drawn) == reference


def test_a_block_in_a_block_changes_nothing_outside_it() -> None:
    with own_torch_state():
        torch.rand(3)
        before = state()
        with own_torch_state():
            torch.rand(5)
        assert state() == before


@pytest.mark.parametrize("name", ["float64", "bfloat16", "inference", "autocast", "device"])
def test_a_plan_is_the_same_whatever_the_caller_has_set(
    name: str, one_layer: Path, data_csv: Path, tmp_path: Path
) -> None:
    config = configured(one_layer, data_csv, tmp_path / "out", macs=0.5)
    expected, _ = pipeline.make_plan(config)
    with CALLERS[name]():
        before = state()
        plan, _ = pipeline.make_plan(config)
        assert state() == before
    assert plan == expected


@pytest.mark.parametrize("name", ["float64", "inference", "device"])
def test_an_artifacts_model_is_float32_and_trainable(name: str, tmp_path: Path) -> None:
    model = random_model("bert")
    shape = shape_of(model.config)
    write_compact(model, tmp_path / "compact.safetensors")
    save_model(model, tmp_path)
    structure = first_units(shape.dense)
    (tmp_path / "plan.json").write_text(Plan(shape, structure, Budget("macs", 1.0), "full", 1.0).to_json())
    with CALLERS[name]():
        loaded = [compress.load(tmp_path), compress.load_compact(tmp_path)]
    for one in loaded:
        found = {(p.dtype, p.device.type, p.is_inference()) for p in one.parameters()}
        assert found == {(torch.float32, "cpu", False)}


def test_the_state_is_given_back_after_a_refusal(tmp_path: Path, data_csv: Path) -> None:
    with torch.inference_mode(), CALLERS["float64"]():
        before = state()
        for call in (
            lambda: compress.run(str(tmp_path / "nowhere"), data=str(data_csv), macs=0.5, output=str(tmp_path / "out")),
            lambda: compress.load(tmp_path),
            lambda: compress.load_compact(tmp_path),
        ):
            with pytest.raises(CompressError):
                call()
            assert state() == before
