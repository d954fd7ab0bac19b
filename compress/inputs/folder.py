"""Looks at a model folder before anything in it is loaded, and refuses what would be loaded as something else.

Only names and small json files are read here. So the answer does not depend on which optional packages are installed:
transformers, for instance, reads an adapter beside the weights if peft is there, and passes over it if not.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from compress.core.errors import ModelError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_adapter.bin")
# The classes of transformers for the task types of peft.
CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
# Kinds of peft that add tokens or activations: there is no matrix to add them to.
_NOT_MERGEABLE = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
_SAVE = ".save_pretrained('CONVERTED')"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Pickles that a Trainer writes beside the weights.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


def refuse_adapter(directory: Path, model: str) -> None:
    """Raises ModelError if an adapter lies in a model folder: its weights are not those of the model.

    The answer is the same with and without peft, and with or without base weights beside the adapter.

    Args:
        directory: the model folder. Folders of modules in it (``0_Transformer``) are looked at too.
        model: the name that the user gave it, for messages.
    """
    for folder in (directory, *sorted(directory.glob("[0-9]_*"))):
        notes = folder / ADAPTER_CONFIG
        weights = [name for name in _ADAPTER_WEIGHTS if (folder / name).is_file()]
        if notes.is_file() or weights:
            found = notes.relative_to(directory).as_posix() if notes.is_file() else weights[0]
            raise ModelError(not_merged(folder, model, found))


def not_merged(folder: Path, model: str, found: str) -> str:
    """Returns the message about an adapter that is not merged: what was found, and how to merge it.

    Args:
        folder: of the adapter.
        model: the name that the user gave the model folder.
        found: what shows that there is an adapter.
    """
    return f"model '{model}' has an adapter that is not merged ({found}): {_merging(folder, model)}"


def _merging(folder: Path, model: str) -> str:
    """Returns how to merge an adapter into its base model."""
    settings = read_settings(folder / ADAPTER_CONFIG)
    kind = str(settings.get("peft_type") or "")
    if kind in _NOT_MERGEABLE:
        return f"{kind} cannot be merged into the weights; fine-tune the model itself, or train a LoRA and merge it"
    if settings and not kind:
        return (
            "it is not one of peft, so it cannot be named how to merge it; merge it with the library that made it (the "
            "adapters library: model.merge_adapter), save the model with save_pretrained, and give that folder"
        )
    base, adapter, first = str(settings.get("base_model_name_or_path") or "BASE"), model, ""
    if (folder / "config.json").is_file():
        base, adapter = model, "ADAPTER"
        first = f"move {ADAPTER_CONFIG} and adapter_model.* to a folder of their own, ADAPTER, then "
    kind_of_model = CLASSES.get(str(settings.get("task_type")), "AutoModel")
    merge = (
        f"from peft import PeftModel; from transformers import {kind_of_model} as M; "
        f"PeftModel.from_pretrained(M.from_pretrained('{base}'), '{adapter}').merge_and_unload()"
        ".save_pretrained('MERGED')"
    )
    return f'{first}merge it (python -c "{merge}"), copy the tokenizer\'s files to MERGED, and give that folder'


def read_settings(file: Path) -> dict[str, Any]:
    """Returns a json file's table; empty where there is none, or it is damaged: who loads it says so.

    Args:
        file: config.json or adapter_config.json.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def refuse_without_config(directory: Path, model: str) -> None:
    """Raises ModelError if a model folder has no config.json; the message says what the folder has instead.

    Args:
        directory: the model folder.
        model: the name that the user gave it, for messages.
    """
    if not (directory / "config.json").is_file():
        instead = _instead(directory, model) or "give a checkpoint saved with save_pretrained"
        raise ModelError(f"model '{model}' has no config.json; {instead}")


