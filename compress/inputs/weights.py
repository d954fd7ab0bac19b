"""Checks the weights of a checkpoint: whole files, numbers that are not quantized, names that the model has."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.models.encoder import family_of

# Types of numbers that are weights as they are. Others are whole numbers, or need scales of their own.
_FLOATS = ("F64", "F32", "F16", "BF16")
# Parts of names by which libraries for quantization store a matrix.
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|quant_state\..*|nested_absmax|weight_scale(_inv)?|weight_packed|"
    r"weight_zero_point|_packed_params.*|_data|_scale)$"
)
# Parts of names that peft and the adapters library give to what they add.
_ADAPTER = re.compile(
    r"(^base_model\.model\.|\.lora_[A-Za-z_]+(\.|$)|\.base_layer\.|\.modules_to_save\.|\.ia3_l|\.adapters\.)"
)
# A weight in two parts: a mask, a norm and a direction, or any other parametrisation of torch.
_PARAMETRISED = re.compile(r"\.(weight|bias)_(orig|mask|g|v|u)$|\.parametrizations\.")
# What wrappers put into the names of weights, each with what to save instead of the wrapper.
_WRAPPERS = {
    "module": "DataParallel wraps the model: save model.module",
    "_orig_mod": "torch.compile wraps the model: save model._orig_mod",
    "_fsdp_wrapped_module": "FSDP wraps the model: save its full state dict",
    "_checkpoint_wrapped_module": "checkpointing wraps the layers: save the model without it",
    "model": "another module holds the model: save its attribute model",
    "auto_model": "sentence-transformers holds the model: save its attribute auto_model",
}
# The encoder's last pooling, and other heads, may be left out of a model.
_POOLER = "pooler."


def check_files(files: Iterable[Path], model: str) -> None:
    """Checks that weight files are whole and hold the weights of a model, by their headers.

    Args:
        files: safetensors files.
        model: the name that the user gave the model, for messages.

    Raises:
        ModelError: a file is damaged; or its weights are quantized, or those of an adapter.
    """
    types: dict[str, str] = {}
    for file in files:
        types.update(_types(file))
    for name, kind in types.items():
        if _ADAPTER.search(name):
            raise ModelError(
                f"model '{model}' has weights of an adapter that is not merged ('{name}'); in the program that made "
                "it, save model.merge_and_unload() with save_pretrained, and give that folder"
            )
        if _QUANTIZED.search(name) or (name.endswith(".weight") and kind not in _FLOATS):
            raise ModelError(
                f"model '{model}' is quantized already ('{name}' is {kind}); give the checkpoint it was quantized from"
            )


def _types(file: Path) -> dict[str, str]:
    """Returns the type of numbers of each tensor in a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as stream:
            start = stream.read(40)
        if start.startswith(b"version https://git-lfs"):
            raise ModelError(f"'{file}' is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
        with safe_open(str(file), framework="numpy") as opened:
            return {name: str(opened.get_slice(name).get_dtype()) for name in opened.keys()}  # noqa: SIM118
    except OSError as error:
        raise ModelError(f"weights '{file}' cannot be read: {first_line(error)}") from None
    except SafetensorError as error:
        raise ModelError(f"weights '{file}' are damaged or cut off: {first_line(error)}; copy them again") from None


def fingerprint(files: list[Path]) -> str:
    """Returns the SHA-256 of a weights file, in hex; of several files that of a list of their names and hashes."""
    hashes = []
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
        hashes.append(digest.hexdigest())
    if len(files) == 1:
        return hashes[0]
    lines = "".join(f"{one}  {file.name}\n" for one, file in zip(hashes, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_finite(network: Any, model: str) -> None:
    """Raises ModelError if a weight of a model is NaN or infinite.

    Args:
        network: the loaded model.
        model: the name that the user gave it, for messages.
    """
    import torch

    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"model '{model}' has {bad} weights that are NaN or infinite in '{name}'; use a sound checkpoint"
            )


def check_names(
    network: Any, report: Mapping[str, Any], model: str, task: str, unread: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Checks that a checkpoint has every weight of the model, and no weight of an encoder that the model lacks.

    Args:
        network: the loaded model; ``unread`` weights that were missing become zero.
        report: of ``from_pretrained(..., output_loading_info=True)``.
        model: the name that the user gave it, for messages.
        task: name of the task, for messages.
        unread: prefixes of weights that the task does not use.

    Returns:
        Weights of the checkpoint that are not part of the model, such as another head.

    Raises:
        ModelError: weights are missing, so that transformers initialised them at random, have other sizes than
            config.json says, or fit nowhere in the encoder.
    """
    mismatched = _keys(report, "mismatched_keys")
    if mismatched:
        raise ModelError(
            f"model '{model}': the weights {_first_few(mismatched)} do not have the sizes that config.json says; "
            "correct config.json (vocab_size, max_position_embeddings, hidden_size and the like), or save the model "
            "again with save_pretrained"
        )
    spare, missing = _keys(report, "unexpected_keys"), []
    for key in _keys(report, "missing_keys"):
        if key.startswith(unread):
            # transformers initialised it at random: zeros are the same in every run.
            network.get_parameter(key).data.zero_()
        else:
            missing.append(key)
    made = next((name for name in spare if _PARAMETRISED.search(name)), None)
    if missing and made is not None:
        raise ModelError(
            f"model '{model}' has weights that are computed from others ('{made}'), as torch.nn.utils.prune and "
            "parametrize leave them; in the program that made it, call prune.remove or "
            "parametrize.remove_parametrizations for each, and save the model again"
        )
    if missing and (renamed := _renamed(network, spare)):
        raise ModelError(f"model '{model}' has weights under other names: {renamed}")
    other = f" (it has {_first_few(spare)}, which fits nowhere)" if spare else ""
    head = [key for key in missing if not key.startswith(f"{network.base_model_prefix}.")]
    if head:
        raise ModelError(
            f"model '{model}' has no trained head for {task}: {_first_few(head)} missing in its weights{other}; "
            "fine-tune it on the task first"
        )
    if missing:
        raise ModelError(f"model '{model}' is incomplete: {_first_few(missing)} missing in its weights{other}")
    layers = family_of(network.config.model_type).layers
    inside = [key for key in spare if f"{layers}." in key and key.endswith((".weight", ".bias"))]
    if inside:
        raise ModelError(
            f"model '{model}' has weights that fit nowhere in its {network.config.num_hidden_layers} layers: "
            f"{_first_few(inside)}; its config.json does not describe these weights: save the model again with "
            "save_pretrained"
        )
    return tuple(key for key in spare if _POOLER not in key)


def _renamed(network: Any, spare: list[str]) -> str:
    """Returns what names look like that fit nowhere as they are but fit without a part; empty if they do not."""
    known = set(network.state_dict())
    known |= {name.removeprefix(f"{network.base_model_prefix}.") for name in known}
    parts: Counter[str] = Counter()
    example: dict[str, tuple[str, str]] = {}
    for key in spare:
        words = key.split(".")
        for start, stop in ((i, j) for i in range(len(words)) for j in range(i + 1, len(words))):
            part, rest = ".".join(words[start:stop]), ".".join(words[:start] + words[stop:])
            if rest in known and (start == 0 or part in _WRAPPERS):
                parts[part] += 1
                example.setdefault(part, (key, rest))
    if not parts:
        return ""
    part = parts.most_common(1)[0][0]
    key, rest = example[part]
    why = _WRAPPERS.get(part, f"take '{part}.' off their names")
    return f"'{key}' where '{rest}' belongs, and {len(spare) - 1} more; {why} with save_pretrained"


def _keys(report: Mapping[str, Any], kind: str) -> list[str]:
    return sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(kind, ()))


def _first_few(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(f"'{key}'" for key in keys[:3]) + more
