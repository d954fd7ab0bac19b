"""Every stage that computes with PyTorch, on a second device: the same bits as on the processor, nothing mixed.

The device is the stand-in of ``support/virtual_device.py``. Attention is eager, since the fused operator that torch
chooses on the processor is another one than elsewhere.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from compress.calibration.accumulate import Passes
from compress.calibration.curvature import curvature
from compress.calibration.fisher import fisher_information
from compress.calibration.obs import rank_by_curvature
from compress.core.errors import DeviceError
from compress.core.plan import Budget, Plan, Structure
from compress.inputs.checkpoint import Checkpoint
from compress.inputs.compute import Compute
from compress.inputs.load import Loaded
from compress.models.encoder import encoder_of
from compress.options.run_config import make_config
from compress.pruning.removal import remove
from compress.reconstruction import layerwise
from compress.reconstruction.closed_form import reconstruct as fit_closed
from compress.reconstruction.joint import fit_jointly
from compress.reconstruction.material import Length, Material
from compress.reconstruction.trial import Trial
from compress.stages.cache_keys import calibration_inputs
from compress.stages.calibrate import calibrate
from compress.stages.context import Run
from compress.stages.prune import reconstruct
from compress.stages.try_out import try_out
from compress.tasks import TASKS, outputs_of
from support.examples import examples
from support.models import random_model
from support.starved import Starved
from support.training import PHASE, dense, recipe, training_session
from support.training import examples as training_examples
from support.virtual_device import VIRTUAL, virtual_device

TASK = TASKS["text-classification"]
HALF = Structure(heads=((0, 2), (1, 3), ()), filters=(tuple(range(0, 20, 2)), (), (1, 5)))
DATA = examples(count=80)


@pytest.fixture(autouse=True)
def plain_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fused optimizers, which torch has for real devices alone."""
    for name in ("AdamW", "Adam"):
        kind = getattr(torch.optim, name)
        monkeypatch.setattr(torch.optim, name, lambda *a, kind=kind, fused=None, **k: kind(*a, **k))


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def everything(model: Any) -> dict[str, Any]:
    """What the stages find on a model, wherever it lies."""
    encoder, student = encoder_of(model), copy.deepcopy(model)
    fisher = fisher_information(encoder, TASK, DATA, Passes(0), label_free=True, blocks=True)
    rankings = rank_by_curvature(encoder, curvature(encoder, TASK, DATA, Passes(0)))
    remove(student, HALF)
    fits = fit_closed(encoder, encoder_of(student), TASK, DATA)
    joint = fit_jointly(encoder, encoder_of(student), TASK, Material.of(DATA, None, 0), length=Length(1, 1))
    return {
        "outputs": outputs_of(model, TASK, DATA),
        "fisher": [fisher.heads, fisher.filters, fisher.head_blocks, fisher.filter_blocks],
        "order": [ranking.order for ranking in (*rankings.heads, *rankings.filters)],
        "losses": [ranking.loss for ranking in (*rankings.heads, *rankings.filters)],
        "score": Trial(encoder, TASK, DATA).score(HALF),
        "fits": [repr(fits), repr(joint)],
        "weights": list(state_of(student).values()),
    }


def assert_same(found: Any, expected: Any) -> None:
    for name in expected:
        for ours, theirs in (
            zip(np.atleast_1d(found[name]), np.atleast_1d(expected[name]), strict=True)
            if isinstance(expected[name], (np.ndarray, float))
            else zip(found[name], expected[name], strict=True)
        ):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs)), name


def eager(family: str) -> Any:
    model = random_model(family)
    model.set_attn_implementation("eager")
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    "family",
    ["bert", *(pytest.param(f, marks=pytest.mark.slow) for f in ("distilbert", "mpnet", "deberta-v2", "modernbert"))],
)
def test_another_device_gives_the_same_bits(family: str) -> None:
    model = eager(family)
    expected = everything(copy.deepcopy(model))
    with virtual_device():
        assert_same(everything(copy.deepcopy(model).to(VIRTUAL)), expected)


def test_what_waits_on_the_processor_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "roomy", lambda device, size: torch.device("cpu"))
    model = eager("modernbert")
    expected = Trial(encoder_of(model), TASK, DATA).score(HALF)
    with virtual_device():
        trial = Trial(encoder_of(copy.deepcopy(model).to(VIRTUAL)), TASK, DATA)
        assert all(state.device.type == "cpu" and type(state) is torch.Tensor for state in trial._teacher.hidden)
        assert trial.score(HALF) == expected


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["movement", "l0", "fisher", "magnitude", "soft-movement"])
def test_training_on_another_device_gives_the_same_bits(scorer: str) -> None:
    from compress.fineprune.unit_scores import UnitImportance
    from compress.search.costs import Costs

    rates = {**PHASE, "epochs": 1.0}
    tables = recipe(
        structure={**rates, "scorer": scorer, "penalty": 0.1}, weights=rates, distillation={"weight": 0.5, "hidden": 1}
    )

    def trained(device: torch.device) -> tuple[list[torch.Tensor], Any, float]:
        checkpoint = dense()
        checkpoint.model.set_attn_implementation("eager")
        session = training_session(checkpoint, tables, training_examples(48), training_examples(16, 1), device=device)
        shape = checkpoint.encoder.shape
        start: UnitImportance = (np.ones((shape.layers, shape.heads)), np.ones((shape.layers, shape.filters)))
        model, masking, _ = session.find_structure(Costs.macs(shape, 0.5, 8.0), start)
        pruned = session.carry_out(model, masking)
        loss = session.held_loss(pruned)
        model, _ = session.train_weights(pruned, masking.structure)
        return list(state_of(model.cpu()).values()), masking.structure, loss

    expected = trained(torch.device("cpu"))
    with virtual_device():
        found = trained(VIRTUAL)
    assert found[1:] == expected[1:]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], expected[0], strict=True))


