"""Laws of int8 that holds its accuracy: what was planted is found, and what is left out is as little as needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.progress import Silent
from compress.core.statistics import Interval
from compress.export.int8 import output_error, quantizable
from compress.export.lowering import Engine
from compress.export.onnx import export_onnx
from compress.inputs.load import Loaded, load
from compress.options.run_config import RunConfig
from compress.profile.target import load_target
from compress.stages import export, int8_accuracy
from support.structures import undecided, with_outliers

LENGTH = 24
DYNAMIC = Engine("int8", scheme="dynamic")


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def _loaded(model: Path, folder: Path) -> tuple[Loaded, Path]:
    data = undecided(model, folder, LENGTH)
    config = RunConfig(
        model=str(model), data=str(data), eval_data=str(data), macs=0.5, samples=150, seq_len=LENGTH, allow_chance=True
    )
    loaded = load(config, Silent())
    export_onnx(loaded.checkpoint.model, folder / "float.onnx", input_names=loaded.input_names)
    return loaded, folder / "float.onnx"


@pytest.fixture(scope="module")
def sound(make_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Path]:
    """A model that int8 does little to, and its exported file."""
    return _loaded(make_checkpoint("bert"), tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def planted(make_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Path]:
    folder = tmp_path_factory.mktemp("planted")
    return _loaded(with_outliers(make_checkpoint("bert"), folder / "model", layer=1), folder)


def test_a_layer_with_outliers_is_the_worst_by_far(planted: tuple[Loaded, Path]) -> None:
    loaded, path = planted
    ranked = int8_accuracy.offenders(path, DYNAMIC, loaded)
    assert len(ranked) == 3 * 6
    assert ranked[0].weight == "bert.encoder.layer.1.output.dense"
    assert ranked[0].error > 5 * ranked[1].error
    assert [found.error for found in ranked] == sorted((found.error for found in ranked), reverse=True)


def test_it_alone_is_left_out(planted: tuple[Loaded, Path]) -> None:
    loaded, path = planted
    said = Said()
    held = int8_accuracy.hold_accuracy(path, DYNAMIC, loaded, 0.1, said)  # type: ignore[arg-type]
    assert held.left_out[0] == "bert.encoder.layer.1.output.dense"
    assert len(held.left_out) <= 4
    assert "left in fp32" in said.lines[0]


@pytest.mark.slow
def test_the_worst_layers_are_left_out_of_openvinos_int8_too(
    sound: tuple[Loaded, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    loaded, path = sound
    elsewhere, engine = replace(loaded, target=load_target("cpu-openvino")), Engine("int8", scheme="nncf")
    bench = int8_accuracy._Bench(path, engine, elsewhere, loaded.calibration)
    weights = list(quantizable(bench._model).values())
    whole, some = (output_error([bench._answers(left_out, 2)], [bench._dense]) for left_out in ((), weights))
    assert whole > some > 0  # pooler and head stay int8
    ranked = [int8_accuracy.Sensitivity(weight, 1.0 / (i + 1)) for i, weight in enumerate(weights)]
    monkeypatch.setattr(int8_accuracy._Bench, "ranked", lambda bench: ranked)
    # Any loss is too much for as long as fewer than two layers are left out.
    monkeypatch.setattr(int8_accuracy._Bench, "drop", lambda bench, some: Interval(*[float(len(some) < 2)] * 3))
    said = Said()
    held = int8_accuracy.hold_accuracy(path, engine, elsewhere, 0.5, said)  # type: ignore[arg-type]
    assert held.left_out == (ranked[0].weight, ranked[1].weight)
    assert ranked[0].weight in said.lines[0]


def test_nothing_is_left_out_where_nothing_has_to_be(sound: tuple[Loaded, Path]) -> None:
    loaded, path = sound
    said = Said()
    assert int8_accuracy.hold_accuracy(path, DYNAMIC, loaded, 1.0, said) == DYNAMIC  # type: ignore[arg-type]
    assert not said.lines


def test_layers_whose_ranges_do_not_hold_are_left_out_and_named(sound: tuple[Loaded, Path]) -> None:
    loaded, path = sound
    engine, said = Engine("int8", scheme="invariant"), Said()
    assert int8_accuracy.hold_ranges(path, engine, loaded, said) == engine  # type: ignore[arg-type]
    assert not said.lines
    alike = replace(loaded, calibration=loaded.calibration.select([0] * 32))
    held = int8_accuracy.hold_ranges(path, engine, alike, said)  # type: ignore[arg-type]
    assert held.left_out and all(".encoder.layer." in weight for weight in held.left_out)
    assert "exceeds the ranges" in said.lines[0] and held.left_out[0] in said.lines[0]
    # Scales by row have no range that could be too narrow.
    assert not any(weight.endswith(".output.dense") and ".attention." not in weight for weight in held.left_out)


def test_a_drop_has_to_be_beyond_noise_to_be_too_much() -> None:
    assert int8_accuracy.too_much(Interval(0.03, 0.01, 0.05), 0.02)
    assert not int8_accuracy.too_much(Interval(0.03, -0.01, 0.07), 0.02)
    assert not int8_accuracy.too_much(Interval(0.01, 0.005, 0.015), 0.02)


def test_the_drop_is_paired_and_without_labels_agreement(sound: tuple[Loaded, Path]) -> None:
    loaded, _ = sound
    data = loaded.calibration
    right = np.eye(2)[np.asarray(data.labels)]
    wrong = right.copy()
    wrong[:10] = 1 - wrong[:10]
    assert int8_accuracy.drop_between(loaded, data, right, right).value == 0
    assert int8_accuracy.drop_between(loaded, data, right, wrong).value == pytest.approx(10 / len(data))


def test_a_refusal_says_what_to_do_and_names_layers() -> None:
    worst = [int8_accuracy.Sensitivity(f"layer.{i}", 0.5 / (i + 1)) for i in range(6)]
    text = int8_accuracy.refusal(Interval(0.05, 0.03, 0.07), 0.01, worst)
    assert "loses 0.0500" in text and "layer.0 (50.0%)" in text and "layer.4" not in text and "--int8-drop" in text


def test_calibration_batches_have_every_input(sound: tuple[Loaded, Path]) -> None:
    loaded, _ = sound
    samples = export.samples_of(loaded)
    assert sum(len(sample["input_ids"]) for sample in samples) == min(export.STATIC_EXAMPLES, len(loaded.calibration))
    assert all(set(sample) == set(loaded.input_names) for sample in samples)
