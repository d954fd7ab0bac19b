"""Where attention and FFN matrices live in each model family: data, not code.

A new family is one entry in ``FAMILIES`` (and one line in the tests' list of families); a family of one's own is added
from Python with ``register`` (``examples/own_family.py``). Everything else, gates, removal, reconstruction, export,
reaches the model only through ``Encoder`` and ``EncoderLayer``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, cast

from compress.errors import ModelError
from compress.plan import EncoderShape, Widths

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


AttentionKind = Literal["scaled", "disentangled", "rotary"]
SublayerKind = Literal["attention", "ffn"]
_INPUTS: dict[SublayerKind, tuple[str, ...]] = {
    "attention": ("query", "key", "value"),
    "ffn": ("ffn_input", "ffn_gate"),
}


@dataclass(frozen=True)
class Architecture:
    """Paths of the prunable modules of one family.

    Attributes:
        model_type: ``config.model_type`` of the family.
        layers: path of the list of encoder layers, from the base model (without the task head).
        attention: path of the self-attention module in a layer: it calls query, key and value and returns
            ``(context, weights)``; it is what gets replaced when no head is left.
        query, key, value: paths of the three input projections in a layer; rows are grouped by head. One path three
            times is one matrix with the rows of all three, one after the other.
        attention_output: path of the linear layer that reads the heads' outputs (W_o).
        ffn_input: path of the first FFN linear layer (W_1); a filter is one row.
        ffn_output: path of the second FFN linear layer (W_2); a filter is one column.
        attention_sum: path of the module in a layer whose input is attention's output plus the residual; None where
            that sum is the layer's output.
        ffn_sum: the same for the FFN.
        ffn_gate: path of the linear layer whose outputs multiply the activated ones, filter by filter; the path of
            ``ffn_input`` again is one matrix with the rows of both, one after the other. None where there is none.
        head_count_attributes: attributes of ``attention`` that hold the number of heads; a family has some of them,
            depending on the release of transformers.
        all_head_size_attributes: attributes of ``attention`` that hold heads x head size.
        by_head: paths of further projections in a layer whose rows are grouped by head; those that a model lacks are
            passed over.
        position_bias: name of the argument of ``attention`` that brings what is added to the scores of each head,
            [batch, dense heads, sequence, sequence]; None where there is none.
        attention_kind: what is computed between the projections, so that the export can put a fused operator there
            (``export/attention.py``): ``scaled``, scaled dot products, ``position_bias`` added; ``disentangled``, with
            terms between contents and positions; ``rotary``, queries and keys turned by their positions, in some layers
            within a window. None: anything else, exported as it is written.
        alike_calls: whether the model calls all its layers with the same arguments.
        first_position: tokens' positions count from ``pad_token_id`` + this; None: from 0.
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
    attention_sum: str | None
    ffn_sum: str | None
    ffn_gate: str | None = None
    head_count_attributes: tuple[str, ...] = ("num_attention_heads", "n_heads", "num_heads")
    all_head_size_attributes: tuple[str, ...] = ("all_head_size",)
    by_head: tuple[str, ...] = ()
    position_bias: str | None = None
    attention_kind: AttentionKind | None = "scaled"
    alike_calls: bool = True
    first_position: int | None = None


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
        replace(_BERT, model_type="electra"),
        *(replace(_BERT, model_type=name, first_position=1) for name in ("roberta", "xlm-roberta", "camembert")),
        replace(
            _BERT,
            model_type="mpnet",
            attention="attention.attn",
            query="attention.attn.q",
            key="attention.attn.k",
            value="attention.attn.v",
            attention_output="attention.attn.o",
            attention_sum="attention.LayerNorm",
            position_bias="position_bias",
            first_position=1,
        ),
        replace(
            _BERT,
            model_type="deberta-v2",
            query="attention.self.query_proj",
            key="attention.self.key_proj",
            value="attention.self.value_proj",
            by_head=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
            attention_kind="disentangled",
        ),
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
        Architecture(
            model_type="modernbert",
            layers="layers",
            attention="attn",
            query="attn.Wqkv",
            key="attn.Wqkv",
            value="attn.Wqkv",
            attention_output="attn.Wo",
            ffn_input="mlp.Wi",
            ffn_gate="mlp.Wi",
            ffn_output="mlp.Wo",
            attention_sum="mlp_norm",
            ffn_sum=None,
            attention_kind="rotary",
            alike_calls=False,
        ),
    )
}


# Model types that people try, and why they cannot be compressed here.
_SHARED = "its layers share their weights, so what is removed from one is removed from all"
_DECODER = "it is a decoder, which reads one token after another with a cache; only encoders are supported"
_BOTH = "it has an encoder and a decoder; only encoders are supported"
REFUSED: dict[str, str] = {
    "albert": _SHARED,
    **dict.fromkeys(
        ("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "llama", "mistral", "mixtral", "phi", "phi3"),
        _DECODER,
    ),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "qwen2", "qwen3", "gpt_oss", "ctrl", "xlnet"), _DECODER),
    **dict.fromkeys(("t5", "mt5", "bart", "mbart", "pegasus", "marian", "encoder-decoder"), _BOTH),
}


def register(family: Architecture, *, replace_existing: bool = False) -> None:
    """Make a family of one's own known, for this process.

    Args:
        family: where its modules are. Its configuration and model classes must be registered with transformers
            (``AutoConfig.register``, ``AutoModelForSequenceClassification.register``, ...).
        replace_existing: let it take the place of an entry of the same model type.

    Raises:
        ModelError: there is an entry of that model type, or the entry contradicts itself.
    """
    if family.model_type in FAMILIES and not replace_existing:
        raise ModelError(
            f"there is a family '{family.model_type}' already; choose another model_type, or register it with "
            "replace_existing=True"
        )
    inside = f"{family.attention}."
    outside = [path for path in (family.query, family.key, family.value) if not path.startswith(inside)]
    if outside:
        raise ModelError(
            f"family '{family.model_type}': '{outside[0]}' is not inside of its attention module '{family.attention}'"
        )
    FAMILIES[family.model_type] = family


def _get(root: nn.Module, path: str) -> nn.Module:
    return reduce(getattr, path.split("."), root)


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
        for role in _INPUTS[kind]:
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
        return f"{self.name('attention')}.{role}" if role in _INPUTS["attention"] else self.name(role)

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


def family_of(model_type: str) -> Architecture:
    """The entry of a model type.

    Raises:
        ModelError: the family is not supported; the message names those that are.
    """
    if model_type in REFUSED and model_type not in FAMILIES:
        raise ModelError(f"model type '{model_type}' cannot be compressed: {REFUSED[model_type]}")
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


def longest_input(config: Any) -> int | None:
    """Tokens that a model reads at most, special ones included; None where its configuration does not say."""
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
