"""outcomes.json: the result of every evaluation example, so that two artifacts can be compared example by example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import spearman
from compress.tasks.token_classification import f1_of_counts, share_of_counts

FORMAT = 1


class OtherFormat(ValueError):
    """The document is of another version."""


def combiners() -> dict[str, Callable[[NDArray[np.float64]], float] | None]:
    """Every way in which rows of examples become a metric, by the name that files have for it; None is the mean."""
    return {"mean": None, "spearman": spearman, "share": share_of_counts, "f1": f1_of_counts}


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What each example contributes to the metric.

    Attributes:
        metric: its name.
        combine: how rows become the metric, by name.
        data: fingerprint of the evaluation data.
        rows: of the compressed model, a row per example, [n] or [n, parts].
        dense: the same of the dense model; None where the file lacks it.
    """

    metric: str
    combine: str
    data: str
    rows: NDArray[np.float64]
    dense: NDArray[np.float64] | None = None

    def matches(self, other: Outcomes) -> bool:
        """Whether another artifact's rows can be compared with these one by one."""
        return (self.metric, self.combine, self.data, self.rows.shape) == (
            other.metric,
            other.combine,
            other.data,
            other.rows.shape,
        )

    def combiner(self) -> Callable[[NDArray[np.float64]], float] | None:
        """From rows to the metric; None is their mean."""
        return combiners()[self.combine]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "format": FORMAT,
            "metric": self.metric,
            "combine": self.combine,
            "evaluation_sha256": self.data,
            "compressed": self.rows.tolist(),
            **({} if self.dense is None else {"dense": self.dense.tolist()}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Outcomes:
        """Read what ``to_json`` gave.

        Raises:
            OtherFormat: it is of another version.
            ValueError: it is something else.
        """
        try:
            return cls._of(document)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(repr(error)) from None

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Outcomes:
        if document["format"] != FORMAT or document["combine"] not in combiners():
            raise OtherFormat(f"format {document['format']!r}, combine {document['combine']!r}")
        dense = document.get("dense")
        return cls(
            metric=str(document["metric"]),
            combine=document["combine"],
            data=str(document["evaluation_sha256"]),
            rows=_rows(document["compressed"]),
            dense=None if dense is None else _rows(dense),
        )


def _rows(values: Any) -> NDArray[np.float64]:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim not in (1, 2) or not len(rows) or not np.isfinite(rows).all():
        raise ValueError("no table of numbers")
    return rows
