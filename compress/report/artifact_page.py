"""The page of one artifact: the verdict, what it costs and brings, what was kept and why."""

from __future__ import annotations

from collections.abc import Callable

from compress.artifact.summary import Kind, Row
from compress.report import formatting as fmt
from compress.report.candidates import candidates, kept_files
from compress.report.latency import sublayers
from compress.report.page import Block, Card, Cell, Note, Page, Picture, Rows, Section, State, section
from compress.report.provenance import footer, provenance
from compress.report.slices import slices_of
from compress.report.sources import Sources
from compress.report.svg import Kept, Line, Mark, chart, kept
from compress.report.time_spent import time_spent
from compress.report.training import training

_SAID: dict[str, tuple[State, str]] = {
    "pass": ("pass", "Pass: the budget is met"),
    "fail": ("fail", "Fail: the budget is not met"),
    "inconclusive": ("inconclusive", "Inconclusive: the budget is neither met nor missed for certain"),
}
NOT_MEASURED = "Not measured: this artifact was exported, and nothing was timed or evaluated"


def artifact_page(sources: Sources) -> Page:
    """Everything that is known of an artifact."""
    state, verdict = verdict_of(sources)
    validation = sources.validation
    return Page(
        title=f"{model_name(sources)}, compressed",
        subtitle=subtitle(sources),
        state=state,
        verdict=verdict,
        reason=fmt.plain(validation.reason),
        cards=_cards(sources),
        warnings=tuple(warnings(sources)),
        sections=(
            _result(sources),
            _kept(sources),
            slices_of(validation),
            candidates(sources),
            kept_files(sources),
            training(sources),
            _trade_off(sources),
            sublayers(sources),
            time_spent(sources.manifest),
            *provenance(sources),
        ),
        footer=footer(sources.manifest),
    )


def model_name(sources: Sources) -> str:
    """The last part of the model's path or hub name."""
    name = sources.manifest.text("model", "name") or sources.name or "model"
    return fmt.plain(name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or name, 120)


def verdict_of(sources: Sources) -> tuple[State | None, str]:
    """State and words of the verdict; None where nothing was measured."""
    known = _SAID.get(sources.validation.verdict or "")
    if known is None:
        return None, NOT_MEASURED
    if known[0] == "inconclusive" and _not_timed(sources) is not None:
        return "inconclusive", "Inconclusive: not measured on the device yet"
    return known


def subtitle(sources: Sources) -> str:
    """Where the figures hold, in a line."""
    deployment, configuration = sources.validation.deployment, sources.manifest.under("configuration")
    parts = [f"budget {sources.plan.budget}"]
    target = configuration.text("target") if deployment is None else deployment.target
    parts.append(f"target {target or fmt.UNKNOWN}")
    batch = configuration.number("batch_size") if deployment is None else deployment.batch_size
    length = configuration.number("seq_len") if deployment is None else deployment.seq_len
    if batch and length:
        parts.append(f"{batch:g} × {length:g} tokens")
    if deployment is not None and deployment.precision:
        parts.append(deployment.precision)
    date = sources.validation.date or sources.manifest.text("date")
    if date:
        parts.append(date[:10])
    return fmt.plain(" · ".join(parts))


_NOT_TIMED = {"estimated": "estimated from a data sheet", "predicted": "predicted, not timed"}


def _not_timed(sources: Sources) -> str | None:
    """How latencies were found where nothing was timed; None where the file was timed, or nothing is known."""
    return _NOT_TIMED.get(sources.how or "")


def warnings(sources: Sources) -> list[str]:
    """What has to be known before any figure is read."""
    found = [fmt.plain(text, 600) for text in sources.left_out]
    how = _not_timed(sources)
    if how:
        found.append(
            f"Latencies and speed-up on this page are {how}: the file was not run on the target. "
            "Run `compress validate` on the device to measure them."
        )
    elif sources.profile is not None and sources.profile.source == "estimated":
        found.append(
            "The plan rests on an estimated profile (a data sheet); latency and speed-up of the result were measured."
        )
    return found


