"""Whole runs of folders as others publish them: a LoRA adapter, an encoder with a head of SetFit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

import compress
from compress import cli
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from support.data import write_rows
from support.runs import LENGTH, check_verdict, measure_briefly
from support.sentence_folders import sentence_folder, their_embeddings
from support.setfit_heads import own_head_class

pytestmark = pytest.mark.e2e

NAMES = ["negative", "positive"]


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)


@pytest.fixture
def texts(data_csv: Path) -> list[dict[str, str]]:
    """The rows of the data, with names of classes."""
    with data_csv.open(encoding="utf-8", newline="") as file:
        return [{**row, "label": NAMES[int(row["label"])]} for row in csv.DictReader(file)]


def compressed(folder: Path, data: Path, out: Path) -> dict[str, Any]:
    """Run the command, to its end; what validation.json says."""
    options = {"--data": data, "--eval-data": data, "--macs": "0.5", "--effort": "fast", "--seq-len": LENGTH}
    options |= {"--samples": "32", "--output": out}
    arguments = [str(text) for pair in options.items() for text in pair]
    assert cli.main(["run", str(folder), "--allow-chance", *arguments]) == 0
    check_verdict(out, 0)
    found: dict[str, Any] = json.loads((out / "validation.json").read_text())
    return found


def check_answers(out: Path, source: Checkpoint, texts: list[str]) -> None:
    """The file answers what the pruned PyTorch model does, with the head of the source."""
    rows = dict(source.tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"))
    with torch.no_grad():
        expected = source.task.forward(compress.load(out), rows).numpy()
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {value.name: rows[value.name].numpy() for value in session.get_inputs()}
    np.testing.assert_allclose(session.run(["logits"], feed)[0], expected, atol=1e-4)


def accuracy(predicted: list[str], texts: list[dict[str, str]]) -> float:
    return float(np.mean([name == row["label"] for name, row in zip(predicted, texts, strict=True)]))


def test_a_lora_folder(one_layer: Path, data_csv: Path, tmp_path: Path, texts: list[dict[str, str]]) -> None:
    from transformers import AutoModelForSequenceClassification

    folder, merged = tmp_path / "adapter", AutoModelForSequenceClassification.from_pretrained(one_layer)
    folder.mkdir()
    generator, tensors = torch.Generator().manual_seed(3), {}
    for path in ("bert.encoder.layer.0.attention.self.value", "bert.encoder.layer.0.intermediate.dense"):
        weight = merged.get_submodule(path).weight
        up = torch.randn(weight.shape[0], 4, generator=generator)
        down = torch.randn(4, weight.shape[1], generator=generator)
        tensors |= {f"base_model.model.{path}.lora_A.weight": down, f"base_model.model.{path}.lora_B.weight": up}
        weight.data += 2.0 * up @ down
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(one_layer)}))
    found = compressed(folder, data_csv, tmp_path / "out")
    source, lines = load_checkpoint(str(folder)), [row["text"] for row in texts]
    rows = source.tokenizer(lines, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        predicted = merged.eval()(**rows).logits.argmax(-1)
    names = [NAMES[int(number)] for number in predicted]
    assert found["metric"]["dense"] == pytest.approx(accuracy(names, texts), abs=1e-6)
    check_answers(tmp_path / "out", source, lines)


@pytest.mark.parametrize("kind", ["scikit-learn", "torch"])
def test_a_setfit_folder(
    kind: str,
    tokenizer: Any,
    tmp_path: Path,
    texts: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With scikit-learn without config_setfit.json, as older ones are: the head beside modules.json says enough."""
    encoder = sentence_folder(tmp_path, tokenizer, layers=(), longest=LENGTH)
    folder, lines = Path(shutil.copytree(encoder, tmp_path / "setfit")), [row["text"] for row in texts]
    embeddings, data = their_embeddings(encoder, lines), write_rows(tmp_path / "named.csv", texts)
    if kind == "scikit-learn":
        head: Any = LogisticRegression(C=100.0).fit(embeddings, [row["label"] for row in texts])
        predicted = list(head.predict(embeddings))
    else:
        head = own_head_class(monkeypatch)(2)
        predicted = [NAMES[int(number)] for number in head.linear(torch.from_numpy(embeddings)).argmax(-1)]
        (folder / "config_setfit.json").write_text(json.dumps({"labels": NAMES, "normalize_embeddings": False}))
    joblib.dump(head, folder / "model_head.pkl")
    found = compressed(folder, data, tmp_path / "out")
    assert found["metric"]["dense"] == pytest.approx(accuracy(predicted, texts), abs=1e-6)
    check_answers(tmp_path / "out", load_checkpoint(str(folder)), lines)
    head_file = load_file(tmp_path / "out" / "model_head.safetensors")
    assert {tuple(tensor.shape) for tensor in head_file.values()} == {(2, 24), (2,)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}
