"""The section about parts of the evaluation data."""

from __future__ import annotations

from compress.artifact.validation import Sections
from compress.report import formatting as fmt
from compress.report.page import Block, Cell, Picture, Rows, Section, section
from compress.report.svg import pairs


def slices_of(validation: Sections) -> Section:
    """The metric on parts of the evaluation data."""
    found = () if validation.slices is None else validation.slices.rows
    by = fmt.plain((validation.slices.by if validation.slices else "") or "part", 40)
    rows = Rows()
    drawn: list[tuple[str, float, float, tuple[float, float] | None]] = []
    for row in found:
        low, high = row.drop.ci95
        rows.add(
            fmt.plain(row.name or fmt.UNKNOWN, 80),
            fmt.count(row.count),
            fmt.score(row.dense),
            Cell(fmt.score(row.compressed), strong=True),
            fmt.between(row.ci95, ".4f"),
            fmt.signed(-row.drop.value),
            fmt.between((-high, -low), "+.4f"),
        )
        if len(drawn) < 20:
            drawn.append((fmt.short(row.name or fmt.UNKNOWN), row.dense, row.compressed, row.ci95))
    metric = fmt.plain(found[0].metric or "metric", 40) if found else "metric"
    blocks: list[Block] = []
    if drawn:
        said = "; ".join(f"{name}: dense {dense:.3f}, compressed {ours:.3f}" for name, dense, ours, _ in drawn)
        blocks.append(
            Picture(
                pairs("slices", f"{metric.capitalize()} by {by}", said, drawn, metric),
                f"{metric.capitalize()} by {by}; the largest first.",
            )
        )
    columns = (by, "examples", "dense", "compressed", "95 % interval", "change", "its 95 % interval")
    return section("slices", f"Accuracy by {by}", blocks, rows.table(f"{metric.capitalize()} by {by}", columns))
