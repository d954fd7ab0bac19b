"""Writes the files of sentence-transformers, so that the next tool sees the encoder that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.tasks.pooling import POOLINGS, Dense, Layer, LayerNorm, Normalize
from compress.tasks.sentence_similarity import SentenceSimilarity

# Every release of sentence-transformers knows these names and keys.
_MODULE = "sentence_transformers.models."
_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_sentence_files(directory: Path, task: SentenceSimilarity, hidden: int, longest: int) -> None:
    """Writes modules.json, a folder per module, prompts and the length of texts.

    Args:
        directory: the artifact.
        task: pooling, layers and prompts; nothing is written if they are not all that the checkpoint's files ask for.
        hidden: size of the last hidden state.
        longest: tokens that texts are cut to.
    """
    notes = task.notes
    if not notes.complete:
        return
    layers: list[Layer] = [*task.layers, *([Normalize()] if task.normalize else [])]
    folders = [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        *((kind, f"{i}_{kind}") for i, kind in enumerate((type(layer).__name__ for layer in layers), 2)),
    ]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": _MODULE + kind} for i, (kind, path) in enumerate(folders)
    ]
    _write(directory / "modules.json", modules)
    _write(directory / "1_Pooling" / "config.json", _pooling(task, hidden))
    for layer, (_, path) in zip(layers, folders[2:], strict=True):
        _write_layer(directory / path, layer)
    _write(directory / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": notes.lower_case})
    settings = json.loads(notes.described)
    # The prompt that was measured with is the one that the next tool uses.
    _write(
        directory / "config_sentence_transformers.json",
        {**settings, "prompts": settings.get("prompts") or {}, "default_prompt_name": notes.prompt_name},
    )


def write_head(file: Path, head: Dense) -> None:
    """Writes the head of a SetFit model, ``weight`` [classes, dimension] and ``bias`` [classes].

    Args:
        file: to write.
        head: from embeddings to logits.
    """
    from safetensors.torch import save_file

    tensors = {"weight": head.weight, "bias": head.bias}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, str(file))


def _pooling(task: SentenceSimilarity, hidden: int) -> dict[str, Any]:
    modes = task.pooling.split("+")
    described: dict[str, Any] = {"word_embedding_dimension": hidden, "include_prompt": task.notes.include_prompt}
    if modes == [mode for mode in POOLINGS if mode in modes]:
        return {**described, **{key: mode in modes for mode, key in _KEYS.items()}}
    return {**described, "pooling_mode": modes}  # only newer releases know another order


def _write_layer(folder: Path, layer: Layer) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    if isinstance(layer, Normalize):
        return
    if isinstance(layer, LayerNorm):
        _write(folder / "config.json", {"dimension": len(layer.weight)})
        tensors = {"norm.weight": layer.weight, "norm.bias": layer.bias}
    else:
        _write(folder / "config.json", _dense(layer))
        named = {"linear.weight": layer.weight, "linear.bias": layer.bias, "residual.weight": layer.residual}
        tensors = {name: tensor for name, tensor in named.items() if tensor is not None}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(folder / "model.safetensors"))


def _dense(layer: Dense) -> dict[str, Any]:
    from torch import nn

    activation = getattr(nn, layer.activation)
    out, into = layer.weight.shape
    return {
        "in_features": into,
        "out_features": out,
        "bias": layer.bias is not None,
        "activation_function": f"{activation.__module__}.{layer.activation}",
        **({"use_residual": True} if layer.adds_input else {}),
    }


def _write(file: Path, document: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
