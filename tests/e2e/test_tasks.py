"""Every task from checkpoint to artifact, with labels and without; wrong data ends with a clear message and code 3."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from compress import cli, pipeline
from compress.artifact.model import load
from compress.tasks import TASKS
from support.data import TEXTS, write_rows
from support.models import random_model
from support.runs import configured, measure_briefly, run

WORDS = [text.split() for text, _ in TEXTS]
ROWS: dict[str, list[dict[str, Any]]] = {
    "text-classification": [
        {"premise": text, "hypothesis": other, "label": name}
        for (text, name), (other, _) in zip(TEXTS, TEXTS[::-1], strict=True)
    ],
    "text-regression": [{"text": text, "score": i / 2} for i, (text, _) in enumerate(TEXTS)],
    "sentence-similarity": [
        {"sentence1": text, "sentence2": other, "score": i} for i, ((text, _), (other, _)) in enumerate(pairwise(TEXTS))
    ],
    "token-classification": [{"tokens": words, "tags": ["O", *["B-food"] * (len(words) - 1)]} for words in WORDS],
    "question-answering": [
        {"question": "what ?", "context": " ".join(words), "answers": {"text": [words[0]], "answer_start": [0]}}
        for words in WORDS
    ],
}
WRONG: dict[str, list[dict[str, Any]]] = {
    "unknown tags": [{"tokens": words, "tags": ["B-drink"] * len(words)} for words in WORDS],
    "answers outside": [
        {**row, "answers": {"text": ["food"], "answer_start": [9000]}} for row in ROWS["question-answering"]
    ],
}
LABELS = {"label", "score", "tags", "answers"}
METRICS = {
    "text-classification": ("accuracy", "fidelity"),
    "text-regression": ("spearman", "fidelity"),
    "sentence-similarity": ("spearman", "cosine fidelity"),
    "token-classification": ("span F1", "fidelity"),
    "question-answering": ("answer F1", "answer F1 fidelity"),
}
HEADS = {
    "text-classification": ["negative", "positive"],
    "text-regression": ["score"],
    "token-classification": ["O", "B-food", "I-food"],
    "question-answering": ["start", "end"],
}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed here is never asserted on, so it is timed briefly."""
    measure_briefly(monkeypatch)


@pytest.fixture(scope="module")
def checkpoints(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small random BERT with the head of each task."""
    import transformers

    made = {}
    for name, task in TASKS.items():
        if task.processor != "tokenizer":
            continue  # test_tasks_pictures.py
        names = HEADS.get(name, ["a", "b"])
        label2id = {label: number for number, label in enumerate(names)}
        options = {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": label2id}
        # Tasks differ behind the encoder: one layer will do.
        options |= {"num_hidden_layers": 1}
        whole = random_model("bert", len(tokenizer), **options)
        model = getattr(transformers, task.auto_class_name).from_config(whole.config)
        model.base_model.load_state_dict(whole.base_model.state_dict(), strict=False)
        made[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


@pytest.mark.e2e
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", sorted(ROWS))
def test_from_checkpoint_to_artifact(checkpoints: dict[str, Path], tmp_path: Path, name: str, labelled: bool) -> None:
    if name == "token-classification":
        pytest.importorskip("seqeval", reason="the extra `tagging` is not installed")
    rows = [{k: v for k, v in row.items() if labelled or k not in LABELS} for row in ROWS[name] * 3]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    # One method each keeps this short; both run on every family elsewhere.
    result = run(configured(checkpoints[name], data, out, macs=0.5, task=name, method="full" if labelled else "kwon"))
    metric = result.validation["metric"]
    assert result.exit_code == 0 and metric["name"] == METRICS[name][0 if labelled else 1]
    low, high = metric["ci95"]
    assert low - 1e-6 <= metric["compressed"] <= high + 1e-6
    if not labelled:
        assert metric["dense"] == pytest.approx(1.0)
    assert result.validation["parity"]["max_abs_diff"] < 1e-3
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["task"]["name"] == name
    assert type(load(out)).__name__ in json.loads((out / "pytorch" / "config.json").read_text())["architectures"]
    again = pipeline.validate_artifact(out)
    assert again.validation["metric"] == metric


@pytest.mark.e2e
def test_what_the_file_gives_is_an_option(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    data = write_rows(tmp_path / "rows.jsonl", ROWS["sentence-similarity"] * 3)
    name = "sentence-similarity"
    metrics = []
    both = ["sentence_embedding", "last_hidden_state"]
    for embedding, outputs in (("normalized", both), ("tokens", both[1:])):
        out = tmp_path / embedding
        config = configured(checkpoints[name], data, out, macs=0.5, task=name, embedding=embedding)
        metrics.append(run(config).validation["metric"]["compressed"])
        assert [value.name for value in onnx.load(str(out / "model.onnx")).graph.output] == outputs
        assert json.loads((out / "manifest.json").read_text())["task"]["embedding"] == embedding
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-4)


@pytest.mark.parametrize(
    ("model", "task", "rows", "message"),
    [
        ("text-classification", "question-answering", "question-answering", "does not fit this checkpoint"),
        ("text-regression", "text-classification", "text-classification", "needs at least two"),
        ("token-classification", "token-classification", "text-classification", "not the pair premise and hypothesis"),
        ("question-answering", "question-answering", "text-regression", "cannot tell question and context apart"),
        ("text-regression", "text-regression", "text-classification", "which is not a number"),
        (
            "token-classification",
            "token-classification",
            "unknown tags",
            "labels that the model does not know: 'B-drink'",
        ),
        ("question-answering", "question-answering", "answers outside", "answer 'food' is not at character 9000"),
        ("sentence-similarity", "sentence-similariti", "sentence-similarity", "Did you mean 'sentence-similarity'"),
    ],
)
def test_wrong_input_says_what_is_wrong(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model: str, task: str, rows: str, message: str,
) -> None:  # fmt: skip
    data = write_rows(tmp_path / "rows.jsonl", {**ROWS, **WRONG}[rows])
    options = ["--data", str(data), "--task", task, "--macs", "0.5", "--output", str(tmp_path / "out")]
    assert cli.main(["run", str(checkpoints[model]), "--allow-chance", "--seq-len", "24", *options]) == 3
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_embeddings_of_a_classifier(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ROWS["text-regression"])
    arguments = [
        str(checkpoints["text-regression"]),
        "--seq-len",
        "24",
        "--data",
        str(data),
        "--macs",
        "0.5",
        "--embedding",
        "pooled",
    ]
    assert cli.main(["run", "--allow-chance", *arguments, "--output", str(tmp_path / "out")]) == 3
    assert "--embedding pooled is for sentence-similarity" in capsys.readouterr().err
