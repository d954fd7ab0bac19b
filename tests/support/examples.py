"""Random tokens for calibration."""

from __future__ import annotations

import numpy as np

from compress.data.batches import Encoded


def examples(count: int = 9, seed: int = 0, labels: bool = True) -> Encoded:
    """Random tokens of uneven lengths, with random labels or none."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 200, size=int(n)) for n in rng.integers(3, 12, size=count)]
    return Encoded(
        features={"input_ids": rows, "attention_mask": [np.ones_like(r) for r in rows]},
        labels=rng.integers(0, 2, size=count) if labels else None,
        padding={"input_ids": 0, "attention_mask": 0},
    )
