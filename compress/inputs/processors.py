"""Loads the tokenizer or the image processor saved beside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.inputs.configuration import own_classes
from compress.tasks.tokenization import keep_truncation

TOKENIZER_CONFIG = "tokenizer_config.json"
# Runic, Cyrillic, Chinese and alchemical characters, one of which hardly any vocabulary has.
_UNKNOWN = "\u16a0 \ua66e \u9f98 \U0001f71a"
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def _vocabularies(directory: Path, config: Any) -> tuple[str, ...]:
    """Returns the names of the files that may hold a tokenizer's vocabulary, as its classes say; tokenizer.json first.

    Args:
        directory: the checkpoint; its tokenizer_config.json may name a class.
        config: its configuration, whose family has a class.
    """
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING, tokenizer_class_from_name
    from transformers.tokenization_utils_base import FULL_TOKENIZER_FILE

    known = TOKENIZER_MAPPING.get(type(config), None)
    # The slow and the fast class, in releases of transformers that have two.
    classes = list(known) if isinstance(known, (tuple, list)) else [known]
    named = _settings(directory / TOKENIZER_CONFIG).get("tokenizer_class")
    if isinstance(named, str):
        stem = named.removesuffix("Fast")
        classes = [tokenizer_class_from_name(stem), tokenizer_class_from_name(f"{stem}Fast"), *classes]
    names = [FULL_TOKENIZER_FILE]
    for one in classes:
        # Where a package is missing, transformers has something without file names in the place of a class.
        files = getattr(one, "vocab_files_names", None)
        names += [str(name) for name in files.values()] if isinstance(files, dict) else []
    return tuple(dict.fromkeys(names))


def tokenizer_files(directory: Path, config: Any) -> tuple[str, ...]:
    """Returns the names of all files that a checkpoint's tokenizer may consist of.

    Args:
        directory: the checkpoint; its tokenizer_config.json may name a class.
        config: its configuration, whose family has a class.
    """
    from transformers.tokenization_utils_base import ADDED_TOKENS_FILE, SPECIAL_TOKENS_MAP_FILE

    return (*_vocabularies(directory, config), TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP_FILE, ADDED_TOKENS_FILE)


def load_tokenizer(directory: Path, config: Any, model: str) -> Any:
    """Loads the tokenizer of a checkpoint.

    Args:
        directory: the checkpoint.
        config: its configuration.
        model: the name that the user gave it, for messages.

    Raises:
        ModelError: the tokenizer is missing or damaged, needs a package that is not installed or code of its own, or
            does not belong to the model.
    """
    from transformers import AutoTokenizer

    names = _vocabularies(directory, config)
    found = [name for name in names if (directory / name).is_file()]
    if not found:
        raise ModelError(f"model '{model}' has no tokenizer ({', '.join(names)}); save it beside the weights")
    own = own_classes(_settings(directory / TOKENIZER_CONFIG).get("auto_map"))
    if own:
        raise ModelError(
            f"the tokenizer of model '{model}' needs code of its own ({own[0]}), and code from a checkpoint is never "
            "run; save a tokenizer of a class that transformers has beside the weights"
        )
    _require_sentencepiece(directory, found, model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), config=config, local_files_only=True, trust_remote_code=False
        )
    # The tokenizers library raises bare Exception for a damaged tokenizer.json.
    except Exception as error:
        missing = [name for name in names[1:] if name not in found]
        beside = (
            f"; it has {', '.join(found)}, and no {' or '.join(missing)}" if missing and names[0] not in found else ""
        )
        raise ModelError(f"the tokenizer of model '{model}' cannot be read: {first_line(error)}{beside}") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"the tokenizer of model '{model}' has no tokens but special ones: nothing was read from "
            f"{', '.join(found)}; save the tokenizer again"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of model '{model}' has no padding token; set pad_token and save it again")
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"the tokenizer of model '{model}' has {len(tokenizer)} tokens, the model {config.vocab_size}: "
            "they do not belong together; save the tokenizer of this model beside it"
        )
    _try_out(tokenizer, config, model)
    return tokenizer


def _try_out(tokenizer: Any, config: Any, model: str) -> None:
    """Raises ModelError if a tokenizer gives numbers that the model does not have, or fails on unknown characters."""
    whose = f"the tokenizer of model '{model}'"
    numbers = tokenizer.get_vocab()
    token = max(numbers, key=numbers.__getitem__)
    if numbers[token] >= config.vocab_size:
        raise ModelError(
            f"{whose} numbers the token {token!r} {numbers[token]}, the model has {config.vocab_size} tokens, from 0; "
            "save the tokenizer of this model beside it, or resize the model (resize_token_embeddings) and fine-tune it"
        )
    limit = tokenizer.model_max_length
    if not isinstance(limit, (int, float)) or limit < 1:
        raise ModelError(
            f"{whose} cuts texts to {limit!r} tokens (model_max_length in {TOKENIZER_CONFIG}); write the number of "
            "tokens that the model was trained with, or remove the line"
        )
    try:
        with keep_truncation(tokenizer):
            found = tokenizer([_UNKNOWN], [_UNKNOWN])
    # The tokenizers library raises bare Exception.
    except Exception as error:
        raise ModelError(
            f"{whose} fails on a character that it does not know: {first_line(error)}; give it an unknown token "
            "(unk_token) that is in its vocabulary, and save it again"
        ) from None
    segments = getattr(config, "type_vocab_size", 0)
    largest = max((number for row in found.get("token_type_ids", []) for number in row), default=0)
    if 2 <= segments <= largest:
        raise ModelError(
            f"{whose} numbers the segments of a pair up to {largest}, the model has {segments}, from 0; save the "
            "tokenizer of this model beside it"
        )


def _require_sentencepiece(directory: Path, found: list[str], model: str) -> None:
    """Raises ModelError where only a model of SentencePiece holds the vocabulary, and nothing here can read it."""
    from importlib.util import find_spec

    models = [name for name in found if name.endswith(".model")]
    missing = [module for module in ("sentencepiece", "google.protobuf") if find_spec(module) is None]
    if len(models) == len(found) and missing:
        packages = " ".join("protobuf" if module == "google.protobuf" else module for module in missing)
        raise ModelError(
            f"the tokenizer of model '{model}' is a model of SentencePiece ({models[0]}), and a package to read it is "
            f"not installed: pip install {packages}; or save tokenizer.json beside it"
        )


def _settings(file: Path) -> dict[str, Any]:
    """Returns a json file's table; empty where there is none, or it is damaged: who loads it says so."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


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
    own = [name for file in IMAGE_PROCESSOR_FILES for name in own_classes(_settings(directory / file).get("auto_map"))]
    if own:
        raise ModelError(
            f"the image processor of model '{model}' needs code of its own ({own[0]}), and code from a checkpoint is "
            "never run; save one of a class that transformers has beside the weights"
        )
    try:
        return AutoImageProcessor.from_pretrained(
            str(directory), config=config, local_files_only=True, trust_remote_code=False, use_fast=False
        )
    # The errors for a damaged file differ between releases of transformers.
    except Exception as error:
        raise ModelError(f"the image processor of model '{model}' cannot be read: {first_line(error)}") from None
