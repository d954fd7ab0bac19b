"""The page of an artifact of single weights (``--unstructured``): accuracy and bytes; there is no latency to show."""

from __future__ import annotations

from compress.artifact.sparse import BYTES_NOT_TIME
from compress.artifact.validation import Sections, Weights
from compress.report import formatting as fmt
from compress.report.artifact_page import model_name, verdict_of
from compress.report.page import Block, Card, Cell, Note, Page, Picture, Rows, Section, section
from compress.report.provenance import footer, provenance
from compress.report.slices import slices_of
from compress.report.sources import Sources
from compress.report.svg import Line, chart
from compress.report.time_spent import time_spent
from compress.report.training import training


def weights_page(sources: Sources, weights: Weights) -> Page:
    """Everything that is known of such an artifact.

    Args:
        sources: the artifact.
        weights: what its validation.json says of single weights.
    """
    validation = sources.validation
    state, verdict = verdict_of(sources)
    date = validation.date or sources.manifest.text("date") or ""
    parts = [f"{_share(weights.asked)} of the encoder's single weights asked", date[:10]]
    return Page(
        title=f"{model_name(sources)}, sparse",
        subtitle=fmt.plain(" · ".join(part for part in parts if part)),
        state=state,
        verdict=verdict.replace("the budget is", "the fraction asked for is"),
        reason=fmt.plain(validation.reason),
        cards=_cards(weights),
        warnings=(BYTES_NOT_TIME, *(fmt.plain(text, 600) for text in sources.left_out)),
        sections=(
            _result(validation, weights),
            _layers(weights),
            slices_of(validation),
            training(sources, "fraction of the weights"),
            time_spent(sources.manifest),
            *provenance(sources),
        ),
        footer=footer(sources.manifest),
    )


def _share(value: float | None) -> str:
    return fmt.percent(value, 2)


def _cards(weights: Weights) -> tuple[Card, ...]:
    metric, file, encoder = weights.metric, weights.file_bytes, weights.encoder_bytes
    return (
        Card("Weights that remain", _share(weights.remaining), "of the encoder's linear layers"),
        Card(
            fmt.plain(metric.name or "metric", 40).capitalize(),
            fmt.score(metric.compact),
            f"dense {fmt.score(metric.dense)}; masked fp32 {fmt.score(metric.masked)}",
        ),
        Card("Compact file", fmt.megabytes(file.compact), f"dense fp32 {fmt.megabytes(file.dense)}"),
        Card("Encoder's matrices in it", fmt.megabytes(encoder.compact), f"dense fp32 {fmt.megabytes(encoder.dense)}"),
    )


def _result(validation: Sections, weights: Weights) -> Section:
    rows = Rows()
    metric, unknown = weights.metric, fmt.UNKNOWN
    rows.add(
        fmt.plain(metric.name or "metric", 60),
        fmt.score(metric.dense),
        fmt.score(metric.masked),
        Cell(fmt.score(metric.compact), strong=True),
        fmt.between(None if validation.metric is None else validation.metric.ci95, ".4f"),
    )
    rows.add(
        "weights of the encoder's linear layers",
        fmt.percent(1.0),
        _share(weights.remaining),
        _share(weights.remaining_compact),
        unknown,
    )
    for name, size in (("these weights", weights.encoder_bytes), ("the whole file", weights.file_bytes)):
        dense = fmt.megabytes(size.dense)
        rows.add(name, dense, dense, Cell(fmt.megabytes(size.compact), strong=True), unknown)
    notes: list[Block] = [
        Note(
            "Masked: the ordinary checkpoint in pytorch/, zeros in it. Compact file: the model that "
            "`compress.load_compact` gives back, all its matrices rounded to int8, the encoder's zeros left out."
        )
    ]
    # By name, as a file has them: the report is the same before and after validation.json is written.
    for how, of in sorted(weights.others.items()):
        taken = fmt.megabytes(of.bytes)
        notes.append(Note(f"{fmt.count(of.tensors)} other tensors are stored {fmt.plain(how, 80)}: {taken}."))
    columns = ("", "dense fp32", "masked fp32", "compact file", "95 % interval")
    return section("result", "Result", rows.table("Dense, masked and packed model", columns), notes)


def _layers(weights: Weights) -> Section:
    layers = weights.layers
    rows = Rows()
    for one in layers:
        rows.add(f"layer {one.layer:g}", fmt.count(one.elements), _share(one.remaining))
    blocks: list[Block] = []
    if len(layers) > 1:
        described = "; ".join(f"layer {one.layer:g}: {one.remaining:.2%}" for one in layers)
        svg = chart(
            "layers",
            "Weights that remain in each layer",
            described,
            x_title="layer",
            y_title="remaining, %",
            lines=[Line(tuple((float(one.layer), 100 * one.remaining) for one in layers))],
        )
        blocks.append(Picture(svg, "A selection over all matrices gives each layer what it is worth."))
    table = rows.table("Weights that remain in each layer", ("", "weights", "remaining"))
    return section("layers", "What remains", blocks, table)
