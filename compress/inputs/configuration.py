"""Reads config.json: what describes the weights is kept, what only steers how a model is run is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.inputs.quiet import quiet
from compress.models.encoder import family_of, shape_of
from compress.models.families import FAMILIES
from compress.tasks import TASKS

# Keys that change outputs, tracing or where weights come from, and nothing of what a model computes. The library's own
# values take their place, in the loaded model as in the artifact.
STEERING = frozenset(
    (
        # What a call returns. transformers refuses to save a configuration with some of them.
        *("output_attentions", "_output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
        # How it is computed. A chunked FFN is exported with one fixed length.
        *("chunk_size_feed_forward", "torchscript", "use_cache", "gradient_checkpointing", "reference_compile"),
        *("use_bfloat16", "deterministic_flash_attn", "use_kernels"),
        # Which implementation of attention: some need packages of their own.
        *(
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_internal",
            "attn_implementation_internal",
        ),
        *("_attn_implementation_autoset", "experts_implementation", "_experts_implementation"),
        # The type of numbers in the file, and where it lay. Everything is loaded as float32.
        *("torch_dtype", "dtype", "_name_or_path", "name_or_path", "_commit_hash"),
        # Files that transformers would read instead of config.json and model.safetensors.
        *("transformers_weights", "configuration_files"),
        # Plans for several devices.
        *("base_model_tp_plan", "base_model_pp_plan", "base_model_fsdp_plan", "distributed_config"),
        *("quantization_config", "compression_config", "auto_map", "pruned_heads"),
    )
)
# Keys that must be off: a model with one of them computes something else than an encoder.
_DECODING = ("add_cross_attention", "is_encoder_decoder", "tie_encoder_decoder")


def read_config(directory: Path, model: str) -> Any:
    """Returns the configuration of a checkpoint, without the keys of ``STEERING``.

    Args:
        directory: the model folder, with a config.json.
        model: the name that the user gave it, for messages.

    Raises:
        ModelError: it cannot be read, its family is not supported, or it asks for something that is not: code of the
            checkpoint's own, quantized weights, a decoder, heads removed in an earlier way.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    file = directory / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' cannot be read as a configuration: {first_line(error)}") from None
    if not isinstance(raw, dict):
        raise ModelError(f"'{file}' cannot be read as a configuration: it is not a JSON object; save the model again")
    family = raw.get("model_type")
    if family is None:
        # transformers wrote none before 2020.
        raise ModelError(
            f'\'{file}\' does not say the family of the model: add it, such as "model_type": "bert"; supported are '
            f"{', '.join(FAMILIES)}"
        )
    # Checked before transformers, which knows far more families and may run a checkpoint's own code for others.
    family_of(str(family))
    _refuse_foreign(raw, model)
    if family in CONFIG_MAPPING and CONFIG_MAPPING[family].__module__.startswith("transformers."):
        _refuse_own_code(raw, model)
    kept = {key: value for key, value in raw.items() if key not in STEERING}
    _check_types(kept, file)
    try:
        with quiet():
            if family not in CONFIG_MAPPING:
                # A family that is registered here only: let transformers say what it lacks.
                AutoConfig.for_model(str(family))
            config = CONFIG_MAPPING[family].from_dict(kept)
        shape_of(config)
    except ModelError:
        raise
    # The errors for a wrong value differ between releases of transformers and have no common base class.
    except Exception as error:
        raise ModelError(f"'{file}' is not a valid {family} configuration: {one_line(error)}") from None
    return config


def _check_types(raw: dict[str, Any], file: Path) -> None:
    """Raises ModelError for values of another kind than save_pretrained writes; a lone architecture becomes a list."""
    from transformers.activations import ACT2FN

    if isinstance(raw.get("architectures"), str):
        raw["architectures"] = [raw["architectures"]]
    for key in ("id2label", "label2id"):
        if raw.get(key) is not None and not isinstance(raw[key], dict):
            raise ModelError(
                f"'{file}': {key} is a {type(raw[key]).__name__}, not an object; write "
                + ('{"0": ..., "1": ...}, in the order of the outputs' if key == "id2label" else "names with numbers")
            )
    names, outputs = raw.get("id2label"), raw.get("num_labels")
    if names and isinstance(outputs, int) and outputs != len(names):
        # transformers would drop the names without a word.
        raise ModelError(
            f"'{file}': num_labels is {outputs}, and id2label has {len(names)} classes; remove num_labels, or correct "
            "id2label"
        )
    for key in ("hidden_act", "activation", "hidden_activation"):
        if isinstance(raw.get(key), str) and raw[key] not in ACT2FN:
            raise ModelError(f"'{file}': transformers has no activation function {raw[key]!r} ({key}); correct it")


def _refuse_foreign(raw: dict[str, Any], model: str) -> None:
    """Raises ModelError for a configuration of something else than a plain encoder of transformers."""
    if raw.get("quantization_config") or raw.get("compression_config"):
        raise ModelError(f"model '{model}' is quantized already; give the checkpoint it was quantized from")
    for key in _DECODING:
        if raw.get(key):
            raise ModelError(
                f"model '{model}' is configured for decoding ({key} in config.json); only encoders are supported"
            )
    pruned = raw.get("pruned_heads")
    if isinstance(pruned, dict) and any(pruned.values()):
        raise ModelError(
            f"model '{model}' has had heads removed (pruned_heads in config.json); give the checkpoint as it was before"
        )


def _refuse_own_code(raw: dict[str, Any], model: str) -> None:
    """Raises ModelError if a configuration of a family of transformers names classes that transformers lacks."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    own = own_classes(raw.get("auto_map"))
    heads = raw.get("architectures")
    if not own and isinstance(heads, list):
        own = [
            str(head)
            for head in heads
            if own_classes({"": head}) and registered_class(str(head), CONFIG_MAPPING[raw["model_type"]]) is None
        ]
    if own:
        raise ModelError(
            f"model '{model}' needs code of its own ({own[0]}), and code from a checkpoint is never run; give a "
            "checkpoint of a class that transformers has, or register the class (docs/families.md)"
        )


def registered_class(name: str, config_class: type) -> Any:
    """Returns a model class that was registered with transformers for a class of configurations; None if there is none.

    Args:
        name: of the model class.
        config_class: of its configuration.
    """
    import transformers

    for auto_class in sorted({task.auto_class_name for task in TASKS.values()}):
        known = getattr(transformers, auto_class)._model_mapping.get(config_class, None)
        for kind in known if isinstance(known, tuple) else (known,):
            if kind is not None and kind.__name__ == name:
                return kind
    return None


def own_classes(auto_map: Any) -> list[str]:
    """Returns the classes in an ``auto_map`` that transformers lacks, as they stand there (``file.Class``)."""
    import transformers

    if not isinstance(auto_map, dict):
        return []
    names = [name for value in auto_map.values() for name in (value if isinstance(value, list) else [value])]
    return [str(name) for name in names if name and not hasattr(transformers, str(name).rsplit(".", 1)[-1])]


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line: some give the reason only after their first."""
    return " ".join(str(error).split())[:300] or type(error).__name__
