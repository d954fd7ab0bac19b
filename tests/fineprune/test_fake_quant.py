"""Fake quantization is the exporter's rounding: weights element by element, answers nearly; and training under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from compress.core.errors import ArtifactError
from compress.core.plan import Structure
from compress.export import int8 as quantize
from compress.export.lowering import Engine, lower
from compress.export.runtime import open_session
from compress.fineprune.fake_quant import Rounding, round_activations, round_rows, round_weight
from compress.models.encoder import encoder_of
from compress.profile.target import Target
from compress.tasks import TASKS
from support.exporter import export_once
from support.models import random_model
from support.once import Once
from support.structures import padded_inputs
from support.training import PHASE, dense, examples, recipe, training_session

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
DYNAMIC = Engine("int8", "plain", "dynamic")
ENGINES = [
    DYNAMIC,
    Engine("int8", "packed", "dynamic"),
    Engine("int8", "plain", "dynamic", reduce_range=True),
]
SAMPLES = [padded_inputs("bert", batch=8, seed=seed) for seed in range(3)]
TASK = TASKS["text-classification"]


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tables of small models are rounded too."""
    monkeypatch.setattr(quantize, "_TABLE_BYTES", 0)
    yield


Exported = Callable[[Any, Path, Engine, dict[str, torch.Tensor]], tuple[Path, onnx.ModelProto]]


@pytest.fixture
def exported(once: Once) -> Exported:
    """A function ``(model, folder, engine, inputs)``: the float graph that an engine is made of, and the int8 one."""

    def made(model: Any, folder: Path, engine: Engine, inputs: dict[str, torch.Tensor]) -> tuple[Path, onnx.ModelProto]:
        path, dense = folder / f"{engine.name}.onnx", onnx.load(str(export_once(once, model, list(inputs))))
        onnx.save(lower(dense, replace(engine, precision="fp32", scheme="float")), str(path))
        return path, lower(onnx.load(str(path)), replace(engine, form="plain"))

    return made


