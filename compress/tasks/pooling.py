"""How token embeddings become one embedding per text: pooling, and the layers after it.

The formulas are those of sentence-transformers (``sentence_transformer/modules/pooling.py`` and
``base/modules/dense.py``). Rows are padded on the right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor

# In the order in which sentence-transformers joins several of them.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer with an activation function, after pooling.

    Attributes:
        weight: [out, in].
        bias: [out]; None without one.
        activation: the name of a module class in ``torch.nn`` that needs no arguments.
        adds_input: whether the input is added to the result.
        residual: [out, in], applied to the input before it is added; None adds it as it is.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: str = "Tanh"
    adds_input: bool = False
    residual: Tensor | None = None

    def __call__(self, embeddings: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import linear

        weight, bias, residual = (_like(tensor, embeddings) for tensor in (self.weight, self.bias, self.residual))
        answer = cast("Tensor", getattr(torch.nn, self.activation)()(linear(embeddings, cast("Tensor", weight), bias)))
        if not self.adds_input:
            return answer
        return answer + (embeddings if residual is None else linear(embeddings, residual))

    def describe(self) -> str:
        """Returns the layer's sizes, its activation and a hash of its weights."""
        shape = "x".join(str(size) for size in reversed(self.weight.shape))
        added = "+input" if self.adds_input else ""
        return f"Dense {shape} {self.activation}{added} {_digest(self.weight, self.bias, self.residual)}"


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Layer normalisation after pooling.

    Attributes:
        weight: [dimension].
        bias: [dimension].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        from torch.nn.functional import layer_norm

        weight, bias = _like(self.weight, embeddings), _like(self.bias, embeddings)
        return layer_norm(embeddings, (len(self.weight),), weight, bias)

    def describe(self) -> str:
        """Returns the layer's size and a hash of its weights."""
        return f"LayerNorm {len(self.weight)} {_digest(self.weight, self.bias)}"


@dataclass(frozen=True)
class Normalize:
    """Scales embeddings to length 1."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        return unit_length(embeddings)

    def describe(self) -> str:
        """Returns the name of the layer."""
        return "Normalize"


Layer = Dense | LayerNorm | Normalize


def pool(hidden: Tensor, mask: Tensor, modes: Sequence[str], prompt_tokens: int = 0) -> Tensor:
    """Pools the last hidden state of each text.

    Args:
        hidden: [batch, sequence, hidden].
        mask: attention mask, 0 at padding, [batch, sequence]; padding is on the right.
        modes: names of ``POOLINGS``; the results are joined in this order.
        prompt_tokens: number of tokens at the start of each row that are left out; 0 leaves out none.

    Returns:
        [batch, hidden x modes].
    """
    import torch

    mask = mask.to(hidden.dtype)
    places = torch.arange(hidden.shape[1], device=hidden.device)
    read = mask * (places >= prompt_tokens).to(hidden.dtype) if prompt_tokens else mask
    parts = [_pooled(hidden, mask, read, mode) for mode in modes]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _pooled(hidden: Tensor, mask: Tensor, read: Tensor, mode: str) -> Tensor:
    """Pools in one way; ``read`` is the mask without the prompt's tokens."""
    import torch

    if mode == "cls":
        if read is mask:
            return hidden[:, 0]
        return _weighted(hidden, read * (read.cumsum(1) == 1).to(hidden.dtype))
    if mode == "lasttoken":
        return _weighted(hidden, mask * (mask.cumsum(1) == mask.sum(1, keepdim=True)).to(hidden.dtype))
    if mode == "max":
        return hidden.masked_fill(read.unsqueeze(-1) == 0, float("-inf")).amax(1)
    weights = read
    if mode == "weightedmean":
        weights = read * torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
    total = weights.sum(1).clamp_min(1e-9).unsqueeze(-1)
    return _weighted(hidden, weights) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    return (hidden * weights.unsqueeze(-1)).sum(1)


def unit_length(embeddings: Tensor) -> Tensor:
    """Returns embeddings scaled to length 1, [..., dimension]."""
    from torch.nn.functional import normalize

    return normalize(embeddings, p=2.0, dim=-1)


def _like(tensor: Tensor | None, other: Tensor) -> Tensor | None:
    # As they are on the processor in float32, so that the exporter sees constants and no conversions.
    if tensor is None or (tensor.device == other.device and tensor.dtype == other.dtype):
        return tensor
    return tensor.to(other)


def _digest(*tensors: Tensor | None) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(b"none" if tensor is None else tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