def weight_files(directory: Path, model: str) -> list[Path]:
    """Returns the safetensors files that hold a model's weights.

    Args:
        directory: the model folder.
        model: the name that the user gave it, for messages.

    Raises:
        ModelError: there are none; the message says how to convert what is there instead.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / WEIGHTS_INDEX
    if not index.is_file():
        instead = _instead(directory, model) or "give a checkpoint saved with save_pretrained"
        raise ModelError(f"model '{model}' has no {WEIGHTS}: {instead}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        # A name with a folder in it could lead anywhere.
        return [directory / Path(str(name)).name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"'{index}' is not a list of weight files: {error!r}; save the checkpoint again") from None


def _instead(directory: Path, model: str) -> str | None:
    """Returns what a folder has instead of a checkpoint, and what to do with it; None if it has nothing known."""

    def named(*patterns: str) -> list[str]:
        return sorted(path.name for pattern in patterns for path in directory.glob(pattern) if path.is_file())

    load = _loading(directory)
    if pickled := [name for name in named(*_PICKLES) if not name.startswith(_NOT_WEIGHTS)]:
        return (
            f"it has {_listed(pickled)}, which can run code when read; {_unpickling(directory, pickled, load, model)}"
        )
    if gguf := named("*.gguf"):
        return (
            f"it has {_listed(gguf)}, which is quantized; give the checkpoint it was made from, or convert it (with "
            f"the package gguf): {load}.from_pretrained('{model}', gguf_file='{gguf[0]}'){_SAVE}\""
        )
    for pattern, package, option in (("*.msgpack", "flax", "from_flax"), ("*.h5", "tensorflow", "from_tf")):
        if other := named(pattern):
            return (
                f"it has {_listed(other)}; convert it with 'transformers<5' and {package}: "
                f"{load}.from_pretrained('{model}', {option}=True){_SAVE}\""
            )
    if exported := named("*.onnx", "*.xml", "*.engine", "*.tflite"):
        return f"it has {_listed(exported)}, which is an exported model; give the checkpoint that it was exported from"
    if other := [name for name in named("*.safetensors") if not re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]:
        return f"it has {_listed(other)}; rename the file with the model's weights to {WEIGHTS}"
    below = sorted(path.parent for path in directory.glob("*/config.json"))
    if below:
        return f"give one of the folders in it: {_listed([path.name for path in below])}"
    if adapters := sorted(path.parent for path in directory.glob(f"*/{ADAPTER_CONFIG}")):
        # Beside one another, as peft saves several adapters.
        names = _listed([path.name for path in adapters])
        return f"it has adapters in {names}: {_merging(adapters[0], str(Path(model) / adapters[0].name))}"
    return None


def _loading(directory: Path) -> str:
    """Returns the start of a command that loads a checkpoint with the class that its config.json names."""
    head = next(iter(read_settings(directory / "config.json").get("architectures") or ()), None)
    kind = head if isinstance(head, str) and head.isidentifier() else "AutoModel"
    return f'python -c "from transformers import {kind} as M; M'


def refuse_pickle(file: Path, model: str) -> None:
    """Raises ModelError if a pickle names anything but tensors: it would be a program.

    Args:
        file: the pickle. It is looked at, not executed.
        model: the name that the user gave the model folder, for messages.
    """
    if unsafe := _programs(file):
        raise ModelError(f"model '{model}' has no {WEIGHTS}: {_no_weights(file.name, unsafe)}")


def _programs(file: Path) -> list[str]:
    """Returns what a pickle would run; empty where nothing can be said: of an old format, or not a file of torch."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    with suppress(Exception):
        return sorted(get_unsafe_globals_in_checkpoint(str(file)))
    return []


def _no_weights(name: str, programs: list[str]) -> str:
    return (
        f"{name} is not a list of weights but a pickle of {_listed(programs)}: in the program that made it, save the "
        "model with save_pretrained"
    )


def _unpickling(directory: Path, names: list[str], load: str, model: str) -> str:
    """Returns how to convert pickled weights. They are looked at, not executed: a pickle may hold any program."""
    for name in names:
        if programs := _programs(directory / name):
            return _no_weights(name, programs)
    if any(re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", name) for name in names):
        return f"convert it with save_pretrained: {load}.from_pretrained('{model}'){_SAVE}\""
    return "save the model with save_pretrained in the program that made it"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
