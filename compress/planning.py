"""From importance, costs and a budget to a plan: which method searches what, in which unit.

The searches themselves (``search.py``) know neither layers nor milliseconds; this module gives them both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.errors import BudgetUnreachable
from compress.importance import Fisher, Rankings
from compress.plan import Budget, EncoderShape, Plan, Structure, Widths
from compress.rearrange import rearranged
from compress.search import Allocation, PiecewiseCost, Sublayer, allocate, search_latency_kwon, search_macs_kwon
from compress.sizing import Room, allocate_within

if TYPE_CHECKING:
    from compress.profile.latency import LatencyTable, PiecewiseLinear, Profile

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
        room: how large the file may be; None for any size.
    """

    heads: tuple[int, ...]
    head_cost: NDArray[np.float64]
    filters: tuple[int, ...]
    filter_cost: NDArray[np.float64]
    fixed: float
    limit: float
    room: Room | None = None

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
        room: Room | None = None,
    ) -> Costs:
        """In the unit of a budget; ``share`` and errors as in ``limit_of``."""
        if budget.kind == "macs":
            return replace(cls.macs(shape, budget.value, length), room=room)
        limit = limit_of(budget, shape, profile, length, share)
        assert profile is not None
        return replace(cls.latency(profile.table, limit), room=room)

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


def search_full(rankings: Rankings, costs: Costs, buckets: int | None = None) -> tuple[Widths, Allocation]:
    """The exact search, whole-sublayer removal included; ``buckets`` as in ``search.allocate``.

    Raises:
        BudgetUnreachable: even with every sublayer removed the budget is not met.
    """
    sublayers = costs.sublayers(rankings)
    if costs.room is None:
        allocation = allocate(sublayers, costs.limit, fixed=costs.fixed, buckets=buckets)
    else:
        costs.room.check()
        sizes = [np.array(costs.heads) * costs.room.per_head, np.array(costs.filters) * costs.room.per_filter]
        allocation = allocate_within(
            sublayers,
            sizes * len(rankings.heads),
            costs.room.limit - costs.room.fixed,
            costs.limit,
            fixed=costs.fixed,
            buckets=buckets,
        )
    return widths_from(allocation.widths(sublayers)), allocation


def widths_from(flat: Sequence[int]) -> Widths:
    """Widths of attention and FFN in turn, as the search has them."""
    return Widths(heads=tuple(flat[0::2]), filters=tuple(flat[1::2]))


def _kwon_structure(
    fisher: Fisher, shape: EncoderShape, budget: Budget, profile: Profile | None, limit: float, length: float
) -> Structure:
    if budget.kind == "macs":
        heads, filters = search_macs_kwon(
            fisher.heads, fisher.filters, shape.macs_per_head(length), shape.macs_per_filter(length), limit
        )
    else:
        assert profile is not None
        heads, filters = search_latency_kwon(
            fisher.heads,
            fisher.filters,
            _cost(profile.attention_fit),
            _cost(profile.ffn_fit),
            limit - profile.table.fixed_ms,
        )
    kept = Rankings.from_fisher(fisher).structure(Widths(tuple(map(int, heads)), tuple(map(int, filters))))
    if fisher.head_blocks is None or fisher.filter_blocks is None:
        return kept
    return Structure(
        heads=tuple(rearranged(block, units) for block, units in zip(fisher.head_blocks, kept.heads, strict=True)),
        filters=tuple(
            rearranged(block, units) for block, units in zip(fisher.filter_blocks, kept.filters, strict=True)
        ),
    )


def _cost(fit: PiecewiseLinear) -> PiecewiseCost:
    return PiecewiseCost(knee=fit.knee, base=fit.base_ms, slope=fit.slope_ms)


def limit_of(budget: Budget, shape: EncoderShape, profile: Profile | None, length: float, share: float = 1.0) -> float:
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
        raise BudgetUnreachable(unreachable(budget, limit, table.fixed_ms, profile.target))
    return limit * share


def unreachable(budget: Budget, limit_ms: float, least_ms: float, target: str) -> str:
    """The message when a latency budget cannot be met."""
    wanted = f"latency {limit_ms:.3g} ms" if budget.kind == "latency_ms" else f"{budget} ({limit_ms:.3g} ms)"
    return (
        f"{wanted} cannot be reached: embeddings and head alone take {least_ms:.3g} ms on '{target}', and that is the "
        "least reachable. Raise the budget, or use a shorter --seq-len, a smaller --batch-size or a smaller model"
    )


def make_plan(
    *,
    shape: EncoderShape,
    budget: Budget,
    method: str,
    rankings: Rankings,
    length: float,
    profile: Profile | None,
    fisher: Fisher | None = None,
    share: float = 1.0,
    seed: int = 0,
    room: Room | None = None,
) -> Plan:
    """Search for the structure that loses least within the budget.

    Args:
        shape: dense sizes.
        budget: MACs, milliseconds or speed-up; the latter two need a profile.
        method: ``full`` or ``kwon``.
        rankings: order of every sublayer's units, and their loss.
        length: mean tokens of an example, for MACs.
        profile: measured or estimated latency; None is enough for a MACs budget.
        fisher: what ``kwon`` searches with; with blocks, it rearranges.
        share: part of a latency budget to plan for.
        seed: recorded in the plan.
        room: how large the file may be, for ``full``; None for any size.

    Raises:
        BudgetUnreachable: no structure is within the budget.
    """
    limit = limit_of(budget, shape, profile, length, share)
    gap = None
    if method == "kwon":
        assert fisher is not None
        structure = _kwon_structure(fisher, shape, budget, profile, limit, length)
    else:
        costs = Costs.of(budget, shape, profile, length, share, room)
        widths, allocation = search_full(rankings, costs)
        structure = rankings.structure(widths)
        everything = sum(float(sublayer.loss[0]) for sublayer in costs.sublayers(rankings))
        gap = round((allocation.gap or 0.0) / max(everything, 1e-30), 6)
    return describe_plan(shape, structure, budget, method, rankings, length, profile, gap, seed)


def describe_plan(
    shape: EncoderShape,
    structure: Structure,
    budget: Budget,
    method: str,
    rankings: Rankings,
    length: float,
    profile: Profile | None,
    gap: float | None,
    seed: int,
) -> Plan:
    """A plan with its figures: MACs, predicted latency, importance kept."""
    widths = structure.widths
    table = profile.table if profile is not None else None
    return Plan(
        shape=shape,
        structure=structure,
        budget=budget,
        method=method,
        macs_fraction=round(shape.macs(widths, length) / shape.macs(shape.dense, length), 6),
        predicted_ms=None if table is None else round(table.predict(widths), 6),
        dense_ms=None if profile is None else round(profile.dense_ms, 6),
        latency_source=None if profile is None else profile.origin,
        importance_kept=round(1.0 - rankings.lost(widths) / max(rankings.total(), 1e-30), 6),
        optimality_gap=gap,
        seed=seed,
    )
