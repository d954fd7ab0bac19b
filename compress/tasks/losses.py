"""Losses that several tasks share, and labels drawn from the model's own predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.errors import DataError
from compress.tasks.standing import spearman as spearman

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def check_finite(reference: Tensor) -> None:
    """Checks that a model's outputs are finite.

    Raises:
        DataError: one of them is NaN or infinite.
    """
    import torch

    if not bool(torch.isfinite(reference).all()):
        raise DataError(
            "the model's outputs on the calibration data are not finite: its activations overflow; check the "
            "checkpoint in float32, and the data for texts unlike those it was trained on"
        )


def noise_like(reference: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws standard normal noise.

    Args:
        reference: gives shape and dtype.
        generator: source of randomness; None takes torch's global one.
    """
    import torch

    return torch.randn(reference.shape, generator=generator, dtype=reference.dtype)


def categorical_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Returns the KL divergence KL(reference || logits) of the distributions over the last axis.

    Args:
        logits: [..., categories].
        reference: [..., categories].

    Returns:
        [...].
    """
    from torch.nn.functional import kl_div, log_softmax

    pointwise = kl_div(log_softmax(logits, -1), log_softmax(reference, -1), reduction="none", log_target=True)
    return pointwise.sum(-1)


def draw_categories(reference: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws one category from each distribution over the last axis.

    Args:
        reference: logits [..., categories].
        generator: source of randomness; None takes torch's global one.

    Returns:
        int64 [...].

    Raises:
        DataError: the logits are not finite.
    """
    import torch

    check_finite(reference)
    flat = reference.reshape(-1, reference.shape[-1]).softmax(-1)
    return torch.multinomial(flat, 1, generator=generator).reshape(reference.shape[:-1])


def categorical_direction(reference: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws a random direction with covariance diag(p) - p pᵀ for each distribution p over the last axis.

    The direction is Σ_c ±√p_c (e_c - p), with a random sign per category c. The gradient of the loss for one drawn
    label has the same covariance, but it is nearly always 0 where one category is nearly certain.

    Args:
        reference: logits [..., categories].
        generator: source of randomness; None takes torch's global one.

    Returns:
        [..., categories].

    Raises:
        DataError: the logits are not finite.
    """
    import torch

    check_finite(reference)
    probabilities = reference.softmax(-1)
    signs = torch.randint(0, 2, reference.shape, generator=generator, dtype=reference.dtype) * 2 - 1
    parts = signs * probabilities.sqrt()
    return parts - probabilities * parts.sum(-1, keepdim=True)
