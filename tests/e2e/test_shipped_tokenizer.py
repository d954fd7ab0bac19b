"""The accuracy in validation.json is that of the artifact with its own tokenizer, in padded batches and alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.data import TEXTS, write_rows
from support.models import MakeCheckpoint
from support.runs import configured, measure_briefly, run

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)


def own_accuracy(artifact: Path, rows: list[dict[str, str]], batch_size: int) -> float:
    """Accuracy of model.onnx on what the artifact's tokenizer gives, counted here."""
    import onnxruntime
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    names = AutoConfig.from_pretrained(artifact).id2label
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    right = 0
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        fed = tokenizer([row["text"] for row in part], padding=True, truncation=True, return_tensors="np")
        (logits,) = session.run(None, {i.name: fed[i.name].astype(np.int64) for i in session.get_inputs()})
        right += sum(names[int(k)] == row["label"] for k, row in zip(logits.argmax(-1), part, strict=True))
    return right / len(rows)


def test_accuracy_is_that_of_the_artifact(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = make_checkpoint("bert", id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})
    file = model / "tokenizer_config.json"
    settings: dict[str, Any] = {"padding_side": "left", "truncation_side": "left", "model_max_length": 12}
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    words = [word for text, _ in TEXTS for word in text.split()]
    order = np.random.default_rng(0)
    rows = [
        {"text": " ".join(order.choice(words, order.integers(1, 30))), "label": ("negative", "positive")[i % 2]}
        for i in range(60)
    ]
    data = write_rows(tmp_path / "rows.csv", rows)
    run(configured(model, data, tmp_path / "out", seq_len=12, macs=0.6, effort="fast"))
    with data.open(newline="") as stream:
        read = list(csv.DictReader(stream))
    reported = json.loads((tmp_path / "out" / "validation.json").read_text())["metric"]
    assert reported["examples"] == len(read)
    for size in (1, 8):
        assert own_accuracy(tmp_path / "out", read, size) == pytest.approx(reported["compressed"])
