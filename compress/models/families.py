"""Paths of the attention and FFN matrices in each model family: data, not code.

A new family is one entry in ``FAMILIES`` (and one line in the tests' list of families). Users add their own family from
Python with ``register`` (``examples/own_family.py``). All other code (masks, removal, reconstruction, export) reaches
the model only through ``Encoder`` and ``EncoderLayer`` of ``models/encoder.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from compress.core.errors import ModelError

AttentionKind = Literal["scaled", "disentangled", "rotary"]
SublayerKind = Literal["attention", "ffn"]
SUBLAYER_KINDS: tuple[SublayerKind, SublayerKind] = ("attention", "ffn")
INPUTS: dict[SublayerKind, tuple[str, ...]] = {
    "attention": ("query", "key", "value"),
    "ffn": ("ffn_input", "ffn_gate"),
}


@dataclass(frozen=True)
class Architecture:
    """Paths of the prunable modules of one family.

    Attributes:
        model_type: ``config.model_type`` of the family.
        layers: path of the list of encoder layers, from the base model (without the task head).
        attention: path of the self-attention module in a layer, which calls query, key and value and returns
            ``(context, weights)``. It is replaced when no head is left.
        query: path of W_q in a layer; its rows are grouped by head. If query, key and value have the same path, that
            matrix holds the rows of all three, one after the other.
        key: path of W_k.
        value: path of W_v.
        attention_output: path of the linear layer that reads the heads' outputs (W_o).
        ffn_input: path of the first FFN linear layer (W_1); a filter is one row.
        ffn_output: path of the second FFN linear layer (W_2); a filter is one column.
        attention_sum: path of the module in a layer whose input is attention's output plus the residual; None if that
            sum is the layer's output.
        ffn_sum: path of the module whose input is the FFN's output plus the residual; None if that sum is the layer's
            output.
        ffn_gate: path of the linear layer whose outputs multiply the activations, filter by filter (gated FFN). If it
            is the path of ``ffn_input``, that matrix holds the rows of both, one after the other. None without a gate.
        head_count_attributes: attributes of ``attention`` that hold the number of heads; which of them exist depends
            on the family and the release of transformers.
        all_head_size_attributes: attributes of ``attention`` that hold heads x head size.
        by_head: paths of further projections in a layer whose rows are grouped by head; paths that a model does not
            have are skipped.
        position_bias: name of the argument of ``attention`` that is added to the scores of each head, [batch, dense
            heads, sequence, sequence]; None without one.
        attention_kind: the computation between the projections, so that the export can use a fused operator
            (``export/attention.py``). ``scaled``: scaled dot products, plus ``position_bias``. ``disentangled``: with
            terms between contents and positions. ``rotary``: queries and keys rotated by position, in some layers
            within a window. None: anything else, exported as PyTorch computes it.
        alike_calls: whether the model calls all its layers with the same arguments.
        first_position: positions of tokens start at ``pad_token_id`` + this number; None starts at 0.
        before_patches: for models of images the number of positions before the patches; None for models of texts.
        earlier: paths in earlier releases of transformers, if they differ; None if they do not.
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
    before_patches: int | None = None
    earlier: Architecture | None = None


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

_VIT = Architecture(
    model_type="vit",
    layers="layers",
    attention="attention",
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    attention_output="attention.o_proj",
    ffn_input="mlp.fc1",
    ffn_output="mlp.fc2",
    attention_sum="layernorm_after",
    ffn_sum=None,
    before_patches=1,
    earlier=replace(
        _BERT,
        model_type="vit",
        attention="attention.attention",
        query="attention.attention.query",
        key="attention.attention.key",
        value="attention.attention.value",
        attention_sum="layernorm_after",
        ffn_sum=None,
        before_patches=1,
    ),
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
        _VIT,
        # DeiT has a distillation token beside [CLS].
        replace(_VIT, model_type="deit", before_patches=2),
    )
}


# Model types that users may try, with the reason why they cannot be compressed.
_SHARED = "its layers share their weights, so a unit removed from one layer is removed from all"
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
    """Registers a family for this process.

    Args:
        family: paths of its modules. Its configuration and model classes must be registered with transformers
            (``AutoConfig.register``, ``AutoModelForSequenceClassification.register``, ...).
        replace_existing: whether it may replace an entry of the same model type.

    Raises:
        ModelError: there is already an entry of that model type, or the entry contradicts itself.
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
            f"family '{family.model_type}': '{outside[0]}' is not inside its attention module '{family.attention}'"
        )
    FAMILIES[family.model_type] = family


def family_of(model_type: str) -> Architecture:
    """Returns the entry of a model type.

    Raises:
        ModelError: the family is not supported; the message names the supported ones.
    """
    if model_type in REFUSED and model_type not in FAMILIES:
        raise ModelError(f"model type '{model_type}' cannot be compressed: {REFUSED[model_type]}")
    if model_type not in FAMILIES:
        raise ModelError(
            f"model type '{model_type}' is not supported; supported encoder families: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]
