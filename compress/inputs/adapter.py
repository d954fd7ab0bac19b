"""LoRA adapters of peft: merged into the weights of their base, as peft merges them.

W + alpha / r * B A, or alpha / sqrt(r) with ``use_rslora``. Source: Hu et al. 2021, "LoRA", section 4.1; Kalajdzievski
2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA". The answer is the same with and without peft,
which is not used; ``tests/consumers`` compares with it. Whatever is more than that is refused, with peft's own command.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ModelError
from compress.data.text_files import first_line
from compress.inputs.folder import ADAPTER_CONFIG, CLASSES, not_merged, read_settings

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<path>.+)\.lora_(?P<matrix>[AB])\.weight")
# Settings that change nothing of W + scale * B A, or that are read here. Any other has to be absent, false or empty:
# peft gets new kinds of LoRA with every release.
_KNOWN = {
    *("auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "exclude_modules", "inference_mode"),
    *("init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core"),
    *("modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision"),
    *("target_modules", "task_type", "use_rslora"),
}


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that can be merged.

    Attributes:
        folder: its files.
        base: path or hub name of its base model; None where the base lies in the same folder.
        settings: adapter_config.json.
    """

    folder: Path
    base: str | None
    settings: Mapping[str, Any]


def find_adapter(directory: Path) -> Adapter | None:
    """Finds a plain LoRA adapter.

    Args:
        directory: the model folder.

    Returns:
        The adapter; None where the folder has none, or one of a kind that ``refuse_adapter`` refuses.
    """
    if not (directory / ADAPTER_CONFIG).is_file() or not (directory / ADAPTER_WEIGHTS).is_file():
        return None
    settings = read_settings(directory / ADAPTER_CONFIG)
    plain = settings.get("peft_type") == "LORA" and not any(settings[name] for name in settings.keys() - _KNOWN)
    # Other ways to begin change the base's weights as well.
    # Biases are trained as well; peft stores them under names of its wrappers.
    plain = plain and settings.get("bias", "none") == "none"
    if not plain or settings.get("init_lora_weights", True) not in (True, False, "gaussian"):
        return None
    if (directory / "modules.json").is_file():
        return None
    if (directory / "config.json").is_file():
        return Adapter(directory, None, settings)
    base = settings.get("base_model_name_or_path")
    return Adapter(directory, str(base), settings) if base else None


def say_head(adapter: Adapter, config: Any) -> None:
    """Writes the class that an adapter was trained with into its base's configuration, which may name another.

    Args:
        adapter: from ``find_adapter``.
        config: of the base, changed in place.
    """
    import transformers

    auto = CLASSES.get(str(adapter.settings.get("task_type")))
    kind = None if auto is None else getattr(transformers, auto)._model_mapping.get(type(config), None)
    if kind is not None:
        config.architectures = [kind.__name__]


def merge(weights: dict[str, Tensor], adapter: Adapter, model: str) -> dict[str, Tensor]:
    """Merges an adapter into weights.

    Args:
        weights: of the base, by name.
        adapter: from ``find_adapter``.
        model: the name that the user gave it, for messages.

    Returns:
        The weights of the model with the adapter; those that it changes are float32.

    Raises:
        ModelError: the adapter is damaged, has more than the matrices of a LoRA, or does not fit the base.
    """
    matrices, others = _parts(adapter, model)
    merged = _with_prefix(weights, matrices, others)
    for path, (down, up) in matrices.items():
        name = f"{path}.weight"
        base = merged.get(name)
        if base is None or up.shape[0] != base.shape[0] or down.shape[1] != base.shape[-1]:
            state = "is not there" if base is None else f"has the shape {tuple(base.shape)}"
            raise ModelError(
                f"the adapter '{model}' does not fit its base '{adapter.base or model}': it changes '{name}', which "
                f"{state}; give it the base that it was trained on (base_model_name_or_path in {ADAPTER_CONFIG})"
            )
        merged[name] = base.float() + _scale(adapter.settings, down.shape[0]) * (up.float() @ down.float())
    return {**merged, **others}


def _scale(settings: Mapping[str, Any], rank: int) -> float:
    alpha = float(settings.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _parts(adapter: Adapter, model: str) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Returns the pairs of matrices by the path of their layer, and weights that take the place of the base's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = adapter.folder / ADAPTER_WEIGHTS
    try:
        found = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights '{file}' are damaged or cut off: {first_line(error)}; copy them again") from None
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in found.items():
        own = name.removeprefix(_PREFIX)
        part = _PART.fullmatch(own)
        if part is not None and tensor.ndim == 2:
            halves.setdefault(part["path"], {})[part["matrix"]] = tensor
        elif own == name or "lora_" in own:
            raise ModelError(not_merged(adapter.folder, model, f"'{name}' of {ADAPTER_WEIGHTS}"))
        else:
            others[own] = tensor
    for path, half in halves.items():
        if set(half) != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            raise ModelError(
                f"weights '{file}' are incomplete: '{path}' has no pair of matrices that fit; copy them again"
            )
    return {path: (half["A"], half["B"]) for path, half in halves.items()}, others


def _with_prefix(
    weights: dict[str, Tensor], matrices: Mapping[str, Any], others: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns weights under the names of a model with a head, where only the adapter has one (``bert.encoder...``)."""
    path = next(iter(matrices), None)
    if path is None or f"{path}.weight" in weights:
        return dict(weights)
    prefix, _, rest = path.partition(".")
    if f"{rest}.weight" not in weights:
        return dict(weights)
    return {f"{prefix}.{name}": tensor for name, tensor in weights.items() if f"{prefix}.{name}" not in others}
