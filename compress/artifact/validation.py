"""What validation.json holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from compress.tasks.base import spearman
from compress.tasks.token_classification import f1_of_counts, share_of_counts

if TYPE_CHECKING:
    pass


EXIT_CODES: dict[str, int] = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}


OUTCOMES_FORMAT = 1


def combiners() -> dict[str, Callable[[NDArray[np.float64]], float] | None]:
    """Every way in which rows of examples become a metric, by the name that files have for it; None is the mean."""
    return {"mean": None, "spearman": spearman, "share": share_of_counts, "f1": f1_of_counts}


def apart(validation: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """validation.json without the outcomes of single examples, and these (None where there are none)."""
    metric = dict(validation["metric"])
    outcomes = metric.pop("outcomes", None)
    return {**validation, "metric": metric}, outcomes
