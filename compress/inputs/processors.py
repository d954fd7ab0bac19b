"""Loads the tokenizer or the image processor saved beside a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.errors import ModelError
from compress.data.text_files import first_line

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# Any of these holds a vocabulary; without one transformers returns an empty tokenizer and no error.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


def load_tokenizer(directory: Path, config: Any, model: str) -> Any:
    """Loads the tokenizer of a checkpoint.

    Args:
        directory: the checkpoint.
        config: its configuration.
        model: the name that the user gave it, for messages.

    Raises:
        ModelError: the tokenizer is missing or damaged, or does not belong to the model.
    """
    from transformers import AutoTokenizer

    if not any((directory / name).is_file() for name in _VOCABULARIES):
        raise ModelError(f"model '{model}' has no tokenizer ({', '.join(_VOCABULARIES)}); save it beside the weights")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), config=config, local_files_only=True, trust_remote_code=False
        )
    # The tokenizers library raises bare Exception for a damaged tokenizer.json.
    except Exception as error:
        raise ModelError(f"the tokenizer of model '{model}' cannot be read: {first_line(error)}") from None
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of model '{model}' has no padding token; set pad_token and save it again")
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"the tokenizer of model '{model}' has {len(tokenizer)} tokens, the model {config.vocab_size}: "
            "they do not belong together; save the tokenizer of this model beside it"
        )
    return tokenizer


def load_image_processor(directory: Path, config: Any, model: str) -> Any:
    """Loads the image processor of a checkpoint.

    Args:
        directory: the checkpoint.
        config: its configuration.
        model: the name that the user gave it, for messages.

    Raises:
        DataError: Pillow is not installed.
        ModelError: the image processor is missing or damaged.
    """
    from transformers import AutoImageProcessor

    from compress.data.images import pillow

    pillow()
    if not any((directory / name).is_file() for name in IMAGE_PROCESSOR_FILES):
        raise ModelError(
            f"model '{model}' has no image processor ({' or '.join(IMAGE_PROCESSOR_FILES)}); save it beside the weights"
        )
    try:
        return AutoImageProcessor.from_pretrained(
            str(directory), config=config, local_files_only=True, trust_remote_code=False, use_fast=False
        )
    # The errors for a damaged file differ between releases of transformers.
    except Exception as error:
        raise ModelError(f"the image processor of model '{model}' cannot be read: {first_line(error)}") from None
