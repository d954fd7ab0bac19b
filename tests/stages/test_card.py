"""The card names what loads the artifact, as its files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.core.plan import Structure
from compress.options.run_config import RunConfig
from compress.stages.card import card
from support.made_up import PLAN, SHAPE

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
