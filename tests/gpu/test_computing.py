"""PyTorch's stages on a GPU: run automatically where there is one, skipped elsewhere with the reason.

``COMPRESS_TEST_DEVICE=cpu`` runs what does not need a GPU's own memory on the processor, to try the tests themselves.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import cli
from compress.calibration.accumulate import Passes
from compress.calibration.curvature import curvature
from compress.calibration.fisher import fisher_information
from compress.core.plan import Budget, Plan, Structure
from compress.inputs.compute import Compute
from compress.inputs.load import Loaded
from compress.inputs.torch_state import own_torch_state
from compress.models.encoder import encoder_of
from compress.options.run_config import make_config
from compress.stages.calibrate import calibrate
from compress.stages.context import Run
from compress.stages.prune import reconstruct
from compress.stages.search import search
from compress.stages.try_out import refined
from compress.tasks import TASKS, outputs_of
from support.data import write_rows
from support.examples import examples
from support.models import random_model
from support.runs import measure_briefly
from support.training import PHASE, dense, recipe, training_session
from support.training import examples as training_examples

ASKED = os.environ.get("COMPRESS_TEST_DEVICE", "cuda")
NO_CUDA = "" if torch.cuda.is_available() else f"PyTorch sees no GPU here (torch {torch.__version__})"
ON_GPU = ASKED.startswith("cuda")
pytestmark = pytest.mark.skipif(bool(NO_CUDA) and ON_GPU, reason=NO_CUDA)
needs_memory = pytest.mark.skipif(not ON_GPU or bool(NO_CUDA), reason=NO_CUDA or "needs the memory of a GPU")
TASK = TASKS["text-classification"]
GB = 2**30
SMALL = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
BASE = {
    "max_position_embeddings": 160,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
LARGE = {
    "max_position_embeddings": 160,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """The settings of a run; the whole memory afterwards."""
    with own_torch_state():
        yield
    if ON_GPU and not NO_CUDA:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.fixture
def compute() -> Compute:
    """Where these tests compute."""
    return Compute(ASKED)


def long_examples(count: int, length: int) -> Any:
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 200, size=length) for _ in range(count)]
    from compress.data.batches import Encoded

    masks = [np.ones_like(row) for row in rows]
    return Encoded(
        {"input_ids": rows, "attention_mask": masks},
        rng.integers(0, 2, size=count),
        {"input_ids": 0, "attention_mask": 0},
    )


def run_on(compute: Compute, data: Any, said: list[str] | None = None, **sizes: Any) -> Run:
    checkpoint, target = dense(**(sizes or SMALL)), None
    loaded = Loaded(checkpoint, target, data, data, data.select([]), compute=compute)  # type: ignore[arg-type]
    run = Run.silent(make_config({"model": "m", "macs": 0.4}), loaded)
    if said is not None:
        run.stages.info = said.append  # type: ignore[method-assign]
    return run


def half(run: Run) -> Plan:
    shape = run.loaded.shape
    structure = Structure(
        heads=(tuple(range(shape.heads // 2)),) * shape.layers,
        filters=(tuple(range(shape.filters // 2)),) * shape.layers,
    )
    return Plan(shape, structure, Budget("macs", 0.5), "full", 0.5)


def limit(gigabytes: float) -> None:
    """Let this process have so much of the GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * GB / total))


def state_of(model: Any) -> list[torch.Tensor]:
    return [tensor.detach().cpu() for tensor in model.state_dict().values()]


def test_outputs_and_sums_are_those_of_the_processor(compute: Compute) -> None:
    data, model = examples(count=200), random_model("bert", **SMALL)
    there = copy.deepcopy(model).to(compute.device)
    np.testing.assert_allclose(outputs_of(there, TASK, data), outputs_of(model, TASK, data), atol=1e-4)
    here, found = (
        fisher_information(encoder_of(m), TASK, data, Passes(0), label_free=True, blocks=True) for m in (model, there)
    )
    # The same labels were drawn: another label would change a sample's gradient altogether.
    np.testing.assert_allclose(found.heads, here.heads, rtol=1e-2, atol=1e-4 * here.heads.max())
    np.testing.assert_allclose(found.filters, here.filters, rtol=1e-2, atol=1e-4 * here.filters.max())
    expected, sums = (curvature(encoder_of(m), TASK, data, Passes(0)) for m in (model, there))
    for key, one in expected.items():
        for ours, theirs in ((sums[key].inputs, one.inputs), (sums[key].outputs, one.outputs)):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-2, atol=1e-4 * float(theirs.abs().max()))