def _cards(sources: Sources) -> tuple[Card, ...]:
    if sources.validation.empty:
        return ()
    budget = sources.plan.budget
    mark = f", {sources.how}" if sources.how in _NOT_TIMED else ""
    asked = f"asked {budget.value:g}×" if budget.kind == "speedup" else "against the dense model"
    speedup, latency = sources.row("speedup"), sources.row("latency")
    metric, change, size = sources.row("metric"), sources.row("change"), sources.row("size")
    shrunk = size.dense / size.compressed if size.dense and size.compressed else None
    return (
        Card(
            f"Speed-up{mark}",
            fmt.times(speedup.compressed),
            f"{asked}{f'; 95 % interval {fmt.between(speedup.interval)}' if speedup.interval else ''}",
        ),
        Card(f"Latency{mark}", fmt.milliseconds(latency.compressed), f"dense {fmt.milliseconds(latency.dense)}"),
        Card(
            fmt.plain(metric.name or "metric", 40).capitalize(),
            fmt.score(metric.compressed),
            f"dense {fmt.score(metric.dense)}"
            + ("" if change.compressed is None else f"; change {fmt.signed(change.compressed)}"),
        ),
        Card(
            "Size",
            fmt.megabytes(size.compressed),
            f"dense {fmt.megabytes(size.dense)}" + (f"; {shrunk:.1f}× smaller" if shrunk else ""),
        ),
    )


def _result(sources: Sources) -> Section:
    table = Rows()
    for row in sources.rows:
        name, dense, ours, budget, interval = _cells(row)
        strong = row.kind in ("latency", "speedup", "metric")
        table.add(name, dense, Cell(ours, strong=strong), budget, interval)
    columns = ("", "dense", "compressed", "budget", "95 % interval")
    return section("result", "Result", table.table("Dense and compressed model", columns), _notes(sources))


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    """A row of the result table: name, dense, compressed, budget, interval."""
    metric = fmt.plain(row.name or "metric", 60)
    how = _NOT_TIMED.get(row.how or "")
    names = {
        "latency": f"latency, {how or 'median of one call'}",
        "speedup": f"speed-up, {how}" if how else "speed-up",
        "latency unpruned": f"latency against the dense model in {fmt.plain(row.name, 20)}",
        "speedup unpruned": f"speed-up over the dense model in {fmt.plain(row.name, 20)}: what pruning adds",
        "metric": metric,
        "change": f"change of {fmt.plain(row.name or 'the metric', 60)}, same examples",
        "also": metric,
        "size": "size of the file",
        "macs": "multiply-accumulates of the encoder",
        "macs of one example": "the same, of one example",
        "drift": "largest difference of answers by batch, order and padding",
    }
    write, spread = _FORMATS[row.kind]
    # The dense model is the unit of what is relative to it.
    dense = {"speedup": "1×", "speedup unpruned": "1×", "change": "0"}.get(row.kind) or write(row.dense)
    return names[row.kind], dense, write(row.compressed), write(row.budget), fmt.between(row.interval, spread)


# How values of a kind are written, and the ends of their interval.
_FORMATS: dict[Kind, tuple[Callable[[float | None], str], str]] = {
    "latency": (fmt.milliseconds, ".2f"),
    "speedup": (fmt.times, ".2f"),
    "latency unpruned": (fmt.milliseconds, ".2f"),
    "speedup unpruned": (fmt.times, ".2f"),
    "metric": (fmt.score, ".4f"),
    "change": (fmt.signed, "+.4f"),
    "also": (fmt.score, ".4f"),
    "size": (fmt.megabytes, ".1f"),
    "macs": (fmt.percent, ".1f"),
    "macs of one example": (fmt.count, ".0f"),
    "drift": (fmt.difference, ".2g"),
}


