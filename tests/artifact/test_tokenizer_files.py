"""The artifact's tokenizer is the checkpoint's, under names that every release of transformers knows."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from compress.artifact.tokenizer_files import save_tokenizer


def test_a_generic_tokenizer_is_named_as_transformers_4_knows_it(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    changed = AutoTokenizer.from_pretrained(tokenizer.name_or_path, local_files_only=True)
    changed.add_special_tokens({"additional_special_tokens": ["<one>"]})
    save_tokenizer(changed, tmp_path, 12)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<one>"] and "extra_special_tokens" not in settings
    assert not {"local_files_only", "is_local", "backend"} & set(settings)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "a gripping film <one> " * 9
    assert again(text, truncation=True)["input_ids"] == changed(text, truncation=True, max_length=12)["input_ids"]
    assert again.special_tokens_map == changed.special_tokens_map
