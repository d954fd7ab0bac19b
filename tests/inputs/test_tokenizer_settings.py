"""Evaluation reads texts as the artifact's own tokenizer does, whatever its settings are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.errors import ConfigError
from compress.core.progress import Silent
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from compress.inputs.load import load, load_model, settle_seq_len
from compress.inputs.tokenizer_settings import cutting_to
from compress.options.run_config import RunConfig
from compress.tasks import outputs_of
from compress.tasks.tokenization import encode_windows
from support.data import TEXTS
from support.models import MakeCheckpoint

LENGTH = 14
LINES = [text for text, _ in TEXTS]
# Changes of tokenizer_config.json, and of tokenizer.json.
TOKENIZERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "pads left": ({"padding_side": "left"}, {}),
    "cuts left": ({"truncation_side": "left"}, {}),
    "pads and cuts left": ({"padding_side": "left", "truncation_side": "left"}, {}),
    "without special tokens": ({}, {"post_processor": None}),
    "without mask": ({"model_input_names": ["input_ids", "token_type_ids"]}, {}),
    "without segments": ({"model_input_names": ["input_ids", "attention_mask"]}, {}),
    "cuts shorter": ({"model_max_length": 9}, {}),
    "settings in tokenizer.json": (
        {},
        {
            "truncation": {"direction": "Left", "max_length": 20, "strategy": "LongestFirst", "stride": 0},
            "padding": {
                "strategy": {"Fixed": 20},
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
        },
    ),
}


def change(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def checkpoint_with(name: str, make_checkpoint: MakeCheckpoint, family: str = "bert") -> Checkpoint:
    directory = make_checkpoint(family)
    outside, inside = TOKENIZERS[name]
    change(directory / "tokenizer_config.json", outside)
    change(directory / "tokenizer.json", inside)
    return load_checkpoint(str(directory))


def shipped(checkpoint: Checkpoint, directory: Path) -> Any:
    """The tokenizer as an artifact has it."""
    from transformers import AutoTokenizer

    with cutting_to(checkpoint.tokenizer, LENGTH):
        checkpoint.tokenizer.save_pretrained(directory)
        checkpoint.model.config.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_evaluation_reads_what_the_shipped_tokenizer_gives(
    name: str, family: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    from datasets import Dataset

    checkpoint = checkpoint_with(name, make_checkpoint, family)
    task, config = checkpoint.task, checkpoint.model.config
    rows = Dataset.from_dict({"text": LINES})
    length = min(LENGTH, checkpoint.tokenizer.model_max_length)
    data = task.encode(rows, checkpoint.tokenizer, task.columns(rows, config), length, config)
    ours = outputs_of(checkpoint.model, task, data, batch_size=4)
    tokenizer = shipped(checkpoint, tmp_path / "shipped")
    for size in (1, 4):
        theirs = []
        for start in range(0, len(LINES), size):
            fed = tokenizer(LINES[start : start + size], padding=True, truncation=True, return_tensors="pt")
            inputs = {key: fed[key] for key in data.features}
            with torch.no_grad():
                theirs.append(checkpoint.model(**inputs).logits.numpy())
        np.testing.assert_allclose(np.concatenate(theirs), ours, atol=1e-5)


def test_what_is_set_right_is_said(make_checkpoint: MakeCheckpoint) -> None:
    assert checkpoint_with("as it is", make_checkpoint).said == ()
    assert "pads on the left" in checkpoint_with("pads left", make_checkpoint).said[0]
    assert "pads on the left" in checkpoint_with("settings in tokenizer.json", make_checkpoint).said[0]
    assert "gives no attention_mask" in checkpoint_with("without mask", make_checkpoint).said[0]


def test_other_programs_pad_and_cut_in_the_same_way(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """tokenizer.json alone says it too: programs without transformers read nothing else."""
    from tokenizers import Tokenizer

    shipped(checkpoint_with("settings in tokenizer.json", make_checkpoint), tmp_path / "shipped")
    bare = Tokenizer.from_file(str(tmp_path / "shipped" / "tokenizer.json"))
    assert bare.padding["direction"] == "right" and bare.truncation["max_length"] == LENGTH


def test_length_beyond_the_tokenizer(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model = make_checkpoint("bert", max_position_embeddings=140)
    change(model / "tokenizer_config.json", {"model_max_length": 9})
    data = tmp_path / "rows.csv"
    data.write_text("text\n" + "\n".join(f'"{line}"' for line in LINES))
    given: dict[str, Any] = {"model": str(model), "data": str(data), "eval_data": str(data), "output": tmp_path / "o"}
    with pytest.raises(ConfigError, match=r"--seq-len 10 is more than the 9 tokens .* --seq-len must be at most 9"):
        load_model(RunConfig(**given, seq_len=10))
    loaded = load(RunConfig(**given), Silent())
    assert settle_seq_len(RunConfig(**given), loaded).seq_len == 9
    assert max(loaded.calibration.lengths) == max(loaded.evaluation.lengths) == 9


def test_settings_come_back_after_writing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = checkpoint_with("settings in tokenizer.json", make_checkpoint)
    before = (checkpoint.tokenizer.model_max_length, checkpoint.tokenizer.backend_tokenizer.truncation)
    shipped(checkpoint, tmp_path / "shipped")
    assert (checkpoint.tokenizer.model_max_length, checkpoint.tokenizer.backend_tokenizer.truncation) == before


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_questions_are_cut_on_the_tokenizers_side(side: str, tokenizer: Any) -> None:
    """Every window keeps tokens of the question and covers the whole context."""
    question, context = "a b c d e f g h i j k l m n o p", " ".join(LINES)
    before = tokenizer.truncation_side
    tokenizer.truncation_side = side
    try:
        data, windows = encode_windows([(question, context)], tokenizer, 16, config_of(tokenizer))
    finally:
        tokenizer.truncation_side = before
    covered = np.zeros(len(context), dtype=bool)
    for offsets in windows.offsets:
        for start, end in offsets:
            covered[max(start, 0) : max(end, 0)] = True
    assert all(covered[i] or char == " " for i, char in enumerate(context))
    kept = tokenizer.decode(data.features["input_ids"][0])
    assert ("p [SEP]" in kept) == (side == "left") and ("[CLS] a" in kept) == (side == "right")


def config_of(tokenizer: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(vocab_size=len(tokenizer))
