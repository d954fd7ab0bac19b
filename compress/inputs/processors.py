"""What turns rows into inputs: the tokenizer or the image processor saved beside a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.core.errors import ModelError
from compress.data.tables import first_line

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# Any of these is a vocabulary; without one transformers makes up an empty tokenizer instead of failing.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


def load_tokenizer(directory: Path, config: Any, model: str) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        ModelError: there is none, it is damaged, or it does not belong to the model.
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
            "they do not belong together"
        )
    return tokenizer


def load_image_processor(directory: Path, config: Any, model: str) -> Any:
    """The image processor of a checkpoint.

    Raises:
        DataError: Pillow is not installed.
        ModelError: there is none, or it is damaged.
    """
    from transformers import AutoImageProcessor

    from compress.data.images import library

    library()
    if not any((directory / name).is_file() for name in IMAGE_PROCESSOR_FILES):
        raise ModelError(
            f"model '{model}' has no image processor ({' or '.join(IMAGE_PROCESSOR_FILES)}); save it beside the weights"
        )
    try:
        return AutoImageProcessor.from_pretrained(
            str(directory), config=config, local_files_only=True, trust_remote_code=False, use_fast=False
        )
    # What a damaged file raises differs between releases of transformers.
    except Exception as error:
        raise ModelError(f"the image processor of model '{model}' cannot be read: {first_line(error)}") from None
