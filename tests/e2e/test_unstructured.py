"""``compress run --unstructured``: from checkpoint to artifact, and what is refused before anything is computed."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import compress
from compress import cli
from compress.artifact.verify import verify
from compress.models.encoder import encoder_of
from compress.options.help import HELP
from compress.sparsity.compact_file import NAME, rounded_state
from compress.sparsity.matrices import matrices_of
from compress.sparsity.topk import allowed
from support.data import TEXTS, write_rows
from support.once import Once
from support.runs import check_time_spent

RECIPE = """
description = "a short one"
[unstructured]
scorer = "movement"
epochs = 1.0
batch_size = 16
start = "fisher"
start_examples = 32
project_every = 2
[validation]
held_out = 0.2
times = 2
"""


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty labelled rows: enough to train on."""
    rows = [{"text": text, "label": int(name == "positive")} for text, name in TEXTS * 12]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv", rows)


def command(model: Path, data: Path, output: Path, *options: str) -> list[str]:
    return [
        *("run", str(model), "--allow-chance", "--data", str(data), "--eval-data", str(data)),
        *("--seq-len", "24", "--samples", "32", "--output", str(output), *options),
    ]


@pytest.fixture(scope="module")
def made(tiny_bert: Path, rows_file: Path, once: Once) -> tuple[Path, str]:
    """An artifact of a short training, and what the command printed."""

    def make(folder: Path) -> None:
        recipe = folder / "own.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        options = ("--unstructured", "0.1", "--fine-prune", str(recipe))
        with (folder / "printed").open("w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
            assert cli.main(command(tiny_bert, rows_file, folder / "out", *options)) == 0

    folder = once("unstructured", make)
    return folder / "out", (folder / "printed").read_text(encoding="utf-8")


def read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text(encoding="utf-8"))


@pytest.mark.e2e
def test_the_checkpoint_has_exactly_the_fraction_and_is_an_ordinary_one(made: tuple[Path, str]) -> None:
    from transformers import AutoModelForSequenceClassification

    out, _ = made
    loaded = compress.load(out)
    ordinary = AutoModelForSequenceClassification.from_pretrained(out / "pytorch")
    for name, value in loaded.state_dict().items():
        assert torch.equal(ordinary.state_dict()[name], value), name
    weights = list(matrices_of(encoder_of(loaded)).values())
    elements = sum(w.numel() for w in weights)
    assert sum(int(w.count_nonzero()) for w in weights) == allowed(elements, 0.1)
    small = compress.load_compact(out)
    for name, value in rounded_state(loaded).items():
        assert torch.equal(small.state_dict()[name], torch.from_numpy(value)), name


@pytest.mark.e2e
def test_validation_says_bytes_accuracy_and_no_latency(made: tuple[Path, str]) -> None:
    out, _ = made
    found = read(out, "validation.json")
    weights = found["unstructured"]
    assert found["verdict"] == "pass" and "saves bytes, not time" in found["reason"]
    assert found["latency_ms"]["compressed"] is None and found["speedup"]["value"] is None
    assert "not measured" in found["latency_ms"]["source"]
    assert weights["asked"] == 0.1 and 0.099 < weights["remaining"] <= 0.1
    assert weights["remaining_compact"] <= weights["remaining"]
    parts = [(part["stage"], *part["part"]) for part in check_time_spent(out)]
    assert {("fine-prune", "unstructured"), ("pack",), ("export", "graph"), ("validate", "answers")} <= set(parts)
    assert found["size_bytes"]["compressed"] == weights["file_bytes"]["compact"] == (out / NAME).stat().st_size
    assert found["size_bytes"]["dense"] == (out / "pytorch" / "model.safetensors").stat().st_size
    assert weights["encoder_bytes"]["compact"] < 0.1 * weights["encoder_bytes"]["dense"]
    assert found["metric"]["compressed"] == weights["metric"]["compact"]
    layers = weights["layers"]
    whole = sum(layer["elements"] * layer["remaining"] for layer in layers)
    assert whole / weights["elements"] == pytest.approx(weights["remaining"], abs=1e-4)
    assert found["macs"]["fraction"] == 1.0
    assert found["parity"]["max_abs_diff"] < 1e-3


