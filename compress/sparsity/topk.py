"""The most worthy elements, exactly so many.

Laws (``tests/sparsity/test_topk.py``): exactly ``allowed`` elements are kept, over all matrices or in each; none that
is left out is worth more than one that is kept; equal ones are kept in the order in which they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Selection = Literal["global", "per-matrix"]


def allowed(elements: int, fraction: float) -> int:
    """Elements that a fraction of them allows: rounded down, at least one."""
    return max(1, int(elements * fraction + 1e-6))


def choose(worth: Sequence[Tensor], fraction: float, selection: Selection) -> list[Tensor]:
    """Masks of the most worthy elements, of 0 and 1, in the numbers and shapes of ``worth``.

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
    # Of those that are exactly as worthy as the last one, as many as there is room for.
    equal = (worth == least).nonzero().flatten()
    mask[equal[: count - int(mask.sum(dtype=torch.float64))]] = 1.0
    return mask