def run_at(compute: Compute, task: Any = None, said: list[str] | None = None, **options: Any) -> Run:
    checkpoint = dense()
    checkpoint.model.set_attn_implementation("eager")
    checkpoint = replace(checkpoint, task=task or checkpoint.task)
    target: Any = None
    config = make_config({"model": "m", "macs": 0.5, "effort": "standard", **options})
    run = Run.silent(config, Loaded(checkpoint, target, DATA, DATA, DATA.select([]), compute=compute))
    if said is not None:
        run.stages.info = said.append  # type: ignore[method-assign]
    return run


def plan_for(checkpoint: Checkpoint) -> Plan:
    return Plan(checkpoint.encoder.shape, HALF, Budget("macs", 0.5), "full", 0.5)


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.slow), "kwon"])
def test_stages_leave_nothing_on_the_device(method: str) -> None:
    here = run_at(Compute(), method=method)
    expected = calibrate(here)
    model, repairs = reconstruct(here, plan_for(here.loaded.checkpoint))
    with virtual_device():
        there = run_at(Compute.at(VIRTUAL), method=method)
        found = calibrate(there)
        ours, done = reconstruct(there, plan_for(there.loaded.checkpoint))
    assert done == repairs and next(ours.parameters()).device.type == "cpu"
    assert all(torch.equal(a, b) for a, b in zip(state_of(ours).values(), state_of(model).values(), strict=True))
    for a, b in zip(found.rankings.filters, expected.rankings.filters, strict=True):
        assert np.array_equal(a.order, b.order) and np.array_equal(a.loss, b.loss)


def test_results_are_stored_under_the_device_that_computed_them() -> None:
    assert "device" not in calibration_inputs(run_at(Compute()))
    assert calibration_inputs(run_at(Compute.at(VIRTUAL)))["device"] == {"type": "meta", "name": "meta"}


def test_reconstruction_goes_on_with_fewer_examples_where_memory_runs_out() -> None:
    said: list[str] = []
    whole, parts = run_at(Compute()), run_at(Compute(), Starved(dense().task, most=10), said)
    plan = plan_for(whole.loaded.checkpoint)
    (expected, before), (found, after) = reconstruct(whole, plan), reconstruct(parts, plan)
    assert "memory ran out with 32 examples at once; once more with 16" in said[0]
    assert before.joint is not None and after.joint is not None and after.joint.steps == before.joint.steps
    assert [fit.ridge for fit in after.sublayers] == [fit.ridge for fit in before.sublayers]
    assert after.joint.before == pytest.approx(before.joint.before, rel=1e-3)
    assert state_of(found).keys() == state_of(expected).keys()


@pytest.mark.slow
def test_trials_go_on_with_fewer_examples_where_memory_runs_out() -> None:
    said: list[str] = []
    whole, parts = run_at(Compute()), run_at(Compute(), Starved(dense().task, most=20), said)
    importance = calibrate(whole)
    expected, found = (try_out(run, importance, None, 1.0, None) for run in (whole, parts))
    assert "memory ran out with 40 examples" in said[0] or "memory ran out with 64 examples" in said[0]
    assert found.shape == expected.shape


def test_a_gpu_that_is_too_small_is_given_up_and_the_results_are_the_processors() -> None:
    said: list[str] = []
    expected = calibrate(run_at(Compute()))

    class TooSmall(Starved):
        def forward(self, model: Any, inputs: Any) -> Any:
            if inputs["input_ids"].device == VIRTUAL:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self._task.forward(model, inputs)

    with virtual_device():
        run = run_at(Compute.at(VIRTUAL, "auto", said.append), TooSmall(dense().task))
        found = calibrate(run)
        assert "device" not in calibration_inputs(run)
        asked = run_at(Compute.at(VIRTUAL, "cuda"), TooSmall(dense().task))
        with pytest.raises(DeviceError, match="ran out of memory even with one example at once"):
            calibrate(asked)
    assert "PyTorch goes on on the processor" in said[-1]
    for a, b in zip(found.rankings.filters, expected.rankings.filters, strict=True):
        assert np.array_equal(a.order, b.order) and np.array_equal(a.loss, b.loss)
