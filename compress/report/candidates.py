"""The sections about number formats: one candidate each, and the files that are kept beside model.onnx."""

from __future__ import annotations

from compress.artifact.summary import timing_of
from compress.report import formatting as fmt
from compress.report.page import Block, Cell, Note, Picture, Rows, Section, section
from compress.report.sources import Sources
from compress.report.svg import Kept, kept


def candidates(sources: Sources) -> Section:
    """What each number format came to, and the structures of those that were not chosen."""
    shape, validation = sources.plan.shape, sources.validation
    rows = Rows()
    for row in sorted(validation.candidates, key=lambda row: row.outcome != "chosen"):
        chosen = row.outcome == "chosen"
        rows.add(
            Cell(fmt.plain(row.engine or row.precision or fmt.UNKNOWN, 60), strong=chosen),
            Cell(fmt.plain(row.outcome or fmt.UNKNOWN), strong=chosen),
            f"{sum(row.heads)} of {shape.heads * shape.layers}" if row.heads else fmt.UNKNOWN,
            f"{sum(row.filters)} of {shape.filters * shape.layers}" if row.filters else fmt.UNKNOWN,
            fmt.percent(row.macs_fraction),
            fmt.milliseconds(row.latency_ms),
            fmt.milliseconds(row.predicted_ms),
            fmt.times(row.speedup),
            fmt.score(row.metric),
            fmt.megabytes(row.size_bytes),
        )
    others: list[Block] = []
    for number, row in enumerate(row for row in validation.candidates if row.outcome != "chosen"):
        name = fmt.short(row.precision or "candidate")
        for what, widths, of in (("heads", row.heads, shape.heads), ("filters", row.filters, shape.filters)):
            # A forged document may have any number of layers, of any width.
            layers = [Kept(tuple(range(min(width, of))), of) for width in widths[: shape.layers]]
            if layers:
                svg = kept(f"candidate-{number}-{what}", f"{what.capitalize()} that {name} would keep", layers)
                others.append(Picture(svg, f"{what.capitalize()} that {name} would keep, how many of each layer."))
    columns = (
        "candidate",
        "outcome",
        "heads",
        "filters",
        "MACs",
        "measured",
        "predicted",
        "speed-up",
        "metric",
        "size",
    )
    because = validation.chosen_because
    why: list[Block] = [Note(f"Why: {fmt.plain(because, 1200)}.")] if because and rows.rows else []
    return section(
        "candidates",
        "Candidates",
        rows.table("One candidate per number format, the chosen one first", columns, left=2),
        why,
        others,
    )


def kept_files(sources: Sources) -> Section:
    """The same model in other number formats, as files beside model.onnx."""
    rows = Rows()
    for one in sources.validation.kept:
        ms, speedup = timing_of(one)
        rows.add(
            Cell(fmt.plain(one.file, 60), strong=True),
            fmt.plain(one.precision, 20),
            one.verdict,
            ms,
            speedup,
            fmt.score(one.metric.compressed),
            fmt.signed(None if one.metric.drop is None else -one.metric.drop.value),
            fmt.megabytes(one.size_bytes.compressed),
            fmt.difference(one.parity.max_abs_diff),
        )
    columns = ("file", "precision", "verdict", "ms", "speed-up", "metric", "change", "size", "differs from PyTorch")
    return section(
        "kept-files",
        "Beside model.onnx",
        rows.table("The same pruned model in other number formats, measured likewise", columns, left=3),
    )
