"""Where attention and FFN matrices live in each model family: data, not code.

A new family is one entry in ``FAMILIES`` (and one line in the tests' list of families). Everything else, gates,
removal, reconstruction, export, reaches the model only through ``Encoder`` and ``EncoderLayer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

from compress.errors import ModelError
from compress.plan import EncoderShape, Widths

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """Paths of the prunable modules of one family.

    Attributes:
        model_type: ``config.model_type`` of the family.
        layers: path of the list of encoder layers, from the base model (without the task head).
        attention: path of the self-attention module in a layer: it calls query, key and value and returns
            ``(context, weights)``; it is what gets replaced when no head is left.
        query, key, value: paths of the three input projections in a layer; rows are grouped by head.
        attention_output: path of the linear layer that reads the heads' outputs (W_o).
        ffn_input: path of the first FFN linear layer (W_1); a filter is one row.
        ffn_output: path of the second FFN linear layer (W_2); a filter is one column.
        attention_sum: path of the module in a layer whose input is attention's output plus the residual.
        ffn_sum: the same for the FFN.
        head_count_attributes: attributes of ``attention`` that hold the number of heads; a family has some of them,
            depending on the release of transformers.
        all_head_size_attributes: attributes of ``attention`` that hold heads x head size.
    """

    model_type: str
    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    ffn_input: str
    ffn_output: str
    attention_sum: str
    ffn_sum: str
    head_count_attributes: tuple[str, ...] = ("num_attention_heads", "n_heads", "num_heads")
    all_head_size_attributes: tuple[str, ...] = ("all_head_size",)


_BERT = Architecture(
    model_type="bert",
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    ffn_input="intermediate.dense",
    ffn_output="output.dense",
    attention_sum="attention.output.LayerNorm",
    ffn_sum="output.LayerNorm",
)

FAMILIES: dict[str, Architecture] = {
    family.model_type: family
    for family in (
        _BERT,
        Architecture(
            model_type="distilbert",
            layers="transformer.layer",
            attention="attention",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            attention_output="attention.out_lin",
            ffn_input="ffn.lin1",
            ffn_output="ffn.lin2",
            attention_sum="sa_layer_norm",
            ffn_sum="output_layer_norm",
        ),
    )
}


def _get(root: nn.Module, path: str) -> nn.Module:
    return reduce(getattr, path.split("."), root)


@dataclass(frozen=True)
class EncoderLayer:
    """The prunable modules of one layer, resolved on a real model.

    Attributes:
        module: the layer.
        family: where things are in it.
        prefix: the layer's path from the whole model, as parameter names have it (``bert.encoder.layer.0``).
    """

    module: nn.Module
    family: Architecture
    prefix: str

    def get(self, role: str) -> nn.Linear:
        """The module in a role, a path field of ``Architecture``: ``query``, ``attention_output``, ``ffn_sum``, ..."""
        return cast("nn.Linear", _get(self.module, getattr(self.family, role)))

    def name(self, role: str) -> str:
        """Path of a role's module from the whole model."""
        return f"{self.prefix}.{getattr(self.family, role)}"

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


def family_of(model_type: str) -> Architecture:
    """The entry of a model type.

    Raises:
        ModelError: the family is not supported; the message names those that are.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"model type '{model_type}' is not supported; supported encoder families: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


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
    # attribute_map of the configuration classes gives every family these common names, but for the FFN of DistilBERT.
    filters = getattr(config, "intermediate_size", None) or config.hidden_dim
    return EncoderShape(
        model_type=family.model_type,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        head_size=config.hidden_size // config.num_attention_heads,
        filters=filters,
    )


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
    prefix = family.layers if base is model else f"{model.base_model_prefix}.{family.layers}"
    modules = cast("Any", _get(base, family.layers))
    layers = tuple(EncoderLayer(module, family, f"{prefix}.{i}") for i, module in enumerate(modules))
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
