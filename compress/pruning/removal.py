"""Physical removal: cuts heads and filters out of the weight matrices; a sublayer without units becomes its bias.

Law (``tests/pruning/test_removal.py``): a model with units gated at 0 and a model with the same units removed give
the same output, for every structure. A head is d_h rows of W_q, W_k and W_v and d_h columns of W_o. A filter is one
row of W_1, one row of the gate's matrix if there is one, and one column of W_2. If W_o or W_2 has no bias, it gets a
bias of zeros: an emptied sublayer consists of it, and reconstruction fits it.

An emptied sublayer adds its bias to the residual. No matrix of width zero is ever made: ONNX Runtime refuses to load
one.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.core.errors import PlanError
from compress.core.plan import Structure, Widths
from compress.models.encoder import Encoder, EncoderLayer, encoder_of, widths_of
from compress.models.families import Architecture

# Buffer of an attention module with removed heads, in models that compute one position bias for all heads.
KEPT_HEADS = "kept_heads"


class BiasOnly(nn.Module):
    """An output projection without inputs: only its bias.

    Args:
        bias: [hidden], of the projection that this replaces.
    """

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)

    def forward(self, _: Any = None) -> Tensor:
        """The bias [hidden]; the input is ignored, and the residual addition broadcasts."""
        return self.bias


class Skip(nn.Module):
    """Replaces W_1 when no filter is left: passes on a few columns, so that the activation costs almost nothing.

    Args:
        columns: columns to pass on: one for each matrix that W_1 held.
    """

    def __init__(self, columns: int = 1) -> None:
        super().__init__()
        self._columns = columns

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, sequence, hidden] to [batch, sequence, columns]; nothing reads the values."""
        return hidden[..., : self._columns]


class NoAttention(nn.Module):
    """Replaces a self-attention module without heads.

    Args:
        projection: path of the output projection inside the attention module; None if it lies outside (BERT). The path
            must still resolve, and the bias must keep its key in the state dict.
        bias_only: the output projection's bias.
    """

    def __init__(self, projection: str | None, bias_only: BiasOnly) -> None:
        super().__init__()
        self._projection = projection
        if projection is not None:
            self.add_module(projection, bias_only)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """``(context, weights)``, as attention modules return them; weights are None."""
        hidden = attention_input(args, kwargs)
        return (hidden if self._projection is None else self.get_submodule(self._projection)(hidden)), None


