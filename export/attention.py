"""Fused attention for the export: replaces attention modules while a model is exported, for any number of heads.

The exporter writes attention as a dozen operators per layer. ONNX Runtime's optimizer does not fuse them again (in
graphs from transformers 5 it fuses none). So during the export, every attention module is replaced by one that calls
``com.microsoft.MultiHeadAttention`` on the outputs of the query, key and value projections. That operator takes any
number of heads and reads the caller's padding mask. The replacement uses the family's entry in ``models/families.py``,
not the attention interface of transformers, since BERT and DistilBERT of transformers 4.57 do not call it.

Only ``num_heads`` depends on the number of heads in the nodes written here; ``narrow`` (``export/narrowing.py``) relies
on that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.models.encoder import EncoderLayer, encoder_of
from compress.models.families import AttentionKind
from compress.pruning.removal import KEPT_HEADS, NoAttention, attention_input, find_argument, projection_in_attention


class PaddingMask:
    """Passes the padding mask [batch, sequence], int32, from the exported model to its attention modules."""

    value: Tensor | None = None


class ScaledAttention(nn.Module):
    """Replaces a self-attention module with scaled dot products during the export.

    It has the children of the replaced module under the same names, so that parameters keep their names.

    Args:
        layer: layer of the attention module to replace.
        head_size: width of a head.
        mask: receives the padding mask.
    """

    def __init__(self, layer: EncoderLayer, head_size: int, mask: PaddingMask) -> None:
        super().__init__()
        family = layer.family
        for name, child in layer.get("attention").named_children():
            self.add_module(name, child)
        roles, matrices = ("query", "key", "value"), layer.inputs("attention")["query"]
        for role, part in zip(roles, _parts(layer.get("query"), matrices) if matrices > 1 else (), strict=False):
            self.add_module(role, part)
        self._query, self._key, self._value = (
            layer.exported_name(role).removeprefix(f"{layer.name('attention')}.") for role in roles
        )
        self._projection = projection_in_attention(family)
        self._heads = layer.get("query").out_features // matrices // head_size
        self._head_size = head_size
        self._mask = mask
        # In a list, so that it is not a child: only its signature, its settings and its kept heads are read.
        self._original: list[Any] = [layer.get("attention")]
        self._bias = family.position_bias

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """``(context, weights)``, as attention modules return them; weights are None."""
        hidden = attention_input(args, kwargs)
        query, key, value = (self.get_submodule(path)(hidden) for path in (self._query, self._key, self._value))
        added = self._added(query, key, args, kwargs)
        query, key = self._turned(query, key, args, kwargs)
        # Inputs by position: query, key, value, bias, key_padding_mask, attention_bias.
        inputs = [query, key, value, None, self._mask.value, added]
        while inputs[-1] is None:
            inputs.pop()
        context = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            inputs,
            attrs={"num_heads": self._heads, "scale": self._scale},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )
        return (context if self._projection is None else self.get_submodule(self._projection)(context)), None

    @property
    def _scale(self) -> float:
        """Factor of the dot products of queries and keys."""
        return self._head_size**-0.5

    def _added(self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Bias of the scores [batch or 1, heads or 1, sequence, sequence]; None for no bias."""
        if self._bias is None:
            return None
        bias = self._argument(self._bias, args, kwargs)
        kept = getattr(self._original[0], KEPT_HEADS, None)
        return bias if bias is None or kept is None else bias.index_select(1, kept)

    def _turned(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys after their position encoding, in their own shapes."""
        return query, key

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """An argument in the call of the replaced module."""
        return find_argument(self._original[0], name, args, kwargs)[1]

    def _by_head(self, projected: Tensor) -> Tensor:
        """[batch, sequence, heads x head size] to [batch, heads, sequence, head size]."""
        batch, length, _ = projected.shape
        return projected.view(batch, length, -1, self._head_size).transpose(1, 2)


class DisentangledAttention(ScaledAttention):
    """Replaces attention with scores between contents and relative positions (DeBERTa-v2).

    The fused operator computes content to content. Content to position (c2p) and position to content (p2c) are computed
    beside it and added to its scores. Source: He et al., "DeBERTa", section 3.1.
    """

    @property
    def _scale(self) -> float:
        kinds = sum(kind in self._original[0].pos_att_type for kind in ("c2p", "p2c"))
        return 1 / math.sqrt(self._head_size * (1 + kinds))

    def _added(self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        original = self._original[0]
        distances = self._argument("relative_pos", args, kwargs)
        embeddings = self._argument("rel_embeddings", args, kwargs)
        if not original.relative_attention or distances is None or embeddings is None:
            return None
        span = original.pos_ebd_size
        embeddings = embeddings[: 2 * span].unsqueeze(0)
        # [1, 1, sequence, sequence]; leading axes differ between releases of transformers.
        distances = distances.reshape(1, 1, *distances.shape[-2:]).long()

        def scores(contents: Tensor, shared: str, own: str, places: Tensor) -> Tensor:
            """Scores of contents against positions, each content with the positions at its places."""
            projection = self.get_submodule(shared if original.share_att_key else own)
            positions = self._by_head(projection(embeddings))
            products = self._by_head(contents) @ positions.transpose(-1, -2)
            return _gathered(products, places.clamp(0, 2 * span - 1))

        found = []
        if "c2p" in original.pos_att_type:
            found.append(scores(query, self._key, "pos_key_proj", distances + span))
        if "p2c" in original.pos_att_type:
            found.append(scores(key, self._query, "pos_query_proj", span - distances).transpose(-1, -2))
        return sum(found[1:], found[0]) * self._scale if found else None


def _gathered(products: Tensor, places: Tensor) -> Tensor:
    """Values of products [batch, heads, sequence, positions] at places [1, 1, sequence, sequence] of the last axis.

    ``torch.gather`` needs places for every head, and would write the number of heads into the graph.
    """
    batch, heads, _, _ = products.shape
    shape = (batch, heads, *places.shape[-2:])
    sizes = torch.onnx.ops.symbolic("Shape", [products[:, :, :1, :1]], dtype=torch.int64, shape=(4,))
    expanded = torch.onnx.ops.symbolic("Expand", [places, sizes], dtype=torch.int64, shape=shape)
    return torch.onnx.ops.symbolic(
        "GatherElements", [products, expanded], attrs={"axis": -1}, dtype=products.dtype, shape=shape
    )


class RotaryAttention(ScaledAttention):
    """Replaces attention with rotary position embeddings, with a sliding window in some layers.

    Source: Su et al., "RoFormer", section 3.4.2, with the halves in the order of transformers.
    """

    def _added(self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        reach = self._reach()
        if reach is None:
            return None
        places = torch.arange(query.shape[1])
        outside = (places[:, None] - places[None, :]).abs() > reach
        return torch.zeros_like(outside, dtype=query.dtype).masked_fill(outside, torch.finfo(query.dtype).min)[
            None, None
        ]

    def _reach(self) -> int | None:
        """How far a token attends to either side; None for no limit."""
        # transformers 5 has one number, which counts the token itself; 4.57 has a number per side, -1 for no window.
        window = getattr(self._original[0], "sliding_window", None)
        sides = getattr(self._original[0], "local_attention", (-1, -1))
        if window is not None:
            return int(window) - 1
        return None if sides[0] < 0 else int(sides[0])

    def _turned(
        self, query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if "position_embeddings" in kwargs:
            angles = kwargs["position_embeddings"]
        else:  # transformers 4.57: each attention module makes its own
            angles = self.get_submodule("rotary_emb")(query, position_ids=kwargs["position_ids"])
        # [1, sequence, head size]: both halves of a head are rotated by the same angles.
        half = self._head_size // 2
        cosines, sines = (table[:, :, None, :half] for table in angles)

        def turned(projected: Tensor) -> Tensor:
            batch, length, _ = projected.shape
            heads = projected.view(batch, length, -1, self._head_size)
            first, second = heads[..., :half], heads[..., half:]
            both = [first * cosines - second * sines, second * cosines + first * sines]
            return torch.cat(both, dim=-1).reshape(batch, length, -1)

        return turned(query), turned(key)


def _parts(linear: nn.Linear, matrices: int) -> Iterator[nn.Linear]:
    """Split a linear layer that holds several matrices one after the other."""
    biases = [None] * matrices if linear.bias is None else linear.bias.detach().chunk(matrices)
    for weight, bias in zip(linear.weight.detach().chunk(matrices), biases, strict=True):
        part = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        part.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            part.bias = nn.Parameter(bias, requires_grad=False)
        yield part


KINDS: dict[AttentionKind, type[ScaledAttention]] = {
    "scaled": ScaledAttention,
    "disentangled": DisentangledAttention,
    "rotary": RotaryAttention,
}


@contextmanager
def fused_attention(model: nn.Module) -> Iterator[PaddingMask]:
    """Replace the attention modules of a model while the block runs; kinds without a replacement stay."""
    encoder = encoder_of(model)
    mask = PaddingMask()
    replaced: list[tuple[EncoderLayer, nn.Module]] = []
    try:
        for layer in encoder:
            attention = cast("nn.Module", layer.get("attention"))
            kind = layer.family.attention_kind
            if kind is not None and not isinstance(attention, NoAttention):
                layer.set("attention", KINDS[kind](layer, encoder.shape.head_size, mask))
                replaced.append((layer, attention))
        yield mask
    finally:
        for layer, attention in replaced:
            layer.set("attention", attention)
