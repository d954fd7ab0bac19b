"""Top-k selection: keeps the elements with the highest scores, exactly so many.

Laws (``tests/sparsity/test_topk.py``): exactly ``allowed`` elements are kept, over all matrices or in each. No
element that is left out has a higher score than one that is kept. Of equal ones, the first are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Selection = Literal["global", "per-matrix"]


def allowed(elements: int, fraction: float) -> int:
    """Number of elements in a fraction of them: rounded down, at least one.

    Args:
        elements: how many there are.
        fraction: that is kept, 0..1.
    """
    return max(1, int(elements * fraction + 1e-6))


def choose(worth: Sequence[Tensor], fraction: float, selection: Selection) -> list[Tensor]:
    """Masks of the elements with the highest scores: 1 where kept, 0 elsewhere, in the types and shapes of ``worth``.

    Args:
        worth: one tensor for each matrix; any finite numbers.
        fraction: of the elements that are kept.
        selection: over all matrices together (``global``), or the same fraction in each (``per-matrix``).
    """
    if selection == "per-matrix":
        return [_most(part.flatten(), allowed(part.numel(), fraction)).view_as(part) for part in worth]
    every = torch.cat([part.flatten() for part in worth])
    chosen = _most(every, allowed(every.numel(), fraction)).split([part.numel() for part in worth])
    return [mask.view_as(part) for mask, part in zip(chosen, worth, strict=True)]


def _most(worth: Tensor, count: int) -> Tensor:
    if count >= worth.numel():
        return torch.ones_like(worth)
    least = torch.kthvalue(worth, worth.numel() - count + 1).values
    mask = (worth > least).to(worth.dtype)
    # Of the elements that equal the last one, as many as there is room for.
    equal = (worth == least).nonzero().flatten()
    mask[equal[: count - int(mask.sum(dtype=torch.float64))]] = 1.0
    return mask
