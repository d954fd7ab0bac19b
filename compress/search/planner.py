"""From importance, costs and a budget to a plan.

The searches themselves (``search/knapsack.py``, ``search/kwon.py``) know neither layers nor milliseconds; this module
gives them both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.core.importance import Fisher, Rankings
from compress.core.plan import Budget, EncoderShape, Plan, Structure, Widths
from compress.search.costs import Costs, budget_limit
from compress.search.knapsack import Allocation, allocate
from compress.search.kwon import PiecewiseCost, search_latency_kwon, search_macs_kwon
from compress.search.rearrange import rearrange
from compress.search.size_limit import SizeLimit, allocate_within

if TYPE_CHECKING:
    from compress.profile.take import PiecewiseLinear, Profile


@dataclass(frozen=True)
class SearchProblem:
    """The input of a search, except the importance of the units.

    Attributes:
        shape: dense sizes of the encoder.
        budget: MACs, milliseconds or speed-up; the latter two need a profile.
        method: ``full`` (exact search) or ``kwon`` (the searches of Kwon et al. 2022).
        length: mean tokens of an example, for MACs.
        profile: measured or estimated latency; None is enough for a MACs budget.
        share: part of a latency budget to plan for; the rest absorbs errors of prediction and measurement.
        seed: recorded in the plan.
        size_limit: how large the file may be, for ``full``; None for any size.
    """

    shape: EncoderShape
    budget: Budget
    method: str
    length: float
    profile: Profile | None = None
    share: float = 1.0
    seed: int = 0
    size_limit: SizeLimit | None = None

    @property
    def limit(self) -> float:
        """The budget as a number: MACs, or milliseconds of the profile.

        Raises:
            BudgetUnreachable: embeddings and head alone take longer.
        """
        return budget_limit(self.budget, self.shape, self.profile, self.length, self.share)

    @property
    def costs(self) -> Costs:
        """Costs of widths in the budget's unit.

        Raises:
            BudgetUnreachable: embeddings and head alone take longer.
        """
        return Costs.of(self.budget, self.shape, self.profile, self.length, self.share, self.size_limit)


def search_full(rankings: Rankings, costs: Costs, buckets: int | None = None) -> tuple[Widths, Allocation]:
    """Search the widths of least loss exactly; whole sublayers may be removed.

    Args:
        rankings: order of every sublayer's units, and their loss.
        costs: costs of widths, the budget, and the size limit if there is one.
        buckets: quanta of the budget, see ``allocate``; None for as many as take a second or less.

    Returns:
        The widths, and the allocation that they come from.

    Raises:
        BudgetUnreachable: even with every sublayer removed the budget is not met.
    """
    sublayers = costs.sublayers(rankings)
    if costs.size_limit is None:
        allocation = allocate(sublayers, costs.limit, fixed=costs.fixed, buckets=buckets)
    else:
        file = costs.size_limit
        file.check()
        sizes = [np.array(costs.heads) * file.per_head, np.array(costs.filters) * file.per_filter]
        allocation = allocate_within(
            sublayers,
            sizes * len(rankings.heads),
            file.limit - file.fixed,
            costs.limit,
            fixed=costs.fixed,
            buckets=buckets,
        )
    return to_widths(allocation.widths(sublayers)), allocation


def to_widths(flat: Sequence[int]) -> Widths:
    """Split widths in the search's order, attention and FFN of each layer in turn, by kind."""
    return Widths(heads=tuple(flat[0::2]), filters=tuple(flat[1::2]))


def _kwon_structure(fisher: Fisher, problem: SearchProblem) -> Structure:
    shape, limit = problem.shape, problem.limit
    if problem.budget.kind == "macs":
        heads, filters = search_macs_kwon(
            fisher.heads,
            fisher.filters,
            shape.macs_per_head(problem.length),
            shape.macs_per_filter(problem.length),
            limit,
        )
    else:
        profile = problem.profile
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
        heads=tuple(rearrange(block, units) for block, units in zip(fisher.head_blocks, kept.heads, strict=True)),
        filters=tuple(rearrange(block, units) for block, units in zip(fisher.filter_blocks, kept.filters, strict=True)),
    )


def _cost(fit: PiecewiseLinear) -> PiecewiseCost:
    return PiecewiseCost(knee=fit.knee, base=fit.base_ms, slope=fit.slope_ms)


def make_plan(
    problem: SearchProblem, rankings: Rankings, fisher: Fisher | None = None, buckets: int | None = None
) -> Plan:
    """Search for the structure that loses least within the budget.

    Args:
        problem: encoder, budget, method and their settings.
        rankings: order of every sublayer's units, and their loss.
        fisher: importance for ``kwon``; if it has blocks, units are rearranged. None is enough for ``full``.
        buckets: quanta of the budget, for ``full``, see ``allocate``; None for as many as take a second or less.

    Returns:
        The plan, with its figures.

    Raises:
        BudgetUnreachable: no structure is within the budget.
    """
    gap = None
    if problem.method == "kwon":
        assert fisher is not None
        structure = _kwon_structure(fisher, problem)
    else:
        costs = problem.costs
        widths, allocation = search_full(rankings, costs, buckets)
        structure = rankings.structure(widths)
        everything = sum(float(sublayer.loss[0]) for sublayer in costs.sublayers(rankings))
        gap = round((allocation.gap or 0.0) / max(everything, 1e-30), 6)
    return describe_plan(problem, structure, rankings, gap)


def describe_plan(problem: SearchProblem, structure: Structure, rankings: Rankings, gap: float | None) -> Plan:
    """Make the plan of a structure, with its figures: MACs, predicted latency, importance kept.

    Args:
        problem: encoder, budget and method, which the plan records, and the profile that predicts latency.
        structure: heads and filters to keep.
        rankings: losses, for the share of the importance that is kept.
        gap: bound on the distance from the optimum, as a share of all importance; None if there is none.

    Returns:
        The plan; without predicted latency if the problem has no profile.
    """
    shape, profile, widths = problem.shape, problem.profile, structure.widths
    table = profile.table if profile is not None else None
    return Plan(
        shape=shape,
        structure=structure,
        budget=problem.budget,
        method=problem.method,
        macs_fraction=round(shape.macs(widths, problem.length) / shape.macs(shape.dense, problem.length), 6),
        predicted_ms=None if table is None else round(table.predict(widths), 6),
        dense_ms=None if profile is None else round(profile.dense_ms, 6),
        latency_source=None if profile is None else profile.origin,
        importance_kept=round(1.0 - rankings.lost(widths) / max(rankings.total(), 1e-30), 6),
        optimality_gap=gap,
        seed=problem.seed,
    )
