"""The card names what loads the artifact, as its files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.artifact.validation import Validation
from compress.core.plan import Structure
from compress.export.aotinductor_record import PACKAGE, record_of, write_record
from compress.options.run_config import RunConfig
from compress.profile.target import load_target
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


def test_a_compiled_package_has_its_lines(tmp_path: Path) -> None:
    assert "aoti_load_package" not in card(CONFIG, PLAN, None, TASK, tmp_path)
    package = tmp_path / PACKAGE
    package.parent.mkdir()
    package.write_bytes(b"machine code")
    names = ("input_ids", "attention_mask")
    write_record(package, record_of(load_target("cpu-aotinductor"), "fp32", 2, names, ("logits",)))
    text = card(CONFIG, PLAN, None, TASK, tmp_path)
    assert 'aoti_load_package("engine/model.pt2")\nlogits, = model(input_ids, attention_mask)' in text
    assert "on such a processor, without the code of the model" in text


def test_the_dense_model_in_the_same_number_format_has_its_rows() -> None:
    unpruned = {"precision": "int8", "rounds": 30, "next_budget": "--speedup 4"}
    unpruned |= {"latency_ms": {"value": 6.0, "ci95": [5.9, 6.1]}, "speedup": {"value": 1.25, "ci95": [1.2, 1.3]}}
    found = Validation.model_validate({**VALIDATION, "unpruned": unpruned})
    text = card(CONFIG, PLAN, found, TASK, Path())
    assert "| latency, ms, dense in int8 too | 6 | 4.8 |" in text
    assert "| speed-up over dense int8: what pruning adds | 1 | 1.25 |" in text
    assert "in int8 meets the budget alone: nothing is pruned. It takes 6 ms. To prune, ask for --speedup 4." in text
