"""What widths cost in the unit of a budget, and the budget's limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import BudgetUnreachable
from compress.core.importance import Rankings
from compress.core.plan import Budget, EncoderShape
from compress.search.knapsack import Sublayer
from compress.search.size_limit import SizeLimit

if TYPE_CHECKING:
    from compress.profile.take import LatencyTable, Profile


# Under a MACs budget any width is allowed; multiples of this lose nothing measurable and suit vector units.
FILTER_STEP = 8


@dataclass(frozen=True)
class Costs:
    """What widths cost, in the unit of a budget.

    Attributes:
        heads: widths of attention on offer, ascending from 0.
        head_cost: of each.
        filters: widths of the FFN on offer, ascending from 0.
        filter_cost: of each.
        fixed: of everything that is no sublayer.
        limit: the budget.
        size_limit: how large the file may be; None for any size.
    """

    heads: tuple[int, ...]
    head_cost: NDArray[np.float64]
    filters: tuple[int, ...]
    filter_cost: NDArray[np.float64]
    fixed: float
    limit: float
    size_limit: SizeLimit | None = None

    @classmethod
    def macs(cls, shape: EncoderShape, fraction: float, length: float) -> Costs:
        """Multiply-accumulates at a mean length; the limit is a fraction of the dense encoder's."""
        heads = tuple(range(shape.heads + 1))
        filters = (*range(0, shape.filters, FILTER_STEP), shape.filters)
        return cls(
            heads=heads,
            head_cost=np.array(heads) * shape.macs_per_head(length),
            filters=filters,
            filter_cost=np.array(filters) * shape.macs_per_filter(length),
            fixed=0.0,
            limit=fraction * shape.macs(shape.dense, length),
        )

    @classmethod
    def latency(cls, table: LatencyTable, limit_ms: float) -> Costs:
        """Milliseconds of the measured table, at the widths that were measured."""
        return cls(
            heads=table.heads,
            head_cost=np.array(table.attention_ms),
            filters=table.filters,
            filter_cost=np.array(table.ffn_ms),
            fixed=table.fixed_ms,
            limit=limit_ms,
        )

    @classmethod
    def of(
        cls,
        budget: Budget,
        shape: EncoderShape,
        profile: Profile | None,
        length: float,
        share: float,
        size_limit: SizeLimit | None = None,
    ) -> Costs:
        """In the unit of a budget; ``share`` and errors as in ``budget_limit``."""
        if budget.kind == "macs":
            return replace(cls.macs(shape, budget.value, length), size_limit=size_limit)
        limit = budget_limit(budget, shape, profile, length, share)
        assert profile is not None
        return replace(cls.latency(profile.table, limit), size_limit=size_limit)

    def sublayers(self, rankings: Rankings) -> list[Sublayer]:
        """The search's view: attention and FFN of each layer in turn."""
        factors = rankings.coefficients
        if factors is None:
            factors = np.ones((len(rankings.heads), 2))
        sublayers = []
        for heads, filters, (of_heads, of_filters) in zip(rankings.heads, rankings.filters, factors, strict=True):
            sublayers.append(Sublayer(self.heads, self.head_cost, of_heads * heads.loss[list(self.heads)]))
            sublayers.append(Sublayer(self.filters, self.filter_cost, of_filters * filters.loss[list(self.filters)]))
        return sublayers


def budget_limit(
    budget: Budget, shape: EncoderShape, profile: Profile | None, length: float, share: float = 1.0
) -> float:
    """The number a search has to stay under: MACs, or milliseconds of the profile.

    Args:
        share: part of a latency budget to plan for; the rest absorbs the error of prediction and measurement.

    Raises:
        BudgetUnreachable: embeddings and head alone take longer.
    """
    if budget.kind == "macs":
        return budget.value * shape.macs(shape.dense, length)
    assert profile is not None
    table = profile.table
    limit = budget.latency_ms(profile.dense_ms)
    assert limit is not None
    if limit * share < table.fixed_ms:
        raise BudgetUnreachable(unreachable_message(budget, limit, table.fixed_ms, profile.target))
    return limit * share


def unreachable_message(budget: Budget, limit_ms: float, least_ms: float, target: str) -> str:
    """The message when a latency budget cannot be met."""
    wanted = f"latency {limit_ms:.3g} ms" if budget.kind == "latency_ms" else f"{budget} ({limit_ms:.3g} ms)"
    return (
        f"{wanted} cannot be reached: embeddings and head alone take {least_ms:.3g} ms on '{target}', and that is the "
        "least reachable. Raise the budget, or use a shorter --seq-len, a smaller --batch-size or a smaller model"
    )
