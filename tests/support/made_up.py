"""An artifact for tests of what reads one: its JSON files with made-up figures, and no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.artifact.manifest import write_manifest
from compress.core.plan import Budget, EncoderShape, Plan, Structure
from compress.profile.latency_profile import Check, CurvePoint, Profile
from compress.profile.latency_table import LatencyTable, fit_piecewise

SHAPE = EncoderShape("bert", 3, 24, 4, 6, 20)
STRUCTURE = Structure(heads=((0, 2), (), (0, 1, 2, 3)), filters=(tuple(range(20)), (1, 5, 7), ()))
PLAN = Plan(
    shape=SHAPE,
    structure=STRUCTURE,
    budget=Budget("speedup", 2.0),
    method="full",
    macs_fraction=0.5,
    predicted_ms=4.9,
    dense_ms=10.0,
    latency_source="measured",
    importance_kept=0.987,
    optimality_gap=0.0002,
)
_TABLE = LatencyTable(
    layers=3,
    heads=(0, 1, 2, 3, 4),
    attention_ms=(0.0, 0.8, 0.8, 1.0, 1.4),
    filters=(0, 8, 16, 20),
    ffn_ms=(0.0, 0.7, 1.1, 1.5),
    fixed_ms=1.3,
)
PROFILE = Profile(
    table=_TABLE,
    attention_fit=fit_piecewise(_TABLE.heads, _TABLE.attention_ms),
    ffn_fit=fit_piecewise(_TABLE.filters, _TABLE.ffn_ms),
    shape=SHAPE,
    batch_size=1,
    seq_len=64,
    precision="fp32",
    target="cpu",
    device={"processor": "made up", "threads": 2},
    source="measured",
    date="2026-11-22T00:00:00+00:00",
    points=(CurvePoint("attention", 2, 0.81, 5.0, 0.01, 9.0), CurvePoint("ffn", 8, 0.69, 5.0, 0.01, 9.0)),
    check=(Check((2, 2, 2), (8, 8, 8), 6.0, 5.8, 0.0345), Check((4, 0, 4), (20, 0, 8), 5.9, 6.0, -0.0167)),
)
VALIDATION: dict[str, Any] = {
    "latency_ms": {
        "dense": 10.0,
        "compressed": 4.8,
        "budget": 5.0,
        "predicted": 4.9,
        "ci95": [4.7, 4.95],
        "rounds": 300,
        "source": "measured",
    },
    "speedup": {"value": 2.0833, "ci95": [2.01, 2.13]},
    "metric": {
        "name": "accuracy",
        "dense": 0.9,
        "compressed": 0.89,
        "ci95": [0.87, 0.91],
        "drop": {"value": 0.01, "ci95": [-0.004, 0.024]},
        "examples": 872,
    },
    "size_bytes": {"dense": 90_900_000, "compressed": 60_000_000},
    "macs": {"dense": 1000, "compressed": 500, "fraction": 0.5, "length": 13.2},
    "parity": {"max_abs_diff": 2.7e-6},
    "invariance": {
        "batch": 0.25,
        "order": 0.5,
        "padding": None,
        "largest": 0.5,
        "changed": 0.0625,
        "examples": 128,
        "batch_size": 32,
        "padded_by": 0,
    },
    "verdict": "pass",
    "reason": "speed-up 2.083 (95 % interval 2.010 to 2.130), budget 2",
    "deployment": {
        "target": "cpu",
        "batch_size": 1,
        "seq_len": 64,
        "precision": "fp32",
        "engine": {"precision": "fp32", "left_out": ["layer.2"]},
        "device": {"processor": "made up", "threads": 2},
    },
    "slices": {
        "by": "class",
        "rows": [
            {
                "name": name,
                "count": count,
                "metric": "recall",
                "dense": 0.9,
                "compressed": 0.89,
                "ci95": [0.85, 0.93],
                "drop": {"value": 0.01, "ci95": [-0.01, 0.03]},
            }
            for name, count in (("positive", 444), ("negative", 428))
        ],
    },
    "candidates": [
        {
            "precision": "int8",
            "engine": "int8 dynamic",
            "macs_fraction": 0.9,
            "heads": [4, 4, 4],
            "filters": [20, 20, 16],
            "predicted_ms": 4.9,
            "latency_ms": None,
            "metric": None,
            "size_bytes": None,
            "outcome": "not finished: keeps less",
        },
        {
            "precision": "fp32",
            "engine": "fp32",
            "macs_fraction": 0.5,
            "heads": [2, 0, 4],
            "filters": [20, 3, 0],
            "predicted_ms": 4.9,
            "latency_ms": 4.8,
            "speedup": 2.0833,
            "metric": 0.89,
            "size_bytes": 60_000_000,
            "verdict": "pass",
            "outcome": "chosen",
        },
    ],
    "chosen_because": "fp32: keeps 50% of the MACs. Others: int8: not finished",
    "date": "2026-11-22T10:00:00+00:00",
}
TRADE_OFF = [
    {"latency_ms": ms, "importance_kept": kept, "macs_fraction": ms / 10}
    for ms, kept in ((2.0, 0.4), (4.0, 0.9), (6.0, 0.99), (10.0, 1.0))
]
FACTS: dict[str, Any] = {
    "configuration": {"model": "path/to/minilm", "speedup": 2.0, "seed": 0, "target": "cpu"},
    "origins": {"model": "command line", "speedup": "command line", "seed": "default", "target": "compress.toml"},
    "model": {"name": "path/to/minilm", "sha256": "a" * 64},
    "data": {
        "calibration": {"examples": 512, "sha256": "b" * 64},
        "evaluation": {"examples": 872, "sha256": "c" * 64},
    },
    "seed": 0,
    "task": {"name": "text-classification"},
    "device": {"processor": "made up", "threads": 2},
    "seconds": {"load": 3.5, "profile": 45.0, "validate": 12.25},
    "reused": [{"stage": "profile", "label": "m, fp32", "seconds": 45.0}],
    "date": "2026-11-22T10:00:00+00:00",
    "command": ["compress", "run", "path/to/minilm", "--speedup", "2"],
}
# What a run knows of its own time since 0.2.0; artifacts of 0.1.0 have seconds per stage only.
SPENT: dict[str, Any] = {
    "cores": 2,
    "parts": [
        {"stage": "load", "part": [], "count": 1, "seconds": 3.5, "cores": 1.0},
        {"stage": "profile", "part": [], "count": 1, "seconds": 0.5, "cores": 1.0, "stored": 1, "stored_seconds": 45.0},
        {"stage": "search", "part": [], "count": 2, "seconds": 40.0, "cores": 1.5},
        {"stage": "search", "part": ["try-out"], "count": 1, "seconds": 22.0, "cores": 1.8},
        {"stage": "search", "part": ["try-out", "sketch"], "count": 12, "seconds": 21.5, "cores": 1.9},
        {
            "stage": "search",
            "part": ["check"],
            "count": 3,
            "seconds": 8.0,
            "cores": 1.0,
            "stored": 2,
            "stored_seconds": 9,
        },
    ],
}
POINTS = [
    {
        "budget": budget,
        "precision": precision,
        "engine": precision,
        "macs_fraction": 0.5,
        "latency_ms": ms,
        "latency_ci95": [ms * 0.95, ms * 1.05],
        "speedup": 10.0 / ms,
        "speedup_ci95": [9.5 / ms, 10.5 / ms],
        "metric": metric,
        "metric_ci95": [metric - 0.02, metric + 0.02],
        "size_bytes": 60_000_000,
        "verdict": "pass",
        "refused": refused,
        "front": front,
    }
    for budget, precision, ms, metric, refused, front in (
        ("dense", "fp32", 10.0, 0.9, None, True),
        ("dense", "int8", 6.0, 0.89, None, True),
        ("2x", "fp32", 5.0, 0.88, None, True),
        ("2x", "int8", 5.5, 0.7, "loses too much", False),
    )
]
SWEEP: dict[str, Any] = {
    "metric": "accuracy",
    "deployment": {"target": "cpu", "batch_size": 1, "seq_len": 64, "device": {"processor": "made up", "threads": 2}},
    "points": POINTS,
    "provenance": FACTS,
}


def estimated(validation: dict[str, Any] = VALIDATION) -> dict[str, Any]:
    """The same where nothing was timed."""
    return {
        **validation,
        "latency_ms": {**validation["latency_ms"], "dense": None, "compressed": None, "ci95": None},
        "speedup": {"value": None, "ci95": None, "predicted": 2.04},
        "verdict": "inconclusive",
    }


def write_made_up(
    directory: Path,
    plan: Plan = PLAN,
    profile: Profile | None = PROFILE,
    validation: dict[str, Any] | None = VALIDATION,
    facts: dict[str, Any] = FACTS,
) -> Path:
    """Write the artifact."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(b"no model")
    (directory / "plan.json").write_text(plan.to_json())
    if profile is not None:
        (directory / "profile.json").write_text(profile.to_json())
    if validation is not None:
        (directory / "validation.json").write_text(json.dumps(validation))
    (directory / "tradeoff.json").write_text(json.dumps(TRADE_OFF))
    write_manifest(directory, facts)
    return directory
