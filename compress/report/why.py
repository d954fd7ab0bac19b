"""Why an artifact is as fast as it is: milliseconds per sublayer, and what other budgets would have bought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.artifact.files import TRADE_OFF
from compress.artifact.verify import damage
from compress.core.errors import ArtifactError
from compress.core.parsing import Unreadable, parse_json, read_text
from compress.core.plan import Plan
from compress.profile.take import Profile


def explain(artifact: Path) -> dict[str, Any]:
    """Read plan, profile and trade-off of an artifact.

    Raises:
        ArtifactError: the artifact has no profile (`compress export` writes none).
    """
    plan = Plan.read(artifact)
    if not (artifact / "profile.json").is_file():
        raise ArtifactError(
            f"'{artifact}' has no profile.json, so nothing is known of its latencies; `compress run` writes one for a "
            "budget (not with --unstructured)"
        )
    table = Profile.read(artifact / "profile.json").table
    shape, widths = plan.shape, plan.structure.widths
    total = table.predict(widths)
    sublayers = []
    for layer, (heads, filters) in enumerate(zip(widths.heads, widths.filters, strict=True)):
        for kind, width, of, ms in (
            ("attention", heads, shape.heads, table.attention_at(heads)),
            ("ffn", filters, shape.filters, table.ffn_at(filters)),
        ):
            share = ms / total if total else 0.0
            sublayers.append(
                {"layer": layer, "kind": kind, "width": width, "of": of, "ms": round(ms, 4), "share": share}
            )
    points, here = _trade_off(artifact), (plan.importance_kept, plan.macs_fraction)
    reasons: dict[str, Any] = {
        "sublayers": sublayers,
        "fixed_ms": table.fixed_ms,
        "total_ms": total,
        "one_more_ms": _at(points, here, total, +1.0, table.dense_ms),
        "one_less_ms": _at(points, here, total, -1.0, table.fixed_ms),
    }
    if (said := damage(artifact)) is not None:
        reasons["damage"] = said
    return reasons


def _trade_off(artifact: Path) -> list[dict[str, float]]:
    file = artifact / TRADE_OFF
    if not file.is_file():
        return []
    try:
        points = parse_json(read_text(file))
        return sorted(
            ({k: float(point[k]) for k in ("latency_ms", "importance_kept", "macs_fraction")} for point in points),
            key=lambda point: point["latency_ms"],
        )
    except (Unreadable, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError(f"'{file}' is damaged: {error!r}; make the artifact again") from None


def _at(
    points: list[dict[str, float]], here: tuple[float, float], now_ms: float, change_ms: float, bound_ms: float
) -> list[str]:
    """What the search would keep at another latency, in words; by the importance that the search maximises."""
    wanted = now_ms + change_ms
    beyond = wanted > bound_ms if change_ms > 0 else wanted < bound_ms
    if beyond:
        name = "the dense model's latency" if change_ms > 0 else "what embeddings and head take"
        return [f"{wanted:.2f} ms is beyond {name}, {bound_ms:.2f} ms"]
    there = _interpolate(points, wanted)
    if there is None:
        return []
    return [
        f"at {wanted:.2f} ms: {there[0]:.1%} of the importance instead of {here[0]:.1%}, "
        f"{there[1]:.1%} of the MACs instead of {here[1]:.1%}"
    ]


def _interpolate(points: list[dict[str, float]], latency_ms: float) -> tuple[float, float] | None:
    import numpy as np

    if not points:
        return None
    x = [p["latency_ms"] for p in points]
    return (
        float(np.interp(latency_ms, x, [p["importance_kept"] for p in points])),
        float(np.interp(latency_ms, x, [p["macs_fraction"] for p in points])),
    )
