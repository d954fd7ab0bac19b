"""A model seen through its family's entry: its sizes, its layers, and the modules in them by role.

The entries are in ``models/families.py``.
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

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

# Inputs that models have by these names.
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
        family: where things are in it.
        prefix: the layer's path from the whole model, as parameter names have it (``bert.encoder.layer.0``).
        number: of the layer, from 0.
    """

    module: nn.Module
    family: Architecture
    prefix: str
    number: int

    def get(self, role: str) -> nn.Linear:
        """The module in a role, a path field of ``Architecture``: ``query``, ``attention_output``, ``ffn_sum``, ..."""
        return cast("nn.Linear", _get(self.module, getattr(self.family, role)))

    def inputs(self, kind: SublayerKind) -> dict[str, int]:
        """Roles of the linear layers that make a sublayer's units, and how many matrices each has one after the other.

        Of roles that share a linear layer the first stands for all.
        """
        paths: dict[str, list[str]] = {}
        for role in INPUTS[kind]:
            path = getattr(self.family, role)
            if path is not None:
                paths.setdefault(path, []).append(role)
        return {roles[0]: len(roles) for roles in paths.values()}

    def further_by_head(self) -> dict[str, nn.Linear]:
        """The projections of ``Architecture.by_head`` that this layer has, by their path from the whole model."""
        found = {}
        for path in self.family.by_head:
            *parents, leaf = path.split(".")
            module = getattr(_get(self.module, ".".join(parents)), leaf, None)
            if module is not None:
                found[f"{self.prefix}.{path}"] = cast("nn.Linear", module)
        return found

    def name(self, role: str) -> str:
        """Path of a role's module from the whole model."""
        return f"{self.prefix}.{getattr(self.family, role)}"

    def exported_name(self, role: str) -> str:
        """Name of a role's linear layer in exported graphs, where projections that share a matrix come apart."""
        if role in self.inputs("attention") and self.inputs("attention")[role] == 1:
            return self.name(role)
        return f"{self.name('attention')}.{role}" if role in INPUTS["attention"] else self.name(role)

    def on_sum(self, kind: SublayerKind, act: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``act`` on a sublayer's output plus residual [batch, sequence, hidden] in every forward pass.

        Returns:
            What ends it.
        """
        path = getattr(self.family, f"{kind}_sum")
        if path is not None:
            return _get(self.module, path).register_forward_pre_hook(lambda _, arguments: act(arguments[0]))
        return self.module.register_forward_hook(
            lambda _, __, output: act(output[0] if isinstance(output, tuple) else output)
        )

    def set(self, role: str, module: nn.Module) -> None:
        """Put another module in a role's place."""
        *parents, leaf = getattr(self.family, role).split(".")
        setattr(_get(self.module, ".".join(parents)) if parents else self.module, leaf, module)


@dataclass(frozen=True)
class Encoder:
    """A model seen through its family's entry.

    Attributes:
        model: the whole model, task head included.
        family: the entry that describes it.
        shape: dense sizes.
        layers: the prunable modules, in order.
    """

    model: nn.Module
    family: Architecture
    shape: EncoderShape
    layers: tuple[EncoderLayer, ...]

    def __iter__(self) -> Iterator[EncoderLayer]:
        return iter(self.layers)


def shape_of(config: Any) -> EncoderShape:
    """Dense sizes of a transformers configuration.

    Raises:
        ModelError: unsupported family, or a BERT configured as decoder.
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
    # attribute_map of the configuration classes gives every family these common names, but for the FFN of DistilBERT.
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
    """What a model of images reads.

    Attributes:
        channels, height, width: of an image.
        positions: of the encoder's input: patches, and what comes before them.
    """

    channels: int
    height: int
    width: int
    positions: int


def image_input(config: Any) -> ImageInput | None:
    """What a model of images reads, from its configuration; None for models of texts."""
    before = family_of(config.model_type).before_patches
    if before is None:
        return None

    def sides(value: Any) -> tuple[int, int]:
        return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))

    (height, width), (tall, wide) = sides(config.image_size), sides(config.patch_size)
    return ImageInput(int(config.num_channels), height, width, before + (height // tall) * (width // wide))


def longest_input(config: Any) -> int | None:
    """Tokens that a model reads at most, special ones included; None where its configuration does not say."""
    image = image_input(config)
    if image is not None:
        return image.positions
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    first = family_of(config.model_type).first_position
    return int(positions) - (0 if first is None else int(config.pad_token_id) + first)


def encoder_of(model: nn.Module) -> Encoder:
    """Resolve a transformers model: its family, dense shape and prunable modules.

    Args:
        model: any transformers model with ``config`` and ``base_model``; pruned ones too (the shape is the dense one).

    Raises:
        ModelError: unsupported family.
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
    """Heads and filters each layer of a model has now; 0 for a removed sublayer."""
    encoder = encoder_of(model)

    def columns(layer: EncoderLayer, role: str) -> int:
        # A removed sublayer's output projection is a BiasOnly, which has no weight.
        weight = getattr(layer.get(role), "weight", None)
        return 0 if weight is None else int(weight.shape[1])

    return Widths(
        heads=tuple(columns(layer, "attention_output") // encoder.shape.head_size for layer in encoder),
        filters=tuple(columns(layer, "ffn_output") for layer in encoder),
    )
