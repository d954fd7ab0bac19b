"""The artifact's files of sentence-transformers describe the encoder that was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress import pipeline
from compress.options.run_config import RunConfig
from support.sentence_folders import TEXTS, sentence_folder, their_embeddings

PROMPTS = {"query": "the best film : ", "document": "waiter : "}
LENGTH = 12


def exported(folder: Path, output: Path, **options: Any) -> Path:
    return pipeline.export_plan(
        RunConfig(model=str(folder), target="cpu", seq_len=LENGTH, output=output, **options), None
    )


def file_embeddings(artifact: Path, texts: list[str], batch_size: int = 3) -> Any:
    """What the file gives for texts that the artifact's own tokenizer reads, in padded batches."""
    import onnxruntime
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    names, found = [entry.name for entry in session.get_inputs()], []
    for start in range(0, len(texts), batch_size):
        rows = tokenizer(texts[start : start + batch_size], padding=True, truncation=True, return_tensors="np")
        found.append(session.run(None, {name: rows[name].astype(np.int64) for name in names})[0])
    return np.concatenate(found)


@pytest.mark.parametrize(
    "case",
    [
        {"pooling": {"pooling_mode": ("max", "lasttoken")}, "layers": ("Dense", "LayerNorm", "Normalize")},
        {"pooling": {"pooling_mode": ("mean", "cls")}, "layers": ("NoBias",), "truncate_dim": 6},
        {
            "pooling": {"include_prompt": False, "pooling_mode": ("cls", "weightedmean")},
            "layers": ("Residual",),
            "prompts": PROMPTS,
            "default": "query",
            "similarity_fn_name": "dot",
        },
        {"settings": {"do_lower_case": True}, "prompts": PROMPTS, "pooling": {"pooling_mode": "mean_sqrt_len_tokens"}},
    ],
    ids=["layers", "truncated", "prompt", "lower case"],
)
def test_next_tool_sees_the_same_encoder(case: dict[str, Any], tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.backend_tokenizer.normalizer.lowercase = "settings" not in case
    try:
        folder = sentence_folder(tmp_path, tokenizer, **case)
    finally:
        tokenizer.backend_tokenizer.normalizer.lowercase = True
    artifact = exported(folder, tmp_path / "out")
    # The artifact has no transformers checkpoint of its own in its root.
    again = tmp_path / "again"
    shutil.copytree(artifact, again)
    shutil.copy(folder / "model.safetensors", again)
    # Texts are cut where the run cut them.
    change(folder / "sentence_bert_config.json", max_seq_length=LENGTH)
    want = their_embeddings(folder)
    np.testing.assert_allclose(their_embeddings(again), want, atol=1e-5)
    prompt = PROMPTS["query"] if "default" in case else ""
    for size in (1, 3):
        found = file_embeddings(artifact, [prompt + text for text in TEXTS], size)
        np.testing.assert_allclose(found, want, atol=1e-4)
    written = json.loads((artifact / "config_sentence_transformers.json").read_text())
    assert written["default_prompt_name"] == case.get("default") and written["prompts"].get("query", "") == (
        case.get("prompts", {}).get("query", "")
    )
    assert written.get("similarity_fn_name") == case.get("similarity_fn_name", "cosine")


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_chosen_prompt_is_the_next_default(tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer, prompts=PROMPTS, default="query")
    for asked, default in (("document", "document"), ("none", None)):
        artifact = exported(folder, tmp_path / asked, prompt=asked)
        assert (
            json.loads((artifact / "config_sentence_transformers.json").read_text())["default_prompt_name"] == default
        )
        task = json.loads((artifact / "manifest.json").read_text())["task"]
        assert task["prompt"] == (PROMPTS["document"] if default else "")
        assert ("the prompt 'waiter : ' before every text" in (artifact / "README.md").read_text()) == bool(default)


def test_parts_of_an_encoder_are_not_called_the_whole(tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(1, {"idx": 1, "name": "x", "path": "1_LSTM", "type": "sentence_transformers.models.LSTM"})
    (folder / "modules.json").write_text(json.dumps(modules))
    artifact = exported(folder, tmp_path / "out", embedding="tokens")
    assert not (artifact / "modules.json").exists()
