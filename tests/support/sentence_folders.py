"""Folders of sentence encoders, made by sentence-transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support.models import layers as layers_of
from support.models import random_model

TEXTS = [
    "a gripping film",
    "Dull , SLOW and far too long",
    "one of the best things i have bought this year , and i have bought many things that were not good at all",
    "charming",
    "cold food and a rude waiter",
]


def sentence_folder(
    directory: Path,
    tokenizer: Any,
    pooling: dict[str, Any] | None = None,
    layers: tuple[str, ...] = ("Normalize",),
    *,
    family: str = "bert",
    longest: int = 16,
    prompts: dict[str, str] | None = None,
    default: str | None = None,
    settings: dict[str, Any] | None = None,
    **further: Any,
) -> Path:
    """Write a random encoder with what sentence-transformers keeps beside it.

    Args:
        directory: where to; its ``base`` keeps the bare encoder.
        tokenizer: of the encoder.
        pooling: arguments of the pooling.
        layers: kinds of modules after it.
        family: of the encoder.
        longest: tokens that texts are cut to.
        prompts: prompts by name.
        default: name of the default prompt.
        settings: more for sentence_bert_config.json.
        further: more for config_sentence_transformers.json.
    """
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules as kinds

    base = directory / "base"
    random_model(family, len(tokenizer), **layers_of(family, 1)).base_model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    generator = torch.Generator().manual_seed(1)
    transformer = kinds.Transformer(str(base), max_seq_length=longest)
    modules = [transformer, kinds.Pooling(24, **(pooling or {}))]
    width = modules[1].get_embedding_dimension()
    for kind in layers:
        if kind == "Normalize":
            modules.append(kinds.Normalize())
        elif kind == "LayerNorm":
            modules.append(kinds.LayerNorm(width))
        else:
            out, arguments = (width, {"use_residual": True}) if kind == "Residual" else (10, {})
            activation = torch.nn.GELU() if kind == "GELU" else torch.nn.Tanh()
            modules.append(kinds.Dense(width, out, kind != "NoBias", activation, **arguments))
            width = out
    for module in modules[2:]:
        for parameter in module.parameters():
            parameter.data.normal_(generator=generator)
    folder = directory / "encoder"
    made = st.SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name=default)
    made.save_pretrained(str(folder), create_model_card=False)
    _change(folder / "sentence_bert_config.json", {"max_seq_length": longest, **(settings or {})})
    _change(folder / "config_sentence_transformers.json", further)
    return folder


def _change(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def their_embeddings(folder: Path, texts: list[str] = TEXTS, **arguments: Any) -> Any:
    """What sentence-transformers gives for each text, [texts, dimension]."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False, **arguments)
