"""The page of an artifact of single weights (``--unstructured``): accuracy and bytes; there is no latency to show."""

from __future__ import annotations

from compress.artifact.sparse import BYTES_NOT_TIME
from compress.report import formatting as fmt
from compress.report.artifact_page import model_name, slices_of, verdict_of
from compress.report.page import Block, Card, Cell, Note, Page, Picture, Rows, Section, section
from compress.report.provenance import footer, provenance, stages
from compress.report.sources import Facts, Sources
from compress.report.svg import Line, chart
from compress.report.training import training


def is_of_weights(sources: Sources) -> bool:
    """Whether an artifact is of a run with ``--unstructured``."""
    return isinstance(sources.validation.at("unstructured"), dict)


def weights_page(sources: Sources) -> Page:
    """Everything that is known of such an artifact."""
    validation, weights = sources.validation, sources.validation.under("unstructured")
    state, verdict = verdict_of(sources)
    date = validation.text("date") or sources.manifest.text("date") or ""
    parts = [f"{_share(weights.number('asked'))} of the encoder's single weights asked", date[:10]]
    return Page(
        title=f"{model_name(sources)}, sparse",
        subtitle=fmt.plain(" · ".join(part for part in parts if part)),
        state=state,
        verdict=verdict.replace("the budget is", "the fraction asked for is"),
        reason=fmt.plain(validation.text("reason") or ""),
        cards=_cards(validation, weights),
        warnings=(BYTES_NOT_TIME, *(fmt.plain(text, 600) for text in sources.left_out)),
        sections=(
            _result(validation, weights),
            _layers(weights),
            slices_of(validation),
            training(sources, "fraction of the weights"),
            stages(sources.manifest),
            *provenance(sources),
        ),
        footer=footer(sources.manifest),
    )


def _share(value: float | None) -> str:
    return fmt.percent(value, 2)


def _cards(validation: Facts, weights: Facts) -> tuple[Card, ...]:
    metric, file, encoder = (weights.under(name) for name in ("metric", "file_bytes", "encoder_bytes"))
    return (
        Card("Weights that remain", _share(weights.number("remaining")), "of the encoder's linear layers"),
        Card(
            fmt.plain(metric.text("name") or "metric", 40).capitalize(),
            fmt.score(metric.number("compact")),
            f"dense {fmt.score(metric.number('dense'))}; masked fp32 {fmt.score(metric.number('masked'))}",
        ),
        Card(
            "Compact file",
            fmt.megabytes(file.number("compact")),
            f"dense fp32 {fmt.megabytes(file.number('dense'))}",
        ),
        Card(
            "Encoder's matrices in it",
            fmt.megabytes(encoder.number("compact")),
            f"dense fp32 {fmt.megabytes(encoder.number('dense'))}",
        ),
    )


def _result(validation: Facts, weights: Facts) -> Section:
    rows = Rows()
    metric, file, encoder = (weights.under(name) for name in ("metric", "file_bytes", "encoder_bytes"))
    unknown = fmt.UNKNOWN
    rows.add(
        fmt.plain(metric.text("name") or "metric", 60),
        *(fmt.score(metric.number(name)) for name in ("dense", "masked")),
        Cell(fmt.score(metric.number("compact")), strong=True),
        fmt.between(validation.interval("metric", "ci95"), ".4f"),
    )
    rows.add(
        "weights of the encoder's linear layers",
        fmt.percent(1.0),
        *(_share(weights.number(name)) for name in ("remaining", "remaining_compact")),
        unknown,
    )
    for name, of in (("these weights", encoder), ("the whole file", file)):
        dense = fmt.megabytes(of.number("dense"))
        rows.add(name, dense, dense, Cell(fmt.megabytes(of.number("compact")), strong=True), unknown)
    notes: list[Block] = [
        Note(
            "Masked: the ordinary checkpoint in pytorch/, zeros in it. Compact file: the model that "
            "`compress.load_compact` gives back, all its matrices rounded to int8, the encoder's zeros left out."
        )
    ]
    for how, of in weights.items("others"):
        tensors, size = Facts(of).number("tensors"), Facts(of).number("bytes")
        notes.append(
            Note(f"{fmt.count(tensors)} other tensors are stored {fmt.plain(how, 80)}: {fmt.megabytes(size)}.")
        )
    columns = ("", "dense fp32", "masked fp32", "compact file", "95 % interval")
    return section("result", "Result", rows.table("Dense, masked and packed model", columns), notes)


def _layers(weights: Facts) -> Section:
    found = [(one.number("layer"), one.number("remaining"), one.number("elements")) for one in weights.each("layers")]
    known = [(layer, kept, count) for layer, kept, count in found if layer is not None and kept is not None]
    rows = Rows()
    for layer, kept, count in known:
        rows.add(f"layer {layer:g}", fmt.count(count), _share(kept))
    blocks: list[Block] = []
    if len(known) > 1:
        described = "; ".join(f"layer {layer:g}: {kept:.2%}" for layer, kept, _ in known)
        svg = chart(
            "layers",
            "Weights that remain in each layer",
            described,
            x_title="layer",
            y_title="remaining, %",
            lines=[Line(tuple((layer, 100 * kept) for layer, kept, _ in known))],
        )
        blocks.append(Picture(svg, "A selection over all matrices gives each layer what it is worth."))
    table = rows.table("Weights that remain in each layer", ("", "weights", "remaining"))
    return section("layers", "What remains", blocks, table)