def tensors_of(proto: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def rounded_in_place(model: Any, rounding: Rounding, levels: int) -> None:
    for linear in rounding.linear(model).values():
        linear.weight.copy_(round_weight(linear.weight, levels))
    for name, module in model.named_modules():
        if name in rounding.tables:
            module.weight.copy_(round_rows(module.weight))


@pytest.mark.parametrize(
    ("family", "engine"),
    [
        *(pytest.param("bert", engine, id=f"bert, {engine}") for engine in ENGINES),
        pytest.param("electra", DYNAMIC, id="a projection before the first layer"),
        pytest.param("modernbert", DYNAMIC, id="one matrix for three", marks=pytest.mark.slow),
        pytest.param("deberta-v2", DYNAMIC, id="projections of positions", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_weights_are_the_files_element_by_element(
    exported: Exported, tmp_path: Path, family: str, engine: Engine
) -> None:
    model, inputs = random_model(family), padded_inputs(family)
    float_path, int8 = exported(model, tmp_path, engine, inputs)
    rounding = Rounding.of(engine, float_path, 1)
    assert rounding is not None
    rounded_in_place(model, rounding, 64 if engine.reduce_range else 127)
    # The float graph of the rounded model has the very numbers that the int8 graph of the model stands for.
    (tmp_path / "again").mkdir()
    again, _ = exported(model, tmp_path / "again", engine, inputs)
    wanted, found = tensors_of(onnx.load(str(again))), tensors_of(int8)
    weights = list(quantize.quantizable(onnx.load(str(float_path))).values())
    assert len(weights) >= 12
    for name in weights:
        scale = found[f"{name}.weight_scale"]
        assert not found[f"{name}.weight_zero_point"].any() and len(scale) == wanted[f"{name}.weight"].shape[1]
        np.testing.assert_array_equal(
            found[f"{name}.weight_quantized"].astype(np.float32) * scale, wanted[f"{name}.weight"]
        )
    for name in rounding.tables:
        values = found[f"{name}.weight_int8"].astype(np.float32) * found[f"{name}.weight_scale"]
        np.testing.assert_array_equal(values, wanted[f"{name}.weight"])
    assert rounding.tables
    # And nothing else was rounded.
    float_weights = tensors_of(onnx.load(str(float_path)))
    touched = {f"{name}.weight" for name in (*weights, *rounding.tables)}
    for name, value in float_weights.items():
        assert np.array_equal(value, wanted[name]) == (name not in touched), name


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@torch.no_grad()
def test_answers_are_the_files_and_not_those_in_float(exported: Exported, tmp_path: Path, engine: Engine) -> None:
    model = random_model("bert")
    float_path, int8 = exported(model, tmp_path, engine, SAMPLES[0])
    rounding = Rounding.of(engine, float_path, 8)
    assert rounding is not None
    session = open_session(int8.SerializeToString(), CPU)
    with rounding.on(model):
        fake = [TASK.forward(model, sample).numpy() for sample in SAMPLES]
    for sample, answer in zip(SAMPLES, fake, strict=True):
        file = session.run({name: tensor.numpy() for name, tensor in sample.items()})
        in_float = TASK.forward(model, sample).numpy()
        # What is left are single activations that lie between two steps, and fall to the other side.
        assert np.sqrt(np.mean((answer - file) ** 2)) < 0.3 * np.sqrt(np.mean((in_float - file) ** 2))


@torch.no_grad()
def test_a_range_is_that_of_a_call(exported: Exported, tmp_path: Path) -> None:
    model, sample = random_model("bert"), SAMPLES[0]
    float_path, int8 = exported(model, tmp_path, DYNAMIC, sample)
    session = open_session(int8.SerializeToString(), CPU)
    for rows in (1, 3):
        calls = [{name: tensor[i : i + rows].numpy() for name, tensor in sample.items()} for i in range(0, 8, rows)]
        file = np.concatenate([session.run(call) for call in calls])
        errors = []
        for assumed in (rows, 8):
            rounding = Rounding.of(DYNAMIC, float_path, assumed)
            assert rounding is not None
            with rounding.on(model):
                errors.append(float(np.abs(TASK.forward(model, sample).numpy() - file).mean()))
        assert errors[0] < 0.5 * errors[1]


def test_what_the_file_leaves_in_float_is_not_rounded(exported: Exported, tmp_path: Path) -> None:
    model = random_model("bert")
    float_path, _ = exported(model, tmp_path, DYNAMIC, SAMPLES[0])
    layer = "bert.encoder.layer.1"
    left = f"{layer}.attention.self.query_key_value", f"{layer}.output.dense"
    everything = Rounding.of(DYNAMIC, float_path, 1)
    rounding = Rounding.of(replace(DYNAMIC, left_out=left), float_path, 1)
    assert everything is not None and rounding is not None
    missing = set(everything.linear(model)) - set(rounding.linear(model))
    projections = {f"{layer}.attention.self.{role}" for role in ("query", "key", "value")}
    assert missing == projections | {f"{layer}.output.dense"}


def test_other_files_have_no_rounding_here(tmp_path: Path) -> None:
    assert Rounding.of(Engine("int8", "plain", "nncf"), tmp_path / "none", 1) is None
    assert Rounding.of(Engine("int8", "plain", "static"), tmp_path / "none", 1) is None
    assert Rounding.of(Engine("fp32"), tmp_path / "none", 1) is None


def test_nothing_stays_of_it() -> None:
    model = random_model("bert")
    rounding = Rounding(DYNAMIC, frozenset(), frozenset({"bert.embeddings.word_embeddings"}), 1)
    with torch.no_grad():
        before = TASK.forward(model, SAMPLES[0])
        with pytest.raises(KeyboardInterrupt), rounding.on(model):
            assert not torch.equal(TASK.forward(model, SAMPLES[0]), before)
            raise KeyboardInterrupt
        assert torch.equal(TASK.forward(model, SAMPLES[0]), before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_gradients_are_those_of_the_rounded_operands() -> None:
    model = random_model("bert")
    name = "bert.encoder.layer.0.output.dense"
    linear: Any = model.get_submodule(name)
    x, wanted = torch.randn(4, 5, 20, requires_grad=True), torch.randn(4, 5, 24)
    with Rounding(DYNAMIC, frozenset(), frozenset(), 4).on(model):
        (linear(x) * wanted).sum().backward()
    weight, inputs = round_weight(linear.weight).detach(), round_activations(x, 4).detach()
    torch.testing.assert_close(x.grad, wanted @ weight)
    torch.testing.assert_close(linear.weight.grad, torch.einsum("bso,bsi->oi", wanted, inputs))


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6), shift=st.floats(-3, 3), rows=st.integers(1, 5))
def test_activations_are_off_by_half_a_step_of_their_call(seed: int, scale: float, shift: float, rows: int) -> None:
    x = scale * (torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed)) + shift)
    rounded = round_activations(x, rows)
    for start in range(0, 5, rows):
        call, found = x[start : start + rows], rounded[start : start + rows]
        step = (max(float(call.max()), 0.0) - min(float(call.min()), 0.0)) / 255
        # The zero point is a whole number: what it is off by moves the ends, where up to a step is cut.
        assert float((found - call).abs().max()) <= 1.001 * step
        assert len(torch.unique(found)) <= 256
    assert torch.equal(round_activations(torch.zeros(2, 2, 2), 1), torch.zeros(2, 2, 2))


COARSE = Rounding(replace(DYNAMIC, reduce_range=True), frozenset(), frozenset(), 1)
DATA = examples(120)
TRAIN, HELD = DATA.select(range(96)), DATA.select(range(96, 120))


def session_of(directory: Path | None = None, tell: Any = None) -> Any:
    tables = recipe(
        weights={**PHASE, "epochs": 1.0},
        quantization={**PHASE, "epochs": 4.0, "learning_rate": 3e-4},
        distillation={"weight": 1.0, "temperature": 1.0},
    )
    return training_session(dense(), tables, TRAIN, HELD, directory=directory, tell=tell or (lambda _: None))


def test_the_last_phase_lowers_the_loss_of_the_rounded_model() -> None:
    session = session_of()
    model, phase = session.train_quantized(None, Structure.dense(encoder_of(random_model("bert")).shape), COARSE)
    assert phase.before > 0 and phase.after < 0.7 * phase.before
    assert {row.phase for row in phase.rows} == {"quantization"} and session.phases == [("quantization", phase)]
    assert not any("forward" in vars(module) for module in model.modules())


class Stop(Exception):
    """In the place of whatever ends a process."""


def test_an_interruption_in_the_last_phase_changes_nothing(tmp_path: Path) -> None:
    kept = Structure(heads=((0, 1), (2,), ()), filters=(tuple(range(8)), (), tuple(range(4, 16))))

    def phases(directory: Path | None, tell: Any = None, rounding: Rounding = COARSE) -> tuple[Any, Any]:
        session = session_of(directory, tell)
        model = None if session.resumed_phase == "quantization" else session.train_weights(None, kept)[0]
        return session.train_quantized(model, session.resumed_structure() or kept, rounding)[0], session.phases

    def stop(line: str) -> None:
        if line.startswith("quantization: step 24"):
            raise Stop

    model, finished = phases(None)
    with pytest.raises(Stop):
        phases(tmp_path, stop)
    with pytest.raises(ArtifactError, match="other layers in int8"):
        phases(tmp_path, rounding=replace(COARSE, engine=DYNAMIC))
    again, finished_again = phases(tmp_path)
    assert finished_again == finished and [name for name, _ in finished] == ["weights", "quantization"]
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
