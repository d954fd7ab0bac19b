"""Values of a metric: over all units, and over parts of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.tasks.standing import spearman as spearman

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Measured:
    """A metric and the scores it is computed from, so that it can be resampled.

    Attributes:
        name: name of the metric.
        scores: one row per unit (a text, a pair, a question): [units], or [units, parts].
        combine: computes the metric from such rows; None takes their mean.
        also: further metrics of the same units.
    """

    name: str
    scores: NDArray[np.float64]
    combine: Callable[[NDArray[np.float64]], float] | None = None
    also: tuple[Measured, ...] = ()

    @property
    def value(self) -> float:
        """The metric over all units; NaN without units."""
        if not len(self.scores):
            return float("nan")
        return float(self.scores.mean()) if self.combine is None else self.combine(self.scores)


@dataclass(frozen=True)
class Slice:
    """The metric on a part of the evaluation data: one class, one type of span.

    Attributes:
        name: name of the part.
        count: number of texts, spans or questions in the part.
        measured: the metric on the part; its rows have the same order for every model.
    """

    name: str
    count: int
    measured: Measured
