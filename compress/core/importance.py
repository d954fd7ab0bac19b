"""Importance of heads and filters, as the search reads it: values without tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.plan import Structure, Widths


@dataclass(frozen=True)
class Fisher:
    """Fisher information of the gates.

    Attributes:
        heads: diagonal, [layers, heads].
        filters: diagonal, [layers, filters].
        head_blocks: blocks within each layer, [layers, heads, heads]; None where they were not computed.
        filter_blocks: blocks within each layer, [layers, filters, filters]; None where they were not computed.
        samples: number of examples behind the means.
        label_free: whether labels were drawn from the model's own predictions.
    """

    heads: NDArray[np.float64]
    filters: NDArray[np.float64]
    head_blocks: NDArray[np.float32] | None
    filter_blocks: NDArray[np.float32] | None
    samples: int
    label_free: bool


def rank_losses(importance: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rank a sublayer's units by importance.

    Args:
        importance: importance of each unit, [units].

    Returns:
        The units, most important first (ties by index), [units]; and the importance lost when the first n of them are
        kept, [units + 1] for n = 0..units.
    """
    order = np.argsort(-importance, kind="stable")
    kept = np.concatenate([[0.0], np.cumsum(importance[order])])
    return order, np.maximum(kept[-1] - kept, 0.0)


@dataclass(frozen=True)
class Ranking:
    """A sublayer's units from the most to the least important, and the loss of keeping only the first n.

    Attributes:
        order: units, most important first, [units].
        loss: loss of keeping the first n, [units + 1] for n = 0..units; 0 at the end.
    """

    order: NDArray[np.int64]
    loss: NDArray[np.float64]

    def first(self, count: int) -> tuple[int, ...]:
        """Return the ``count`` most important units, ascending."""
        return tuple(np.sort(self.order[:count]).tolist())


@dataclass(frozen=True)
class Rankings:
    """Rankings of all sublayers, by layer.

    Attributes:
        heads: ranking of each layer's heads.
        filters: ranking of each layer's filters.
        coefficients: factors by which the search multiplies the losses of each layer's attention and FFN, [layers, 2];
            None for ones. Reported losses stay in their own unit, so that plans can be compared.
    """

    heads: tuple[Ranking, ...]
    filters: tuple[Ranking, ...]
    coefficients: NDArray[np.float64] | None = None

    @classmethod
    def from_fisher(cls, fisher: Fisher) -> Rankings:
        """Return rankings by the diagonal: losses of units add up."""
        return cls(
            heads=tuple(Ranking(*rank_losses(row)) for row in fisher.heads),
            filters=tuple(Ranking(*rank_losses(row)) for row in fisher.filters),
        )

    @classmethod
    def none(cls) -> Rankings:
        """Return no rankings: for a plan that keeps everything."""
        return cls((), ())

    def total(self) -> float:
        """Return the loss of keeping nothing: the scale of every loss."""
        return float(sum(r.loss[0] for r in (*self.heads, *self.filters)))

    def lost(self, widths: Widths) -> float:
        """Return the loss of these widths."""
        if not self.heads:
            return 0.0
        heads = sum(float(r.loss[n]) for r, n in zip(self.heads, widths.heads, strict=True))
        return heads + sum(float(r.loss[n]) for r, n in zip(self.filters, widths.filters, strict=True))

    def structure(self, widths: Widths) -> Structure:
        """Return the most important units for these widths."""
        return Structure(
            heads=tuple(r.first(n) for r, n in zip(self.heads, widths.heads, strict=True)),
            filters=tuple(r.first(n) for r, n in zip(self.filters, widths.filters, strict=True)),
        )


@dataclass(frozen=True)
class Importance:
    """Importance of all units, by the method of the run.

    Attributes:
        rankings: order of every sublayer's units, and their loss.
        fisher: importance of Kwon et al., 2022, for ``kwon``; None for ``full``.
    """

    rankings: Rankings
    fisher: Fisher | None
