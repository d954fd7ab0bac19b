"""Runs of the pipeline in tests: brief, small, and on what the session has computed before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress import pipeline
from compress.artifact.validation import EXIT_CODES
from compress.core.plan import Plan
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig
from compress.stages import present_device

LENGTH = 24
BRIEF = {name: replace(effort, profile_seconds=0.5) for name, effort in EFFORT.items()}


def configured(model: Path, data: Path, output: Path, **options: Any) -> RunConfig:
    """Options of a small run on the processor; a random model is at chance."""
    given = {"seq_len": LENGTH, "samples": 32, "target": "cpu", "allow_chance": True, **options}
    return RunConfig(model=str(model), data=str(data), eval_data=str(data), output=output, **given)


def run(config: RunConfig) -> pipeline.RunResult:
    """A run that uses what earlier ones of this session have stored: exports, profiles, calibrations.

    Tests of what is measured anew call ``pipeline.run``.
    """
    return pipeline.run(config, resume=True)


def measure_briefly(patch: pytest.MonkeyPatch, **effort: Any) -> None:
    """Time for a moment: for tests that assert on no time.

    Args:
        patch: undoes it.
        effort: other fields of ``Effort``, at every ``--effort``.
    """
    patch.setattr(present_device, "EFFORT", {name: replace(brief, **effort) for name, brief in BRIEF.items()})
    patch.setattr(present_device, "CHECK_SECONDS", 0.05)
    patch.setattr(present_device, "FORM_SECONDS", 0.02)
    patch.setattr("compress.stages.validate.MEASURE_SECONDS", (0.05,))


def check_time_spent(out: Path) -> list[dict[str, Any]]:
    """Assert that an artifact says of every stage where its time went, and what of it was stored.

    Returns:
        The parts.
    """
    manifest = json.loads((out / "manifest.json").read_text())
    parts: list[dict[str, Any]] = manifest["spent"]["parts"]
    assert [part["stage"] for part in parts if not part["part"]] == list(dict.fromkeys(part["stage"] for part in parts))
    assert {part["stage"] for part in parts} == manifest["seconds"].keys()
    assert sum(part.get("stored", 0) for part in parts) == len(manifest["reused"])
    assert "Where the time of the run went" in (out / "report.html").read_text()
    return parts


def check_verdict(out: Path, code: int | None = None) -> None:
    """Assert that an artifact's verdict follows from its interval and its budget, and the exit code from the verdict.

    Args:
        out: the artifact.
        code: that the command ended with; None to look at the artifact alone.
    """
    validation, plan = json.loads((out / "validation.json").read_text()), Plan.read(out)
    verdict, budget = validation["verdict"], plan.budget
    if budget.kind == "macs":
        assert plan.macs_fraction <= budget.value and verdict == "pass"
    elif budget.kind == "speedup" and budget.value <= 1 and plan.structure.widths == plan.shape.dense:
        assert verdict == "pass"
    else:
        # Both as "at least"; the file has four digits, and an end of the interval may lie that near to the budget.
        sign = 1 if budget.kind == "speedup" else -1
        ends = validation["speedup" if budget.kind == "speedup" else "latency_ms"]["ci95"]
        low, high = sorted(sign * end for end in ends)
        limit, digit = sign * budget.value, 1e-4
        expected = {
            "pass": low >= limit - digit,
            "fail": high < limit + digit,
            "inconclusive": low < limit + digit and high >= limit - digit,
        }
        assert expected[verdict], (verdict, ends, budget)
    assert code is None or code == EXIT_CODES[verdict]
