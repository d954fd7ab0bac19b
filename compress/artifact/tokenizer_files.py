"""Writes the tokenizer of an artifact so that other releases of transformers, and other programs, read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.inputs.processors import TOKENIZER_CONFIG
from compress.inputs.tokenizer_settings import cutting_to

# transformers 5 writes names that release 4 does not know, and reads those of release 4: optimum-onnx needs 4.
_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# How the checkpoint was loaded here; not a property of the tokenizer.
_OF_LOADING = ("backend", "is_local", "local_files_only")


def save_tokenizer(tokenizer: Any, directory: Path, seq_len: int) -> None:
    """Saves a tokenizer that cuts texts to a length, with names that transformers 4 and 5 know.

    Args:
        tokenizer: the checkpoint's tokenizer, or its image processor.
        directory: the artifact.
        seq_len: tokens that texts are cut to; images ignore it.
    """
    with cutting_to(tokenizer, seq_len):
        tokenizer.save_pretrained(directory)
    file = directory / TOKENIZER_CONFIG
    if not file.is_file():
        return  # an image processor
    settings = {name: value for name, value in _read(file).items() if name not in _OF_LOADING}
    kind = settings.get("tokenizer_class")
    settings["tokenizer_class"] = _CLASSES.get(str(kind), kind)
    if isinstance(settings.get("extra_special_tokens"), list):
        # A list is what release 5 makes of this key of release 4, which has a table under the new name.
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
