"""Costs of widths in the unit of a budget, and the budget's limit."""

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


# Under a MACs budget any width is possible; multiples of this suit vector units and cost no measurable accuracy.
FILTER_STEP = 8


@dataclass(frozen=True)
class Costs:
    """Costs of widths, in the unit of a budget.

    Attributes:
        heads: possible widths of attention, ascending from 0.
        head_cost: cost of one attention sublayer at each of these widths.
        filters: possible widths of the FFN, ascending from 0.
        filter_cost: cost of one FFN sublayer at each of these widths.
        fixed: cost of everything that is not a sublayer.
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
        """Costs in multiply-accumulates.

        Args:
            shape: the dense encoder.
            fraction: of the dense encoder's MACs; the limit.
            length: mean tokens of an example.

        Returns:
            Costs of all numbers of heads, and of filters in steps of ``FILTER_STEP``.
        """
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
        """Costs in milliseconds, at the widths of a latency table.

        Args:
            table: measured or estimated.
            limit_ms: the limit.

        Returns:
            The table's costs.
        """
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
        """Costs in the unit of a budget.

        Args:
            budget: MACs, milliseconds or speed-up; the latter two need a profile.
            shape: the dense encoder.
            profile: latency; None is enough for a MACs budget.
            length: mean tokens of an example.
            share: part of a latency budget to plan for; the rest absorbs errors of prediction and measurement.
            size_limit: how large the file may be; None for any size.

        Returns:
            Costs and the limit.

        Raises:
            BudgetUnreachable: embeddings and head alone take longer.
        """
        if budget.kind == "macs":
            return replace(cls.macs(shape, budget.value, length), size_limit=size_limit)
        limit = budget_limit(budget, shape, profile, length, share)
        assert profile is not None
        return replace(cls.latency(profile.table, limit), size_limit=size_limit)

    def sublayers(self, rankings: Rankings) -> list[Sublayer]:
        """The sublayers for a search, with costs and losses: attention and FFN of each layer in turn."""
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
    """The budget as a number: MACs, or milliseconds of the profile.

    Args:
        budget: MACs, milliseconds or speed-up; the latter two need a profile.
        shape: the dense encoder.
        profile: latency; None is enough for a MACs budget.
        length: mean tokens of an example.
        share: part of a latency budget to plan for; the rest absorbs errors of prediction and measurement.

    Returns:
        The limit of the search.

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
    """The message for a latency budget that cannot be reached.

    Args:
        budget: as the user gave it.
        limit_ms: the same in milliseconds.
        least_ms: milliseconds of the embeddings and the head.
        target: name of the target.

    Returns:
        The budget, why it cannot be reached, and what to change.
    """
    wanted = f"latency {limit_ms:.3g} ms" if budget.kind == "latency_ms" else f"{budget} ({limit_ms:.3g} ms)"
    return (
        f"{wanted} cannot be reached: embeddings and head alone take {least_ms:.3g} ms on '{target}', and that is the "
        "least reachable. Raise the budget, or use a shorter --seq-len, a smaller --batch-size or a smaller model"
    )