def test_the_order_of_units_and_the_reconstruction_are_those_of_the_processor(compute: Compute) -> None:
    here, there = run_on(Compute(), examples(count=300)), run_on(compute, examples(count=300))
    expected, found = calibrate(here), calibrate(there)
    for ours, theirs in zip(
        (*found.rankings.heads, *found.rankings.filters),
        (*expected.rankings.heads, *expected.rankings.filters),
        strict=True,
    ):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-2, atol=1e-4 * theirs.loss.max())
    (model, before), (ours_model, after) = reconstruct(here, half(here)), reconstruct(there, half(there))
    for ours, theirs in zip(after.sublayers, before.sublayers, strict=True):
        assert ours.error_after == pytest.approx(theirs.error_after, rel=0.05, abs=1e-3)
    assert after.joint is not None and before.joint is not None
    assert after.joint.after == pytest.approx(before.joint.after, rel=0.1, abs=1e-4)
    assert len(state_of(ours_model)) == len(state_of(model))


def test_two_runs_give_the_same_plan_and_the_same_weights(compute: Compute) -> None:
    def once() -> tuple[str, list[torch.Tensor]]:
        run = run_on(compute, examples(count=300))
        plan = search(run, refined(run, calibrate(run), None), None, 1.0)
        return plan.to_json(), state_of(reconstruct(run, plan)[0])

    (plan, weights), (again, others) = once(), once()
    assert plan == again
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, others, strict=True))


@pytest.mark.parametrize("scorer", ["movement", "l0"])
def test_training_and_the_teacher(compute: Compute, scorer: str) -> None:
    from compress.search.costs import Costs

    rates = {**PHASE, "epochs": 1.0}
    tables = recipe(
        structure={**rates, "scorer": scorer, "penalty": 0.1}, weights=rates, distillation={"weight": 0.5, "hidden": 1}
    )
    losses = []
    for device in (torch.device("cpu"), compute.device):
        checkpoint = dense()
        session = training_session(checkpoint, tables, training_examples(48), training_examples(16, 1), device=device)
        shape = checkpoint.encoder.shape
        start = np.ones((shape.layers, shape.heads)), np.ones((shape.layers, shape.filters))
        model, masking, _ = session.find_structure(Costs.macs(shape, 0.5, 8.0), start)
        model, phase = session.train_weights(session.carry_out(model, masking), masking.structure)
        losses.append(phase.after)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@needs_memory
def test_memory_that_ends_halves_the_batch(compute: Compute) -> None:
    said: list[str] = []
    encoder = encoder_of(random_model("bert", **BASE).to(compute.device))
    data = long_examples(96, 128)
    whole = curvature(encoder, TASK, data, Passes(0, batch_size=8))
    limit(torch.cuda.memory_allocated() / GB + 2.5)
    parts = curvature(encoder, TASK, data, Passes(0, batch_size=96, say=said.append))
    assert any("memory ran out with 96 examples" in line for line in said)
    for key, one in whole.items():
        torch.testing.assert_close(parts[key].outputs, one.outputs, rtol=1e-2, atol=1e-4 * float(one.outputs.max()))


@needs_memory
def test_a_gpu_that_is_too_small_gives_way_to_the_processor() -> None:
    said: list[str] = []
    compute = Compute("auto", say=said.append)
    if compute.on_processor:
        pytest.skip("the GPU is full")
    limit(1e-4)
    run = run_on(compute, examples(count=100))
    assert calibrate(run).rankings.filters and compute.on_processor
    assert "PyTorch goes on on the processor" in said[-1]


@needs_memory
def test_stages_give_their_memory_back(compute: Compute) -> None:
    run = run_on(compute, examples(count=100))
    # What cuBLAS takes once for its handles, it keeps.
    reconstruct(run, half(run))
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    reconstruct(run, half(run))
    assert torch.cuda.memory_allocated() <= before[0] + 2**20 and torch.cuda.memory_reserved() <= before[1] + 2**22


@needs_memory
@pytest.mark.parametrize(("sizes", "gigabytes"), [(BASE, 8), pytest.param(LARGE, 24, marks=pytest.mark.slow)])
def test_large_models_fit(compute: Compute, sizes: dict[str, Any], gigabytes: int) -> None:
    """BERT-base in 8 GB and BERT-large in 24 GB at 128 tokens, without smaller batches."""
    said: list[str] = []
    limit(gigabytes)
    run = run_on(compute, long_examples(128, 128), said, **sizes)
    calibrate(run)
    reconstruct(run, half(run))
    assert not [line for line in said if "memory ran out" in line]
    assert torch.cuda.max_memory_reserved() <= gigabytes * GB


@pytest.fixture
def command(tiny_bert: Path, rows: list[dict[str, Any]], tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a small run."""
    data = write_rows(tmp_path / "rows.csv", rows)
    given = ["--data", str(data), "--eval-data", str(data), "--macs", "0.5", "--seq-len", "24", "--allow-chance"]
    return lambda *more: ["run", str(tiny_bert), *given, "--output", str(tmp_path / "out"), *more]


def test_a_whole_run(command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)
    assert cli.main(command("--device", ASKED)) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest.get("computed_on", {}).get("type") == (torch.device(ASKED).type if ON_GPU else None)


@needs_memory
def test_a_gpu_too_many_is_told_those_there_are(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command("--device", "cuda:99")) == 3
    assert f"cuda:0 ({torch.cuda.get_device_name(0)})" in capsys.readouterr().err
