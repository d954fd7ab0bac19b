"""Runs of the pipeline in tests: brief and small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig

LENGTH = 24
BRIEF = {name: replace(effort, profile_seconds=1.0) for name, effort in EFFORT.items()}


def configured(model: Path, data: Path, output: Path, **options: Any) -> RunConfig:
    """Options of a small run on the processor."""
    given = {"seq_len": LENGTH, "samples": 32, "target": "cpu", **options}
    return RunConfig(model=str(model), data=str(data), eval_data=str(data), output=output, **given)
