"""The page of a sweep: accuracy against latency at every budget, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report import formatting as fmt
from compress.report.page import Block, Card, Cell, Note, Page, Picture, Rows, section
from compress.report.provenance import footer, provenance_of
from compress.report.sources import Facts
from compress.report.svg import Line, Mark, chart
from compress.report.time_spent import time_spent

_TONES = {"fp32": "first", "int8": "second", "fp16": "third"}


def front_page(sweep: Facts) -> Page:
    """A sweep as ``sweep.json`` has it."""
    points = list(sweep.each("points"))
    metric = fmt.plain(sweep.text("metric") or "metric", 40)
    deployment, manifest = sweep.under("deployment"), sweep.under("provenance")
    name = fmt.plain((manifest.text("model", "name") or "model").rstrip("/").rsplit("/", 1)[-1], 120)
    where = [f"target {fmt.plain(deployment.text('target') or fmt.UNKNOWN, 60)}"]
    batch, length = deployment.number("batch_size"), deployment.number("seq_len")
    if batch and length:
        where.append(f"{batch:g} × {length:g} tokens")
    processor = deployment.text("device", "processor")
    if processor:
        where.append(fmt.plain(processor, 120))
    return Page(
        title=f"{name}: {metric} against latency",
        subtitle=" · ".join(where),
        cards=_cards(points, metric),
        sections=(
            section("front", "The front", _picture(points, metric), _table(points, metric)),
            time_spent(manifest),
            *provenance_of(manifest),
        ),
        footer=footer(manifest, "sweep.json has the figures"),
    )


def _cards(points: Sequence[Facts], metric: str) -> tuple[Card, ...]:
    """The dense model, and the fastest that is as accurate within what the evaluation can tell."""
    dense = next((p for p in points if p.text("budget") == "dense" and p.text("precision") == "fp32"), None)
    if dense is None:
        return ()
    least = dense.interval("metric_ci95")
    alike = [
        p
        for p in points
        if p.at("front") is True and least and (p.number("metric") or -1.0) >= least[0] and p.number("speedup")
    ]
    cards = [
        Card(
            f"Dense {metric}",
            fmt.score(dense.number("metric")),
            fmt.milliseconds(dense.number("latency_ms")),
        )
    ]
    if alike:
        best = max(alike, key=lambda p: p.number("speedup") or 0.0)
        cards.append(
            Card(
                "Fastest within the dense model's interval",
                fmt.times(best.number("speedup")),
                f"{metric} {fmt.score(best.number('metric'))}, {fmt.milliseconds(best.number('latency_ms'))}, "
                f"{fmt.megabytes(best.number('size_bytes'))}, {fmt.plain(best.text('precision') or '', 20)}",
            )
        )
    return tuple(cards)


def _picture(points: Sequence[Facts], metric: str) -> list[Picture]:
    marks, front, legend = [], [], {}
    for point in points:
        latency, value = point.number("latency_ms"), point.number("metric")
        if latency is None or value is None:
            continue
        precision, dense = fmt.short(point.text("precision") or "?"), point.text("budget") == "dense"
        refused = point.text("refused") is not None
        form = "cross" if refused else "square" if dense else "dot" if precision == "fp32" else "ring"
        tone = _TONES.get(precision, "third")
        label = "" if dense else fmt.short(point.text("budget") or "", 10)
        marks.append(
            Mark(latency, value, form, tone, label, point.interval("latency_ci95"), point.interval("metric_ci95"))
        )
        said = "refused" if refused else "dense" if dense else "pruned"
        legend[form, tone] = f"{precision} {said}"
        if point.at("front") is True:
            front.append((latency, value))
    if not marks:
        return []
    entries = [(form, tone, name) for (form, tone), name in legend.items()]
    described = "; ".join(
        f"{fmt.short(p.text('budget') or '')} {fmt.short(p.text('precision') or '')}: "
        f"{fmt.milliseconds(p.number('latency_ms'))}, {fmt.score(p.number('metric'))}"
        for p in points
    )
    svg = chart(
        "pareto",
        f"{metric.capitalize()} against measured latency",
        described,
        x_title="milliseconds per call, measured",
        y_title=metric,
        marks=marks,
        lines=[Line(tuple(sorted(front)), "third")] if len(front) > 1 else (),
        legend=entries,
        height=300.0,
    )
    return [
        Picture(
            svg,
            "The line joins what no other is both faster and at least as accurate than. Thin lines are 95 % intervals.",
        )
    ]


def _table(points: Sequence[Facts], metric: str) -> list[Block]:
    rows = Rows()
    for point in points:
        on = point.at("front") is True
        refused = point.text("refused")
        rows.add(
            Cell(fmt.plain(point.text("budget") or fmt.UNKNOWN, 40), strong=on),
            fmt.plain(point.text("engine") or fmt.UNKNOWN, 40),
            fmt.percent(point.number("macs_fraction")),
            fmt.milliseconds(point.number("latency_ms")),
            fmt.times(point.number("speedup")),
            fmt.between(point.interval("speedup_ci95")),
            Cell(fmt.score(point.number("metric")), strong=on),
            fmt.between(point.interval("metric_ci95"), ".4f"),
            fmt.megabytes(point.number("size_bytes")),
            fmt.plain(f"refused: {refused}" if refused else point.text("verdict") or fmt.UNKNOWN),
            Cell("yes" if on else "no", strong=on),
        )
    columns = (
        "budget",
        "engine",
        "MACs",
        "latency",
        "speed-up",
        "95 % interval",
        metric,
        "95 % interval",
        "size",
        "verdict",
        "front",
    )
    note = Note(
        "Not on the front: another is at least as fast and as accurate, and better in one of the two. Accuracies whose "
        "intervals overlap may be equal."
    )
    return [*rows.table("Every measured model", columns, left=2), note]