def _notes(sources: Sources) -> list[Block]:
    validation, notes = sources.validation, []
    latency, metric, parity, deployment = (
        validation.latency_ms,
        validation.metric,
        validation.parity,
        validation.deployment,
    )
    if not validation.empty and sources.how not in _NOT_TIMED:
        rounds = latency.rounds if latency is not None else 0
        notes.append(
            "The dense model was exported and optimised the same way, in float32, and timed in turns with the "
            f"compressed one{f', {rounds} calls of each' if rounds else ''}; the interval of the speed-up is a "
            "bootstrap of the ratio of medians."
        )
    if validation.unpruned is not None and validation.unpruned.sentence:
        notes.insert(0, fmt.plain(validation.unpruned.sentence, 300) + ".")
    if metric is not None and metric.examples:
        examples = fmt.count(metric.examples)
        notes.append(f"Evaluated on {examples} examples; the change pairs both models' answers to each.")
    if parity is not None:
        difference = f"{parity.max_abs_diff:.2g}"
        text = f"Parity: what the exported file answers differs from the same model in PyTorch by at most {difference}"
        lossy = deployment is not None and deployment.precision not in (None, "fp32")
        notes.append(text + ("; rounding to the file's number format is part of that." if lossy else "."))
    invariance = validation.invariance
    if invariance is not None:
        notes.append(
            "Each example was answered alone, in batches, in batches of others, and in batches padded further: "
            f"{invariance.said}."
        )
    engine = None if deployment is None else deployment.engine
    if engine is not None and engine.left_out:
        how = "float16" if engine.rest == "fp16" else "float32"
        notes.append(f"Kept in {how}: {fmt.plain(', '.join(engine.left_out))}.")
    if engine is not None and engine.float32_nodes:
        notes.append(f"Kept in float32: {fmt.plain(', '.join(engine.float32_nodes))}.")
    return [Note(text) for text in notes]


def _kept(sources: Sources) -> Section:
    plan = sources.plan
    shape, structure = plan.shape, plan.structure
    heads = [Kept(units, shape.heads) for units in structure.heads]
    filters = [Kept(units, shape.filters) for units in structure.filters]
    rows = Rows()
    for number, (h, f) in enumerate(zip(structure.heads, structure.filters, strict=True)):
        rows.add(f"layer {number}", f"{len(h)} of {shape.heads}", f"{len(f)} of {shape.filters}")
    gap = plan.optimality_gap
    said = f"{fmt.percent(plan.macs_fraction)} of the encoder's multiply-accumulates are kept, and " + (
        f"{fmt.percent(plan.importance_kept, 2)} of what the search maximises"
    )
    if structure.widths == shape.dense:
        said = "Nothing is pruned"
    elif gap is not None:
        said += f"; no plan for this budget is better by more than {fmt.percent(gap, 3)}"
    return section(
        "kept",
        "What was kept",
        [
            Picture(
                kept("kept-heads", "Attention heads kept in each layer", heads),
                "Attention heads: filled squares are kept, outlines were removed.",
            ),
            Picture(
                kept("kept-filters", "FFN filters kept in each layer", filters),
                "FFN filters: the filled part of a bar is kept.",
            ),
            Note(said + "."),
        ],
        rows.table("Heads and filters kept", ("", "heads", "filters"), folded=True),
    )


def _trade_off(sources: Sources) -> Section:
    points = sources.trade_off
    if len(points) < 2:
        return section("budgets", "Other budgets")
    line = Line(tuple((ms, 100 * importance) for ms, importance, _ in points))
    marks = []
    if sources.plan.predicted_ms is not None:
        marks.append(Mark(sources.plan.predicted_ms, 100 * sources.plan.importance_kept, "square", "second"))
    first, last = points[0], points[-1]
    svg = chart(
        "budgets",
        "What the search would keep at other latencies",
        f"From {first[1]:.1%} of the importance at {first[0]:.2f} ms to {last[1]:.1%} at {last[0]:.2f} ms.",
        x_title="milliseconds per call, predicted",
        y_title="importance kept, %",
        marks=marks,
        lines=[line],
        legend=[("line", "first", "search"), ("square", "second", "this artifact")] if marks else (),
    )
    rows = Rows()
    for ms, importance, macs in points:
        rows.add(fmt.milliseconds(ms), fmt.percent(importance, 2), fmt.percent(macs))
    return section(
        "budgets",
        "Other budgets",
        Picture(svg, "Importance is what the search maximises: it falls slowly, until it does not."),
        rows.table("What the search would keep", ("latency, predicted", "importance kept", "MACs kept"), folded=True),
    )
