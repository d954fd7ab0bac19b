"""Finds a model's sizes, its layers, and the modules in them by role.

The roles of each family are in ``models/families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

from compress.core.errors import ModelError
from compress.core.plan import EncoderShape, Widths
from compress.models.families import FAMILIES as FAMILIES
from compress.models.families import INPUTS, SublayerKind
from compress.models.families import Architecture as Architecture
from compress.models.families import family_of as family_of
from compress.models.families import register as register
from compress.models.placement import device_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

# Names of inputs of the models.
MASK = "attention_mask"
IMAGES = "pixel_values"


def _get(root: nn.Module, path: str) -> nn.Module:
    return reduce(getattr, path.split("."), root)


def _has(root: nn.Module, path: str) -> bool:
    return reduce(lambda module, name: getattr(module, name, None), path.split("."), cast("Any", root)) is not None


@dataclass(frozen=True)
class EncoderLayer:
    """The prunable modules of one layer, resolved on a real model.

    Attributes:
        module: the layer.
        family: paths of the modules in it.
        prefix: the layer's path from the whole model, as in parameter names (``bert.encoder.layer.0``).
        number: number of the layer, from 0.
    """

    module: nn.Module
    family: Architecture
    prefix: str
    number: int

    def get(self, role: str) -> nn.Linear:
        """Returns the module in a role. Roles are the path fields of ``Architecture``, such as ``attention_output``."""
        return cast("nn.Linear", _get(self.module, getattr(self.family, role)))

    def inputs(self, kind: SublayerKind) -> dict[str, int]:
        """Returns the roles of the linear layers whose rows are a sublayer's units, each with its number of matrices.

        Roles that share a linear layer (one matrix after the other) are listed once, under the first of them.
        """
        paths: dict[str, list[str]] = {}
        for role in INPUTS[kind]:
            path = getattr(self.family, role)
            if path is not None:
                paths.setdefault(path, []).append(role)
        return {roles[0]: len(roles) for roles in paths.values()}

    def further_by_head(self) -> dict[str, nn.Linear]:
        """Returns the projections of ``Architecture.by_head`` that this layer has, by path from the whole model."""
        found = {}
        for path in self.family.by_head:
            *parents, leaf = path.split(".")
            module = getattr(_get(self.module, ".".join(parents)), leaf, None)
            if module is not None:
                found[f"{self.prefix}.{path}"] = cast("nn.Linear", module)
        return found

    def name(self, role: str) -> str:
        """Returns the path of a role's module from the whole model."""
        return f"{self.prefix}.{getattr(self.family, role)}"

    def exported_name(self, role: str) -> str:
        """Returns the name of a role's linear layer in exported graphs, which split a shared matrix by role."""
        if role in self.inputs("attention") and self.inputs("attention")[role] == 1:
            return self.name(role)
        return f"{self.name('attention')}.{role}" if role in INPUTS["attention"] else self.name(role)

    def on_sum(self, kind: SublayerKind, act: Callable[[Tensor], None]) -> RemovableHandle:
        """Calls a function on a sublayer's output plus residual in every forward pass.

        Args:
            kind: the sublayer, ``attention`` or ``ffn``.
            act: receives [batch, sequence, hidden].

        Returns:
            A handle whose ``remove`` ends the calls.
        """
        path = getattr(self.family, f"{kind}_sum")
        if path is not None:
            return _get(self.module, path).register_forward_pre_hook(lambda _, arguments: act(arguments[0]))
        return self.module.register_forward_hook(
            lambda _, __, output: act(output[0] if isinstance(output, tuple) else output)
        )

    def set(self, role: str, module: nn.Module) -> None:
        """Replaces the module in a role.

        Args:
            role: a path field of ``Architecture``.
            module: the new module.
        """
        *parents, leaf = getattr(self.family, role).split(".")
        setattr(_get(self.module, ".".join(parents)) if parents else self.module, leaf, module)


