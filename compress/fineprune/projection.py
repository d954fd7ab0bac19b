"""From scores to a structure within a budget, by the search of the post-training path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.core.importance import Ranking, Rankings, rank_losses
from compress.core.plan import EncoderShape, Structure, Widths
from compress.search.costs import Costs
from compress.search.planner import search_full

# Quanta of the budget and FFN widths of a projection during training: about ten milliseconds at BERT-base's size.
BUCKETS = 600
WIDTHS = 33


def dense_cost(costs: Costs, layers: int) -> float:
    """Cost of the dense model, in the budget's unit, at which a schedule begins.

    Args:
        costs: of widths.
        layers: of the model.
    """
    return costs.fixed + layers * float(costs.head_cost[-1] + costs.filter_cost[-1])


def cost_of(costs: Costs, widths: Widths) -> float:
    """Cost of a structure, fixed part included, in the budget's unit.

    Args:
        costs: of widths.
        widths: of every layer, all of them on offer in ``costs``.
    """
    heads = dict(zip(costs.heads, costs.head_cost, strict=True))
    filters = dict(zip(costs.filters, costs.filter_cost, strict=True))
    return costs.fixed + float(sum(heads[n] for n in widths.heads) + sum(filters[n] for n in widths.filters))


def unit_costs(costs: Costs) -> tuple[float, float]:
    """Average cost of a head and of a filter, in the budget's unit."""
    return float(costs.head_cost[-1]) / costs.heads[-1], float(costs.filter_cost[-1]) / costs.filters[-1]


def coarse(costs: Costs) -> Costs:
    """The same costs with fewer FFN widths on offer, 0 and all among them."""
    if len(costs.filters) <= WIDTHS:
        return costs
    chosen = np.unique(np.linspace(0, len(costs.filters) - 1, WIDTHS).round().astype(np.int64))
    return replace(
        costs, filters=tuple(costs.filters[i] for i in chosen), filter_cost=np.asarray(costs.filter_cost)[chosen]
    )


def project(
    heads: NDArray[np.float64], filters: NDArray[np.float64], costs: Costs, limit: float, *, exact: bool = False
) -> Structure:
    """The structure of most importance within a limit.

    Args:
        heads: importance of every head, not negative, [layers, heads].
        filters: importance of every filter in the same unit, [layers, filters].
        costs: of widths; their own limit is ignored.
        limit: on the whole model's cost.
        exact: search among all widths on offer with all quanta of the budget. Otherwise among fewer, in milliseconds.

    Raises:
        BudgetUnreachable: the limit is not met even with every sublayer removed.
    """
    rankings = Rankings(
        heads=tuple(Ranking(*rank_losses(row)) for row in heads),
        filters=tuple(Ranking(*rank_losses(row)) for row in filters),
    )
    offered = replace(costs if exact else coarse(costs), limit=limit)
    widths, _ = search_full(rankings, offered, buckets=None if exact else BUCKETS)
    return rankings.structure(widths)


def importance_of(rankings: Rankings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Importance of every unit in the post-training search, [layers, units] each.

    A unit's importance is the loss that its sublayer gains when the unit is removed in its turn, times the sublayer's
    coefficient if whole structures were tried out. Law: where the losses of the rankings are convex, projecting this
    importance exactly gives the structure of the rankings.
    """
    layers = len(rankings.heads)
    factors = np.ones((layers, 2)) if rankings.coefficients is None else rankings.coefficients
    return (
        np.stack([_marginal(r, factors[i, 0]) for i, r in enumerate(rankings.heads)]),
        np.stack([_marginal(r, factors[i, 1]) for i, r in enumerate(rankings.filters)]),
    )


def _marginal(ranking: Ranking, factor: float) -> NDArray[np.float64]:
    steps = np.maximum(ranking.loss[:-1] - ranking.loss[1:], 0.0)
    # They grow in the order of removal. Where noise lets one fall, the order of the units must still be kept.
    steps = np.maximum.accumulate(steps[::-1])[::-1]
    importance = np.empty_like(steps)
    importance[ranking.order] = factor * steps
    return importance


def masks_of(structure: Structure, shape: EncoderShape) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of a structure, [layers, heads] and [layers, filters].

    Args:
        structure: the units that stay.
        shape: sizes of the dense encoder.
    """
    masks = np.zeros((shape.layers, shape.heads), dtype=bool), np.zeros((shape.layers, shape.filters), dtype=bool)
    for mask, layers in zip(masks, (structure.heads, structure.filters), strict=True):
        for row, units in zip(mask, layers, strict=True):
            row[list(units)] = True
    return masks
