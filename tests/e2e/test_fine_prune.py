"""Fine-pruning as part of a run: from checkpoint to artifact, and what is refused before anything is computed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compress import cli, pipeline
from compress.artifact.model import load
from compress.core.errors import ConfigError
from compress.core.plan import Plan
from compress.fineprune.recipe import load_recipe, shipped
from compress.options.run_config import RunConfig
from compress.stages import fine_prune
from compress.stages import present_device as device
from support.data import TEXTS, write_rows
from support.models import MakeCheckpoint
from support.runs import check_time_spent, measure_briefly, run

RECIPE = """
description = "two short phases"
[structure]
scorer = "movement"
epochs = 2.0
batch_size = 16
learning_rate = 1e-4
project_every = 2
[weights]
epochs = 1.0
batch_size = 16
[quantization]
epochs = 1.0
batch_size = 16
[distillation]
hidden = 0.5
[validation]
held_out = 0.2
times = 2
"""


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed here is never asserted on, so it is timed briefly."""
    measure_briefly(monkeypatch, candidates=0, epochs=0)


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty labelled rows: enough to train on."""
    rows = [{"text": text, "label": int(name == "positive")} for text, name in TEXTS * 12]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv", rows)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def configured(model: Path, data: Path, output: Path, **options: Any) -> RunConfig:
    given = {"seq_len": 24, "samples": 32, "effort": "fast", "allow_chance": True, **options}
    return RunConfig(model=str(model), data=str(data), eval_data=str(data), output=output, **given)


def test_every_shipped_recipe_is_sound() -> None:
    recipes = {name: load_recipe(name) for name in shipped()}
    assert {"quick", "standard", "thorough"} < set(recipes)
    assert all(recipe.description and recipe.name == name for name, recipe in recipes.items())
    assert all(recipe.source for name, recipe in recipes.items() if name.endswith("squad"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("description = 1\n[weights]\nepochs = 1.0", ["description", "string"]),
        ("[weights]\nepochs = 1.0\nlerning_rate = 0.1", ["unknown key 'weights.lerning_rate'"]),
        ("[weights]\nepochs = -1.0", ["weights.epochs", "greater than 0", "-1.0"]),
        ("[structure]\nepochs = 1.0\nfirst = 0.5\nlast = 0.5", ["first 0.5 and last 0.5", "below 1"]),
        ("[structure]\nepochs = 1.0\nscorer = 'luck'", ["structure.scorer", "'movement'", "'luck'"]),
        ("[weights]\nepochs = 1.0\nbatch_size = 2\naccumulate = 4", ["accumulate 4", "batch_size 2"]),
        ("[distillation]\nweight = 0.5", ["nothing to train", "[structure]"]),
        ("[weights", ["not valid TOML"]),
    ],
)
def test_a_wrong_recipe_is_explained(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(file))
    assert all(word in str(caught.value) for word in [*words, "wrong.toml"])


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'quik'\. Did you mean 'quick'\?"):
        load_recipe("quik")
    with pytest.raises(ConfigError, match="cannot read recipe"):
        load_recipe("nowhere.toml")


@pytest.mark.e2e
def test_a_run_with_both_phases_from_checkpoint_to_artifact(
    two_layers: Path, rows_file: Path, recipe_file: Path, tmp_path: Path
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    options = {"macs": 0.4, "fine_prune": str(recipe_file), "checkpoints": str(kept), "checkpoint_minutes": 1e-9}
    result = pipeline.run(configured(two_layers, rows_file, out, **options))
    plan, manifest = Plan.read(out), json.loads((out / "manifest.json").read_text())
    assert result.plan == plan and plan.macs_fraction <= 0.4
    done = manifest["reconstruction"]["fine_pruned"]
    # The file is float32: nothing is trained under rounding.
    assert [phase["name"] for phase in done["phases"]] == ["structure", "weights"]
    # Training goes on from the weights of the first phase, or from reconstructed ones where those do better.
    assert done["phases"][1]["before"] <= done["phases"][0]["after"] + 1e-6
    assert done["teacher"] == "tiny-bert" and done["recipe"]["structure"]["scorer"] == "movement"
    assert result.validation["fine_pruned"]["before"]["compressed"] == done["metric_before"]
    assert "Fine-pruned by the recipe `own`" in (out / "README.md").read_text()
    assert "training.csv" in manifest["files"]
    with (out / "training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["phase"] for row in rows] == ["structure"] * 2 + ["weights"] * 2
    trained = [part["part"] for part in check_time_spent(out) if part["stage"] == "fine-prune"]
    assert trained[0] == [] and ["structure"] in trained and ["weights"] in trained
    assert all(float(row["cost"]) <= float(row["budget"]) * (1 + 1e-9) for row in rows[:2])
    assert load(out)(input_ids=torch.ones(1, 5, dtype=torch.long)).logits.shape == (1, 2)
    # The same command goes on from the checkpoint, and ends with the same weights.
    assert (kept / "training.safetensors").is_file()
    again = tmp_path / "again"
    pipeline.run(configured(two_layers, rows_file, again, **options))
    one, other = load(out).state_dict(), load(again).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("trained", "rebuilt", "goes_on"),
    [(0.2, 0.1, "rebuilt"), (0.1, 0.2, "trained"), (0.1, 0.1, "trained"), (0.1, math.nan, "trained")],
)
def test_the_weights_that_do_better_go_on(
    trained: float, rebuilt: float, goes_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        @staticmethod
        def held_loss(model: str) -> float:
            return {"trained": trained, "rebuilt": rebuilt}[model]

    said: list[str] = []
    run: Any = SimpleNamespace(info=said.append)
    monkeypatch.setattr(fine_prune, "prune", lambda *_: ("rebuilt", "repairs of rebuilt"))
    nothing: Any = None
    model, repairs = fine_prune._better(run, nothing, "trained", Session(), "repairs of trained")  # type: ignore[arg-type]
    assert (model, repairs) == (goes_on, f"repairs of {goes_on}")
    assert f"the {goes_on.replace('rebuilt', 'reconstructed')} weights go on" in said[0]


@pytest.mark.e2e
def test_a_speedup_is_checked_on_the_device(
    two_layers: Path, rows_file: Path, recipe_file: Path, tmp_path: Path
) -> None:
    recipe_file.write_text(RECIPE.replace('"movement"', '"l0"\npenalty = 0.1'), encoding="utf-8")
    config = configured(two_layers, rows_file, tmp_path / "out", speedup=1.2, fine_prune=str(recipe_file))
    result = run(config)
    assert result.plan.budget.kind == "speedup"
    assert Plan.read(tmp_path / "out") == result.plan


@pytest.mark.e2e
def test_the_last_phase_trains_for_a_dynamic_int8_file(
    two_layers: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "out"
    phase = "epochs = 1.0\nbatch_size = 16\n"
    own.write_text(f"[weights]\n{phase}[quantization]\n{phase}[validation]\ntimes = 2\n", encoding="utf-8")
    # Which of the dynamic forms is the fastest is not the question; what is stored must not answer it elsewhere.
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        device, "choose_fastest", lambda sessions, *_, **__: min(sessions, key=lambda name: "dynamic" not in name)
    )
    pipeline.run(
        configured(two_layers, rows_file, out, macs=0.6, fine_prune=str(own), precision="int8", int8="fastest")
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["engine"]["scheme"] == "dynamic"
    phases = manifest["reconstruction"]["fine_pruned"]["phases"]
    assert [phase["name"] for phase in phases] == ["weights", "quantization"]
    with (out / "training.csv").open() as stream:
        assert [row["phase"] for row in csv.DictReader(stream)] == ["weights"] * 2 + ["quantization"] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fine-prune", "quik"], ["no recipe 'quik'", "quick"]),
        (["--teacher", "MODEL"], ["--teacher", "--fine-prune"]),
        (["--checkpoints", "somewhere"], ["--checkpoints", "--fine-prune"]),
        (["--fine-prune", "standard", "--size-mb", "1"], ["--size-mb 1", "'standard'", "quick"]),
        (["--fine-prune", "quick", "--data", "FEW"], ["40 examples are too few to train on", "--data"]),
        (["--fine-prune", "quick", "--teacher", "LABELS"], ["labels", "teacher", "bad, good"]),
        (["--fine-prune", "quick", "--teacher", "TOKENS"], ["teacher", "another tokenizer"]),
        (["--fine-prune", "LABELS-ONLY", "--teacher", "MODEL"], ["--teacher", "distils nothing"]),
        (["--fine-prune", "LABELS-ONLY", "--data", "UNLABELLED"], ["labels alone", "--label-column"]),
    ],
)
def test_bad_input_is_one_clear_message_exit_3_and_nothing_written(
    two_layers: Path,
    make_checkpoint: MakeCheckpoint,
    rows_file: Path,
    data_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    own = tmp_path / "labels.toml"
    own.write_text("[weights]\nepochs = 1.0\n[distillation]\nweight = 0.0\n", encoding="utf-8")
    unlabelled = write_rows(tmp_path / "texts.csv", [{"text": text} for text, _ in TEXTS * 12])
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    places = {"MODEL": two_layers, "FEW": data_csv, "LABELS-ONLY": own, "UNLABELLED": unlabelled}
    if "LABELS" in arguments:
        places["LABELS"] = make_checkpoint("bert", **names)
    if "TOKENS" in arguments:
        places["TOKENS"] = make_checkpoint("bert")
        vocabulary = places["TOKENS"] / "tokenizer.json"
        document = json.loads(vocabulary.read_text())
        tokens = document["model"]["vocab"]
        last = max(tokens, key=tokens.get)
        tokens["##never"] = tokens.pop(last)
        vocabulary.write_text(json.dumps(document))
    given = [str(places.get(argument, argument)) for argument in arguments]
    data = [] if "--data" in given else ["--data", str(rows_file)]
    out = tmp_path / "out"
    command = [
        "run",
        str(two_layers),
        "--allow-chance",
        *data,
        *given,
        "--eval-data",
        str(rows_file),
        "--macs",
        "0.5",
        "--seq-len",
        "24",
    ]
    assert cli.main([*command, "--output", str(out)]) == 3
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message and not out.exists()


@pytest.mark.e2e
def test_a_training_that_diverges_and_a_budget_out_of_reach_end_with_a_message(
    two_layers: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, kept, out = tmp_path / "own.toml", tmp_path / "kept", tmp_path / "out"
    rates = "epochs = 2.0\nbatch_size = 16\nlearning_rate = 1e18\nclip = 1e30\n"
    own.write_text(f"[weights]\n{rates}", encoding="utf-8")
    data = ["--data", str(rows_file), "--eval-data", str(rows_file), "--seq-len", "24", "--effort", "fast"]
    command = [
        "run",
        str(two_layers),
        "--allow-chance",
        *data,
        "--output",
        str(out),
        "--samples",
        "32",
        "--fine-prune",
        str(own),
    ]
    checkpoints = ["--checkpoints", str(kept), "--checkpoint-minutes", "0.000001"]
    assert cli.main([*command, *checkpoints, "--macs", "0.5"]) == 3
    message = capsys.readouterr().err
    assert "training diverged: the loss is" in message and "Traceback" not in message
    # No step was good, so there is no checkpoint to name.
    assert str(kept) not in message and not list(kept.iterdir())
    # What cannot be reached at all is no matter of training.
    assert cli.main([*command, "--latency-ms", "0.000001"]) == 1
    message = capsys.readouterr().err
    assert "cannot be reached" in message and "Traceback" not in message
    assert not out.exists()
