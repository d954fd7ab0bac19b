"""The mask searches of Kwon et al. 2022: under a MACs budget, and under a piecewise-linear latency budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.search.knapsack import _ROUNDING

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PiecewiseCost:
    """The paper's latency of a sublayer: flat up to a knee, then linear; 0 without units.

    Attributes:
        knee: units up to which the cost is the same.
        base: cost up to the knee.
        slope: cost of each further unit.
    """

    knee: int
    base: float
    slope: float

    def __call__(self, width: int) -> float:
        """Cost at a width."""
        return 0.0 if width == 0 else self.base + self.slope * max(0, width - self.knee)


def _greedy_pair(
    heads: Floats, filters: Floats, head_price: float, filter_price: float, budget: float
) -> tuple[int, int]:
    """Algorithm 1 of the paper: the numbers of globally best heads and filters that keep most importance.

    ``heads`` and ``filters`` are sorted, most important first. For each number of heads, as many filters as fit.
    Differences from the published code: numbers of heads that alone exceed the budget are skipped, and units with a
    price of 0 are all kept.
    """
    kept_heads = np.concatenate([[0.0], np.cumsum(heads)])
    kept_filters = np.concatenate([[0.0], np.cumsum(filters)])
    counts = np.arange(len(heads) + 1)
    rest = budget - counts * head_price
    possible = rest >= -_ROUNDING * max(1.0, budget)
    fit = (
        np.full(len(counts), len(filters))
        if filter_price <= 0
        else np.floor(rest / filter_price * (1 + _ROUNDING) + _ROUNDING)
    )
    fit = np.clip(fit, 0, len(filters)).astype(np.int64)
    value = np.where(possible, kept_heads + kept_filters[fit], -np.inf)
    best = int(np.argmax(value))
    return best, int(fit[best])


def _counts(importance: Floats, threshold_rank: int) -> NDArray[np.int64]:
    """How many of the globally best ``threshold_rank`` units each layer has; importance [layers, units]."""
    order = np.argsort(-importance, axis=None, kind="stable")[:threshold_rank]
    return np.bincount(order // importance.shape[1], minlength=importance.shape[0])


def search_macs_kwon(
    heads: Floats, filters: Floats, head_macs: float, filter_macs: float, budget: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask search under a MACs constraint (Kwon et al. 2022, Algorithm 1).

    Difference from the published code: the budget also holds if the heads alone would exceed it.

    Args:
        heads: diagonal Fisher, [layers, heads].
        filters: diagonal Fisher, [layers, filters].
        head_macs: MACs of one head.
        filter_macs: MACs of one filter.
        budget: MACs of all sublayers together.

    Returns:
        Heads and filters kept per layer.
    """
    best_heads, best_filters = _greedy_pair(
        -np.sort(-heads, axis=None), -np.sort(-filters, axis=None), head_macs, filter_macs, budget
    )
    return _counts(heads, best_heads), _counts(filters, best_filters)


def search_latency_kwon(
    heads: Floats, filters: Floats, attention: PiecewiseCost, ffn: PiecewiseCost, budget: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask search under a latency constraint (Kwon et al. 2022, section 4.1 and appendix).

    A sublayer that stays keeps its best units up to the knee, at the base price. The units beyond the knees compete
    globally at the slope's price. The search tries all numbers of attention and FFN sublayers, and drops those whose
    base units have the least importance.

    Differences from the published code:

    - Each combination starts from the full budget. There, the inner loop lowers it cumulatively, so that few
      combinations are explored and low budgets end in an error.
    - The importance of the base units counts.
    - With a slope of 0, units beyond the knee are free; there, it is a division by zero.
    - The budget may be any number of milliseconds.

    Args:
        heads: diagonal Fisher, [layers, heads].
        filters: diagonal Fisher, [layers, filters].
        attention: fitted latency of an attention sublayer.
        ffn: fitted latency of an FFN sublayer.
        budget: for all sublayers together, in the unit of the fits, without the fixed part (embeddings, head).

    Returns:
        Heads and filters kept per layer; all zero if not even one sublayer fits.
    """
    layers = len(heads)
    sorted_heads, sorted_filters = -np.sort(-heads, axis=1), -np.sort(-filters, axis=1)
    knees = min(attention.knee, heads.shape[1]), min(ffn.knee, filters.shape[1])
    base_heads, base_filters = sorted_heads[:, : knees[0]].sum(1), sorted_filters[:, : knees[1]].sum(1)
    heads_by_base, filters_by_base = np.argsort(-base_heads, kind="stable"), np.argsort(-base_filters, kind="stable")
    best_value, best = -1.0, (np.zeros(layers, dtype=np.int64), np.zeros(layers, dtype=np.int64))
    for stay_attention in range(layers, -1, -1):
        for stay_ffn in range(layers, -1, -1):
            rest = budget - stay_attention * attention.base - stay_ffn * ffn.base
            if rest < 0:
                continue
            in_attention = np.sort(heads_by_base[:stay_attention])
            in_ffn = np.sort(filters_by_base[:stay_ffn])
            more_heads, more_filters = sorted_heads[in_attention, knees[0] :], sorted_filters[in_ffn, knees[1] :]
            count_heads, count_filters = _greedy_pair(
                -np.sort(-more_heads, axis=None), -np.sort(-more_filters, axis=None), attention.slope, ffn.slope, rest
            )
            head_counts, filter_counts = np.zeros(layers, dtype=np.int64), np.zeros(layers, dtype=np.int64)
            head_counts[in_attention] = knees[0] + _beyond(more_heads, count_heads)
            filter_counts[in_ffn] = knees[1] + _beyond(more_filters, count_filters)
            value = _kept(sorted_heads, head_counts) + _kept(sorted_filters, filter_counts)
            if value > best_value:
                best_value, best = value, (head_counts, filter_counts)
    return best


def _beyond(more: Floats, count: int) -> NDArray[np.int64]:
    return _counts(more, count) if more.size else np.zeros(len(more), dtype=np.int64)


def _kept(ranked: Floats, counts: NDArray[np.int64]) -> float:
    return float(sum(row[:count].sum() for row, count in zip(ranked, counts, strict=True)))
