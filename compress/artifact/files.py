"""Names of an artifact's files, and JSON as they have it."""

from __future__ import annotations

import json
from typing import Any

MODEL = "model.onnx"
PLAN = "plan.json"
PROFILE = "profile.json"
VALIDATION = "validation.json"
OUTCOMES = "outcomes.json"
TRADE_OFF = "tradeoff.json"
TRAINING = "training.csv"
CARD = "README.md"
SWEEP = "sweep.json"


def dump(document: Any) -> str:
    """JSON as all files of an artifact have it."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def compact(document: Any) -> str:
    """JSON on one line, for files of many numbers that nobody reads."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n"
