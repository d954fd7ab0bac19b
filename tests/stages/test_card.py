"""The card names what loads the artifact, as its files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.artifact.validation import Validation
from compress.core.plan import Structure
from compress.options.run_config import RunConfig
from compress.stages.card import card
from support.made_up import PLAN, SHAPE, VALIDATION

CONFIG = RunConfig(model="some/model", target="cpu", speedup=2.0)
TASK = {"name": "text-classification"}


def test_what_loads_a_pruned_artifact(tmp_path: Path) -> None:
    text = card(CONFIG, PLAN, None, TASK, tmp_path)
    assert 'ORTModelForSequenceClassification.from_pretrained(".")' in text and 'compress.load(".")' in text
    assert "`from_pretrained` does not load it" in text and "SentenceTransformer" not in text
    assert text.count("--pytorch padded") == 1 and "from transformers" not in text
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "modules.json").touch()
    text = card(CONFIG, PLAN, None, {"name": "sentence-similarity", "prompt": "query: "}, tmp_path)
    assert 'AutoModel.from_pretrained(".")' in text and "does not load it" not in text
    assert 'SentenceTransformer(".", backend="onnx")' in text and "Measured with the prompt 'query: '" in text


def test_a_dense_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    dense = replace(PLAN, structure=Structure.dense(SHAPE))
    text = card(CONFIG, dense, None, TASK, tmp_path)
    assert 'AutoModelForSequenceClassification.from_pretrained("pytorch")' in text and "does not load it" not in text


def test_files_beside_the_model_have_a_table(tmp_path: Path) -> None:
    own = ("speedup", "metric", "size_bytes", "parity", "verdict", "reason")
    kept = {name: VALIDATION[name] for name in own} | {"precision": "int8", "engine": {"precision": "int8"}}
    timed = {**kept, "file": "model_quantized.onnx", "latency_ms": VALIDATION["latency_ms"]}
    latency = {**VALIDATION["latency_ms"], "compressed": None, "ci95": None, "predicted": 3.5}
    speedup = {"value": None, "ci95": None, "predicted": 2.75}
    predicted = {**kept, "file": "model_fp16.onnx", "latency_ms": latency, "speedup": speedup, "precision": "fp16"}
    found = Validation.model_validate({**VALIDATION, "kept": [timed, predicted]})
    text = card(CONFIG, PLAN, found, TASK, tmp_path)
    assert "| model_quantized.onnx | int8 | 4.80 | 2.08 | 0.8900 | 60.0 | pass |" in text
    assert "| model_fp16.onnx | fp16 | 3.50 predicted | 2.75 predicted |" in text
    assert "in other number formats" not in card(CONFIG, PLAN, Validation.model_validate(VALIDATION), TASK, tmp_path)