def attention_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Hidden states among the arguments of a self-attention module.

    Args:
        args: positional arguments of the call; hidden states come first if there are any.
        kwargs: named arguments of the call; DistilBERT of transformers 4 calls hidden states ``query``.

    Returns:
        [batch, sequence, hidden].
    """
    if args:
        return cast("Tensor", args[0])
    return cast("Tensor", kwargs["hidden_states"] if "hidden_states" in kwargs else kwargs["query"])


def projection_in_attention(family: Architecture) -> str | None:
    """Path of the output projection inside the attention module (DistilBERT); None if it lies outside (BERT)."""
    inside = f"{family.attention}."
    return family.attention_output.removeprefix(inside) if family.attention_output.startswith(inside) else None


def _keep_rows(linear: nn.Linear, units: Tensor, matrices: int = 1) -> None:
    """Keep these output units of a linear layer, in place; if it holds several matrices, of each of them."""
    size = linear.out_features // matrices
    rows = torch.cat([units + size * number for number in range(matrices)])
    linear.weight = nn.Parameter(linear.weight.detach()[rows].clone(), requires_grad=linear.weight.requires_grad)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[rows].clone(), requires_grad=linear.bias.requires_grad)
    linear.out_features = len(rows)


def _keep_columns(linear: nn.Linear, columns: Tensor) -> None:
    """Keep these inputs of a linear layer, in place."""
    weight = linear.weight
    linear.weight = nn.Parameter(weight.detach()[:, columns].clone(), requires_grad=weight.requires_grad)
    linear.in_features = len(columns)


def _remove_heads(layer: EncoderLayer, kept: tuple[int, ...], head_size: int) -> None:
    family = layer.family
    attention: Any = layer.get("attention")
    if not kept:
        bias_only = BiasOnly(layer.get("attention_output").bias)
        projection = projection_in_attention(family)
        if projection is None:
            layer.set("attention_output", bias_only)
        layer.set("attention", NoAttention(projection, bias_only))
        return
    device = layer.get("attention_output").weight.device
    units = torch.tensor([head * head_size + i for head in kept for i in range(head_size)], device=device)
    for role, matrices in layer.inputs("attention").items():
        _keep_rows(layer.get(role), units, matrices)
    for linear in layer.further_by_head().values():
        _keep_rows(linear, units)
    if family.position_bias is not None:
        select_position_bias(attention, kept, family.position_bias, device)
    _keep_columns(layer.get("attention_output"), units)
    sizes = dict.fromkeys(family.head_count_attributes, len(kept))
    # DistilBERT of transformers 4 computes the head size as dim / n_heads: its `dim` must shrink with the heads.
    sizes |= dict.fromkeys((*family.all_head_size_attributes, "dim"), len(kept) * head_size)
    for name, value in sizes.items():
        if hasattr(attention, name):
            setattr(attention, name, value)


def select_position_bias(
    attention: nn.Module, kept: tuple[int, ...], argument: str, device: torch.device | None = None
) -> None:
    """Let an attention module select its own heads from the position bias that the model computes for all heads.

    The indices become a buffer of the module, so that they are saved and loaded with the weights.

    Args:
        attention: the module, changed in place.
        kept: heads that the module has kept, ascending.
        argument: name of the module's argument that is the bias [batch or 1, heads, sequence, sequence].
        device: of the module; None is the processor.
    """
    attention.register_buffer(KEPT_HEADS, torch.tensor(kept, device=device))
    attention.register_forward_pre_hook(partial(_select_bias, argument), with_kwargs=True)


def _select_bias(
    argument: str, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    position, bias = find_argument(attention, argument, args, kwargs)
    if bias is None:
        return args, kwargs
    chosen = bias.index_select(1, cast("Tensor", getattr(attention, KEPT_HEADS)))
    if position is None:
        return args, {**kwargs, argument: chosen}
    return (*args[:position], chosen, *args[position + 1 :]), kwargs


def find_argument(
    attention: nn.Module, argument: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int | None, Tensor | None]:
    """Find one argument in a call of an attention module.

    Args:
        attention: the module; its signature tells positions.
        argument: name of the argument.
        args: positional arguments of the call.
        kwargs: named arguments of the call.

    Returns:
        Its position, None if it is passed by name or not at all; and its value, None if it is not passed.
    """
    if argument in kwargs:
        return None, kwargs[argument]
    position = list(inspect.signature(attention.forward).parameters).index(argument)
    return (position, args[position]) if position < len(args) else (None, None)


def _remove_filters(layer: EncoderLayer, kept: tuple[int, ...]) -> None:
    if not kept:
        # Computing the FFN in chunks of the sequence would join the chunks' outputs, of which a bias has no axis.
        for module in layer.module.modules():
            if hasattr(module, "chunk_size_feed_forward"):
                cast("Any", module).chunk_size_feed_forward = 0
        layer.set("ffn_output", BiasOnly(layer.get("ffn_output").bias))
        for role, matrices in layer.inputs("ffn").items():
            layer.set(role, Skip(matrices))
        return
    units = torch.tensor(kept, device=layer.get("ffn_output").weight.device)
    for role, matrices in layer.inputs("ffn").items():
        _keep_rows(layer.get(role), units, matrices)
    _keep_columns(layer.get("ffn_output"), units)


def _give_biases(encoder: Encoder) -> None:
    """Give biases of zeros to output projections without, in all layers: equal structures have equal state dicts."""
    for layer in encoder:
        for role in ("attention_output", "ffn_output"):
            linear = layer.get(role)
            if cast("Tensor | None", linear.bias) is None:
                zeros = linear.weight.new_zeros(linear.out_features)
                linear.bias = nn.Parameter(zeros, requires_grad=linear.weight.requires_grad)


def _check_unpruned(encoder: Encoder) -> None:
    now, dense = widths_of(encoder.model), encoder.shape.dense
    if now != dense:
        raise PlanError(
            "plans count the heads and filters of the dense model, but this model is already pruned: heads "
            f"{list(now.heads)} of {dense.heads[0]}, filters {list(now.filters)} of {dense.filters[0]}; load the "
            "original checkpoint again"
        )


def remove(model: nn.Module, structure: Structure) -> None:
    """Remove all heads and filters from a dense model that a structure does not keep, in place.

    The kept weights are copied, so the memory of the dense matrices is free afterwards. Their values do not change.
    Hooks on the modules of an emptied sublayer are lost with the modules.

    Args:
        model: an unpruned transformers model of a supported family.
        structure: heads and filters to keep, as indices into the dense layers.

    Raises:
        ModelError: unsupported family.
        PlanError: the structure does not fit the model, or the model is already pruned.
    """
    encoder = encoder_of(model)
    structure.check(encoder.shape)
    _check_unpruned(encoder)
    shape = encoder.shape
    if structure.widths == shape.dense:
        return
    _give_biases(encoder)
    for layer, heads, filters in zip(encoder, structure.heads, structure.filters, strict=True):
        if len(heads) < shape.heads:
            _remove_heads(layer, heads, shape.head_size)
        if len(filters) < shape.filters:
            _remove_filters(layer, filters)


def narrow_to(model: nn.Module, widths: Widths) -> None:
    """Give a dense model the shapes of a pruned one, in place, before pruned weights are loaded into it.

    Args:
        model: an unpruned transformers model of a supported family.
        widths: heads and filters of each layer.

    Raises:
        ModelError: unsupported family.
        PlanError: the widths do not fit the model, or the model is already pruned.
    """
    remove(
        model,
        Structure(
            heads=tuple(tuple(range(width)) for width in widths.heads),
            filters=tuple(tuple(range(width)) for width in widths.filters),
        ),
    )
