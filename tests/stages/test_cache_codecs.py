"""Law of the codecs: what is read equals what was written, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.artifact.model import tensors_of
from compress.artifact.outcomes import Outcomes
from compress.artifact.validation import Validation
from compress.cache.memo import Codec
from compress.core.importance import Fisher, Importance, Ranking, Rankings
from compress.core.plan import Budget, Plan, Structure
from compress.core.statistics import Interval
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from compress.export.onnx import ExportReport
from compress.inputs.checkpoint import load_checkpoint
from compress.profile.roofline import estimate_profile
from compress.profile.target import load_target
from compress.pruning.removal import remove
from compress.reconstruction.closed_form import SublayerFit
from compress.reconstruction.joint import JointFit
from compress.stages import cache_codecs
from compress.stages.results import ChosenTarget, Evaluated, Exported, Repairs
from support.simulated_machine import SHAPE


def there_and_back(codec: Codec[Any], value: Any, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    codec.write(value, folder)
    return codec.read(folder)


def ranking(units: int, generator: np.random.Generator) -> Ranking:
    loss = np.sort(generator.random(units + 1))[::-1] / 3
    return Ranking(generator.permutation(units).astype(np.int64), loss)


@pytest.mark.parametrize("fisher", [False, True])
@pytest.mark.parametrize("coefficients", [False, True])
def test_importance(tmp_path: Path, fisher: bool, coefficients: bool) -> None:
    generator = np.random.default_rng(0)
    rankings = Rankings(
        tuple(ranking(4, generator) for _ in range(3)),
        tuple(ranking(20, generator) for _ in range(3)),
        generator.random((3, 2)) if coefficients else None,
    )
    found = Fisher(
        generator.random((3, 4)),
        generator.random((3, 20)),
        generator.random((3, 4, 4)).astype(np.float32),
        None,
        7,
        True,
    )
    importance = Importance(rankings, found if fisher else None)
    back = there_and_back(cache_codecs.IMPORTANCE, importance, tmp_path / "entry")
    for mine, its in zip(
        (*rankings.heads, *rankings.filters), (*back.rankings.heads, *back.rankings.filters), strict=True
    ):
        assert mine.order.dtype == its.order.dtype and mine.loss.dtype == its.loss.dtype
        assert (mine.order == its.order).all() and (mine.loss == its.loss).all()
    assert (back.rankings.coefficients is None) != coefficients
    if coefficients:
        assert (back.rankings.coefficients == rankings.coefficients).all()
    assert (back.fisher is None) != fisher
    if fisher:
        assert (back.fisher.heads == found.heads).all() and (back.fisher.head_blocks == found.head_blocks).all()
        assert (back.fisher.filter_blocks, back.fisher.samples, back.fisher.label_free) == (None, 7, True)


GOLDENS = sorted((Path(__file__).parents[1] / "goldens").glob("0.1.0/[!e]*"))
FLOATS = st.floats(allow_nan=False)
INTERVALS = st.builds(Interval, FLOATS, FLOATS, FLOATS)


@given(timed=st.builds(LatencyComparison, INTERVALS, INTERVALS, INTERVALS, st.integers()))
def test_timings(tmp_path_factory: pytest.TempPathFactory, timed: LatencyComparison) -> None:
    folder = tmp_path_factory.mktemp("entry")
    assert there_and_back(cache_codecs.TIMED, timed, folder) == timed
    for golden in GOLDENS:
        validation = Validation.model_validate(json.loads((golden / "validation.json").read_text()))
        outcomes = Outcomes.from_json(json.loads((golden / "outcomes.json").read_text()))
        for found in (Evaluated(validation, outcomes, timed), Evaluated(validation, outcomes)):
            back = there_and_back(cache_codecs.EVALUATED, found, folder)
            assert (back.validation, back.timed) == (found.validation, found.timed)
            assert back.validation.to_json() == validation.to_json()
            assert back.outcomes.to_json() == outcomes.to_json()


def test_engines_arrays_and_profiles(tmp_path: Path) -> None:
    engine = Engine("int8", "packed", "dynamic", True, ("a", "b"))
    assert there_and_back(cache_codecs.ENGINE, engine, tmp_path / "engine") == engine
    chosen = ChosenTarget("cpu", "half of the model takes 2.00 ms on cpu (int8)")
    assert there_and_back(cache_codecs.CHOSEN_TARGET, chosen, tmp_path / "chosen") == chosen
    array = np.random.default_rng(0).random((3, 2))
    assert (there_and_back(cache_codecs.ARRAY, array, tmp_path / "array") == array).all()
    profile = estimate_profile(SHAPE, load_target("v100"), "fp16", 1, 64)
    assert there_and_back(cache_codecs.PROFILE, profile, tmp_path / "profile") == profile


def test_files_come_with_what_belongs_to_them(tmp_path: Path) -> None:
    (tmp_path / "dense.onnx").write_bytes(b"model")
    (tmp_path / "dense.onnx.data").write_bytes(b"weights")
    (tmp_path / "other").write_bytes(b"")
    back = there_and_back(cache_codecs.FILE, tmp_path / "dense.onnx", tmp_path / "entry")
    assert back.read_bytes() == b"model" and back.with_name("dense.onnx.data").read_bytes() == b"weights"
    assert sorted(p.name for p in back.parent.iterdir()) == ["dense.onnx", "dense.onnx.data"]


@pytest.mark.parametrize(
    "names", [("model.onnx", "model.onnx"), ("model.onnx", "float.onnx"), ("engine/model.xml", "model.onnx")]
)
def test_exported_files(tmp_path: Path, names: tuple[str, str]) -> None:
    root = tmp_path / "int8"
    (root / "engine").mkdir(parents=True)
    for name in {*names, "engine/model.bin"}:
        (root / name).write_bytes(name.encode())
    report = ExportReport(20, {"Attention": 3}, 40, 1234)
    exported = Exported(root / names[0], Engine(left_out=("x",)), report, 1.25e-7, root / names[1])
    back = there_and_back(cache_codecs.EXPORTED, exported, tmp_path / "entry")
    assert (back.path.read_bytes(), back.float_path.read_bytes()) == tuple(name.encode() for name in names)
    assert replace(back, path=exported.path, float_path=exported.float_path) == exported
    back.path.unlink()
    with pytest.raises(ValueError, match="not there"):
        cache_codecs.EXPORTED.read(tmp_path / "entry")


def test_a_pruned_model_of_every_family(tiny: Path, tmp_path: Path) -> None:
    import copy

    checkpoint = load_checkpoint(str(tiny))
    shape = checkpoint.encoder.shape
    structure = Structure(heads=((0, 2), (), (0, 1, 2, 3)), filters=(tuple(range(20)), (3, 7), ()))
    plan = Plan(shape, structure, Budget("macs", 0.5), "full", 0.5)
    model = copy.deepcopy(checkpoint.model)
    remove(model, structure)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    repairs = Repairs((SublayerFit(0, "ffn", 20, 100, 0.5, 0.25, None),), JointFit(4, 0.5, 0.4, True, 96))
    loaded: Any = type("Loaded", (), {"checkpoint": checkpoint})
    back, said = there_and_back(cache_codecs.pruned(loaded, plan), (model, repairs), tmp_path / "entry")
    assert said == repairs
    mine, its = tensors_of(model), tensors_of(back)
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    ids = torch.randint(5, 100, (2, 9), generator=generator)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, back(input_ids=ids).logits)