@dataclass(frozen=True)
class Encoder:
    """A model with its sizes and prunable modules.

    Attributes:
        model: the whole model, task head included.
        family: the entry that describes its layers.
        shape: dense sizes.
        layers: the layers, in order.
    """

    model: nn.Module
    family: Architecture
    shape: EncoderShape
    layers: tuple[EncoderLayer, ...]

    def __iter__(self) -> Iterator[EncoderLayer]:
        return iter(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie, and so where it computes."""
        return device_of(self.model)


def shape_of(config: Any) -> EncoderShape:
    """Returns the dense sizes in a transformers configuration.

    Raises:
        ModelError: the family is not supported, or the configuration asks for a decoder, for position embeddings
            inside attention, or for convolutions.
    """
    family = family_of(config.model_type)
    if getattr(config, "is_decoder", False):
        raise ModelError(f"this {config.model_type} checkpoint is configured as a decoder; only encoders are supported")
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise ModelError(
            f"this {config.model_type} checkpoint has '{positions}' position embeddings inside its attention; only "
            "absolute ones are supported"
        )
    if getattr(config, "conv_kernel_size", 0):
        raise ModelError(
            f"this {config.model_type} checkpoint has a convolution between its layers (conv_kernel_size "
            f"{config.conv_kernel_size}); only plain stacks of layers are supported"
        )
    # Configuration classes map these common names in every family; only the FFN of DistilBERT has another name.
    filters = getattr(config, "intermediate_size", None) or config.hidden_dim
    return EncoderShape(
        model_type=family.model_type,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        head_size=config.hidden_size // config.num_attention_heads,
        filters=filters,
        gated=family.ffn_gate is not None,
    )


@dataclass(frozen=True)
class ImageInput:
    """Size of the images that a model reads.

    Attributes:
        channels: channels of an image.
        height: pixels.
        width: pixels.
        positions: positions of the encoder's input: patches and the special tokens before them.
    """

    channels: int
    height: int
    width: int
    positions: int


def image_input(config: Any) -> ImageInput | None:
    """Returns the size of a model's images from its configuration; None for models of texts."""
    before = family_of(config.model_type).before_patches
    if before is None:
        return None

    def sides(value: Any) -> tuple[int, int]:
        return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))

    (height, width), (tall, wide) = sides(config.image_size), sides(config.patch_size)
    return ImageInput(int(config.num_channels), height, width, before + (height // tall) * (width // wide))


def longest_input(config: Any) -> int | None:
    """Returns the most tokens that a model can read, special ones included; None if its configuration has no limit."""
    image = image_input(config)
    if image is not None:
        return image.positions
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    first = family_of(config.model_type).first_position
    return int(positions) - (0 if first is None else int(config.pad_token_id) + first)


def encoder_of(model: nn.Module) -> Encoder:
    """Finds the family, dense sizes and prunable modules of a transformers model.

    Args:
        model: a transformers model with ``config`` and ``base_model``, pruned or not; sizes are those of the dense one.

    Raises:
        ModelError: the family is not supported.
    """
    shape = shape_of(model.config)
    family = family_of(shape.model_type)
    base = cast("nn.Module", model.base_model)
    if family.earlier is not None and not _has(base, family.layers):
        family = family.earlier
    prefix = family.layers if base is model else f"{model.base_model_prefix}.{family.layers}"
    modules = cast("Any", _get(base, family.layers))
    layers = tuple(EncoderLayer(module, family, f"{prefix}.{i}", i) for i, module in enumerate(modules))
    return Encoder(model=model, family=family, shape=replace(shape, layers=len(layers)), layers=layers)


def widths_of(model: nn.Module) -> Widths:
    """Returns the heads and filters that each layer of a model has now; 0 for a removed sublayer."""
    encoder = encoder_of(model)

    def columns(layer: EncoderLayer, role: str) -> int:
        # A removed sublayer's output projection is a BiasOnly, which has no weight.
        weight = getattr(layer.get(role), "weight", None)
        return 0 if weight is None else int(weight.shape[1])

    return Widths(
        heads=tuple(columns(layer, "attention_output") // encoder.shape.head_size for layer in encoder),
        filters=tuple(columns(layer, "ffn_output") for layer in encoder),
    )