@pytest.mark.e2e
def test_the_artifact_is_whole_and_says_plainly_what_it_brings(made: tuple[Path, str], tmp_path: Path) -> None:
    kept, printed = made
    # A copy, since its report is written anew.
    out = Path(shutil.copytree(kept, tmp_path / kept.name))
    assert not verify(out).findings
    files = read(out, "manifest.json")["files"]
    expected = {NAME, "model.onnx", "plan.json", "training.csv", "README.md", "report.html", "sbom.cdx.json"}
    assert expected < set(files)
    done = read(out, "manifest.json")["reconstruction"]["fine_pruned"]
    assert done["teacher"] == "tiny-bert" and done["phases"][0]["name"] == "unstructured"
    for text in (printed, (out / "README.md").read_text(), (out / "report.html").read_text()):
        assert "saves bytes, not time" in text and "unless a runtime exploits zeros" in text
    assert printed.rstrip().endswith("verdict: pass") and "layer  0" in printed
    before = (out / "report.html").read_text()
    assert cli.main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == before and not verify(out).findings


@pytest.mark.e2e
def test_gate_judges_size_and_accuracy_and_leaves_latency_open(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = made
    assert cli.main(["gate", str(out), "--max-file-size-mb", f"{NAME}=0.1", "--max-drop", "1"]) == 0
    assert cli.main(["gate", str(out), "--max-file-size-mb", f"{NAME}=0.001"]) == 1
    capsys.readouterr()
    assert cli.main(["gate", str(out), "--max-latency-ms", "5"]) == 2
    said = capsys.readouterr().out
    assert "--unstructured" in said and "compress validate" not in said


@pytest.mark.parametrize("verb", ["validate", "why"])
@pytest.mark.e2e
def test_what_makes_no_sense_on_it_is_refused(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert cli.main([verb, str(made[0])]) == 3
    assert "--unstructured" in capsys.readouterr().err


@pytest.mark.slow
def test_one_shot_needs_no_training(tiny_bert: Path, rows_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(command(tiny_bert, rows_file, out, "--unstructured", "0.25", "--fine-prune", "one-shot")) == 0
    assert not (out / "training.csv").exists()
    done = read(out, "manifest.json")["reconstruction"]["fine_pruned"]
    assert done["phases"] == [] and done["teacher"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--unstructured", "0"], ["--unstructured", "greater than 0"]),
        (["--unstructured", "10"], ["--unstructured", "it is a fraction", "10"]),
        (["--unstructured", "0.1", "--speedup", "2"], ["more than one budget", "--speedup 2", "--unstructured 0.1"]),
        (["--unstructured", "0.1", "--precision", "int8"], ["--precision int8", "--unstructured 0.1", "leave one"]),
        (["--unstructured", "0.1", "--size-mb", "5"], ["--size-mb 5", "--unstructured 0.1"]),
        (["--unstructured", "0.1", "--method", "kwon"], ["--method kwon", "no structure to search for"]),
        (["--unstructured", "0.1", "--target", "v100"], ["--target v100", "nothing is made for a device"]),
        (["--unstructured", "0.1", "--effort", "fast"], ["--effort fast"]),
        (["--unstructured", "0.1", "--fine-prune", "quick"], ["'quick' has no table [unstructured]", "one-shot"]),
        (["--macs", "0.5", "--fine-prune", "unstructured"], ["single weights", "--unstructured F"]),
        (
            ["--unstructured", "0.1", "--fine-prune", "one-shot", "--checkpoints", "c"],
            ["--checkpoints", "trains nothing"],
        ),
        (["--unstructured", "0.1", "--data", "nowhere.csv"], ["'nowhere.csv' does not exist"]),
    ],
)
def test_bad_input_is_one_clear_message_exit_3_and_nothing_written(
    tiny_bert: Path,
    rows_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: list[str],
) -> None:
    out = tmp_path / "out"
    assert cli.main(command(tiny_bert, rows_file, out, *options)) == 3
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message and not out.exists()


def test_no_data_and_other_commands(
    tiny_bert: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["run", str(tiny_bert), "--unstructured", "0.1", "--output", out]) == 3
    assert "no data given" in capsys.readouterr().err
    # From a file, too, it is for `compress run` alone.
    file = tmp_path / "compress.toml"
    file.write_text(
        f'model = "{tiny_bert}"\ndata = "{rows_file}"\nunstructured = 0.1\nseq_len = 24\nallow_chance = true\n'
    )
    assert cli.main(["plan", "--config", str(file)]) == 3
    assert "--unstructured 0.1 is for `compress run` alone" in capsys.readouterr().err
    assert cli.main(["run", "--config", str(file), "--dry-run", "--output", out]) == 0
    said = capsys.readouterr().out
    assert "unstructured" in said and "fine-prune" in said and not Path(out).exists()
    assert "bytes, not time" in HELP["unstructured"]
