"""A profile as if measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.profile.take import Check, CurvePoint, Profile, fit_piecewise
from support.simulated_machine import SHAPE, planted_table


def a_profile(**changes: Any) -> Profile:
    """A small measured profile."""
    table = planted_table()
    whole = Profile(
        table=table,
        attention_fit=fit_piecewise(table.heads, table.attention_ms),
        ffn_fit=fit_piecewise(table.filters, table.ffn_ms),
        shape=SHAPE,
        batch_size=1,
        seq_len=64,
        precision="fp32",
        target="cpu",
        device={"processor": "simulated", "threads": 2},
        source="measured",
        date="2030-01-02T03:04:05+00:00",
        seconds=12.5,
        points=(CurvePoint("attention", 1, 0.2, 6.4, 0.01, 20.5), CurvePoint("ffn", 8, 0.225, 5.5, 0.02, 18.0)),
        check=(
            Check((1, 2, 3, 4), (8, 0, 256, 64), 5.1, 5.0, 0.02),
            Check((0, 0, 1, 1), (16, 16, 32, 64), 2.7, 3.0, -0.1),
            Check((4, 4, 1, 1), (16, 16, 32, 64), 3.0, 3.1, -0.03),
        ),
    )
    return replace(whole, **changes)


PROFILE = a_profile()
