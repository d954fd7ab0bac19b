"""Sections about latency: what sublayers cost, how well that predicts, where the time of a call goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.report import formatting as fmt
from compress.report.page import Block, Note, Picture, Rows, Section, section
from compress.report.sources import Sources
from compress.report.svg import Line, Mark, chart

if TYPE_CHECKING:
    from compress.profile.latency_profile import Profile
    from compress.profile.latency_table import PiecewiseLinear


def sublayers(sources: Sources) -> Section:
    """The latency table with its fit, its check, and the artifact by it."""
    profile = sources.profile
    if profile is None:
        return section("latency", "Latency of the sublayers")
    table = profile.table
    measured = profile.source == "measured"
    blocks: list[Block] = []
    if not measured:
        blocks.append(
            Note("This profile is estimated from the device's data sheet: no latency here was measured.", warning=True)
        )
    for kind, unit, widths, ms, fit in (
        ("attention", "heads", table.heads, table.attention_ms, profile.attention_fit),
        ("FFN", "filters", table.filters, table.ffn_ms, profile.ffn_fit),
    ):
        blocks.append(_curve(profile, kind, unit, widths, ms, fit))
    blocks += _check(profile)
    rows = Rows()
    for kind, widths, ms, fit in (
        ("heads", table.heads, table.attention_ms, profile.attention_fit),
        ("filters", table.filters, table.ffn_ms, profile.ffn_fit),
    ):
        for width, value in zip(widths, ms, strict=True):
            rows.add(f"{width} {kind}", fmt.milliseconds(value), fmt.milliseconds(fit(width)))
    return section(
        "latency",
        "Latency of the sublayers",
        Note(_said(profile)),
        blocks,
        _shares(sources, profile),
        rows.table("Latency table: one sublayer of each width", ("width", "table", "fit"), folded=True),
    )


def _said(profile: Profile) -> str:
    where = fmt.plain(profile.device.get("processor", "unknown device"), 120)
    threads = profile.device.get("threads")
    of = f"{where}, {threads} thread{'' if threads == 1 else 's'}" if threads is not None else where
    text = (
        f"{profile.source.capitalize()} on {fmt.plain(profile.target, 60)} ({of}), {profile.precision}, "
        f"{profile.batch_size} × {profile.seq_len} tokens, {fmt.plain(profile.date[:10])}."
    )
    error = profile.median_error
    if error is not None:
        worst = max(abs(check.error) for check in profile.check)
        text += (
            f" On {len(profile.check)} random structures that it was not fitted to, it predicts with a median error "
            f"of {error:.1%}, at worst {worst:.1%}."
        )
    return text


def _curve(
    profile: Profile, kind: str, unit: str, widths: tuple[int, ...], ms: tuple[float, ...], fit: PiecewiseLinear
) -> Picture:
    name = "measured" if profile.source == "measured" else "estimated"
    points = [point for point in profile.points if point.kind == kind.lower()]
    fitted = [(float(width), fit(width)) for width in widths if width > 0]
    if fit.slope_ms:
        described = f"{fit.base_ms:.2g} ms up to {fit.knee} {unit}, then {1000 * fit.slope_ms:.3g} µs for each more"
    else:
        described = f"{fit.base_ms:.3g} ms whatever the width"
    svg = chart(
        f"curve-{unit}",
        f"Latency of one {kind} sublayer by {unit}",
        f"From 0 ms to {ms[-1]:.3f} ms at {widths[-1]} {unit}. Fit: {described}.",
        x_title=f"{unit} in the sublayer",
        y_title="milliseconds of one sublayer",
        marks=[Mark(float(point.width), point.ms, "ring", "third") for point in points],
        lines=[
            Line(tuple((float(w), v) for w, v in zip(widths, ms, strict=True))),
            Line(tuple(fitted), "second", dashed=True),
        ],
        legend=[
            *([("ring", "third", "timings")] if points else []),
            ("line", "first", f"table, {name}"),
            ("dashes", "second", "fit"),
        ],
        from_zero=True,
    )
    return Picture(svg, f"One {kind} sublayer: {described}.")


def _check(profile: Profile) -> list[Block]:
    if not profile.check:
        return []
    most = max(max(check.predicted_ms, check.measured_ms) for check in profile.check)
    rows = Rows()
    for check in sorted(profile.check, key=lambda check: check.measured_ms):
        rows.add(
            f"{sum(check.heads)} heads, {sum(check.filters)} filters",
            fmt.milliseconds(check.predicted_ms),
            fmt.milliseconds(check.measured_ms),
            fmt.signed(100 * check.error, "+.1f") + " %",
        )
    svg = chart(
        "check",
        "Predicted against measured latency of random structures",
        f"{len(profile.check)} structures, median error {profile.median_error or 0.0:.1%}.",
        x_title="milliseconds measured",
        y_title="milliseconds predicted",
        marks=[Mark(check.measured_ms, check.predicted_ms, "dot") for check in profile.check],
        lines=[Line(((0.0, 0.0), (most, most)), "second", dashed=True)],
        legend=[("dot", "first", "a random structure"), ("dashes", "second", "equal")],
        from_zero=True,
    )
    columns = ("kept in all layers", "predicted", "measured", "error")
    return [
        Picture(svg, "Structures that the table was not fitted to: the nearer to the line the better."),
        *rows.table("Predicted against measured", columns),
    ]


def _shares(sources: Sources, profile: Profile) -> list[Block]:
    """Milliseconds of attention, FFN and the rest, dense and compressed."""
    table, widths = profile.table, sources.plan.structure.widths
    if len(widths.heads) != table.layers or profile.shape != sources.plan.shape:
        return []
    ours = [sum(map(table.attention_at, widths.heads)), sum(map(table.ffn_at, widths.filters)), table.fixed_ms]
    dense = [table.layers * table.attention_ms[-1], table.layers * table.ffn_ms[-1], table.fixed_ms]
    rows = Rows()
    for name, before, after in (
        ("attention", dense[0], ours[0]),
        ("FFN", dense[1], ours[1]),
        ("embeddings, head, call", dense[2], ours[2]),
        ("all", sum(dense), sum(ours)),
    ):
        share = after / sum(ours) if sum(ours) else 0.0
        rows.add(name, fmt.milliseconds(before), fmt.milliseconds(after), fmt.percent(share))
    measured = sources.row("latency").compressed
    if sources.how == "measured":
        rows.add("measured", fmt.UNKNOWN, fmt.milliseconds(measured), fmt.UNKNOWN)
    caption = f"Where the time of one call goes, by the table ({fmt.plain(profile.precision, 20)})"
    return rows.table(caption, ("part", "dense", "compressed", "share"))
