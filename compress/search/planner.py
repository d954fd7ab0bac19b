"""From importance, costs and a budget to a plan: which method searches what, in which unit.

The searches themselves (``search/knapsack.py``) know neither layers nor milliseconds; this module gives them both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from compress.core.importance import Fisher, Rankings
from compress.core.plan import Budget, EncoderShape, Plan, Structure, Widths
from compress.search.costs import Costs, limit_of
from compress.search.knapsack import Allocation, allocate
from compress.search.kwon import PiecewiseCost, search_latency_kwon, search_macs_kwon
from compress.search.rearrange import rearranged
from compress.search.size_limit import Room, allocate_within

if TYPE_CHECKING:
    from compress.profile.take import PiecewiseLinear, Profile


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
