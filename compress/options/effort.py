"""The levels of ``--effort``: how much is measured, searched and trained.

Everything but measuring is counted, not timed, so that equal inputs give equal plans and weights on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """One level of effort.

    Attributes:
        profile_seconds: seconds of measuring for a latency profile.
        candidates: most structures that the search tries out (``search/spdy.py``), beside its first.
        epochs: least passes over the calibration examples in joint reconstruction (``reconstruction/joint.py``).
        most_epochs: most passes. The smaller the pruned model, the more there are in the same time.
        most_flops: bound on the cost of those passes; None for none. Large models on long texts get fewer steps.
        further: examples beside those of calibration that joint reconstruction draws from the data.
    """

    profile_seconds: float
    candidates: int
    epochs: int
    most_epochs: int
    most_flops: float | None
    further: int


# Standard tries no structures: joint reconstruction makes those of the plain search as good (docs/methods.md#search).
EFFORT = {
    "fast": Effort(profile_seconds=10.0, candidates=0, epochs=0, most_epochs=0, most_flops=0.0, further=0),
    "standard": Effort(profile_seconds=10.0, candidates=0, epochs=4, most_epochs=48, most_flops=4e13, further=16_384),
    "thorough": Effort(profile_seconds=90.0, candidates=96, epochs=16, most_epochs=64, most_flops=None, further=32_768),
}
