"""The page of one artifact: the verdict, what it costs and brings, what was kept and why."""

from __future__ import annotations

from compress.report import formatting as fmt
from compress.report.latency import sublayers
from compress.report.page import Block, Card, Cell, Note, Page, Picture, Rows, Section, State, section
from compress.report.provenance import footer, provenance, stages
from compress.report.sources import Facts, Sources
from compress.report.svg import Kept, Line, Mark, chart, kept, pairs
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
        reason=fmt.plain(validation.text("reason") or ""),
        cards=_cards(sources),
        warnings=tuple(warnings(sources)),
        sections=(
            _result(sources),
            _kept(sources),
            slices_of(validation),
            _candidates(sources),
            training(sources),
            _trade_off(sources),
            sublayers(sources),
            stages(sources.manifest),
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
    known = _SAID.get(sources.validation.text("verdict") or "")
    if known is None:
        return None, NOT_MEASURED
    if known[0] == "inconclusive" and _how(sources) is not None:
        return "inconclusive", "Inconclusive: not measured on the device yet"
    return known


def subtitle(sources: Sources) -> str:
    """Where the figures hold, in a line."""
    deployment, configuration = sources.validation.under("deployment"), sources.manifest.under("configuration")
    parts = [f"budget {sources.plan.budget}"]
    parts.append(f"target {deployment.text('target') or configuration.text('target') or fmt.UNKNOWN}")
    batch = deployment.number("batch_size") or configuration.number("batch_size")
    length = deployment.number("seq_len") or configuration.number("seq_len")
    if batch and length:
        parts.append(f"{batch:g} × {length:g} tokens")
    precision = deployment.text("precision")
    if precision:
        parts.append(precision)
    date = sources.validation.text("date") or sources.manifest.text("date")
    if date:
        parts.append(date[:10])
    return fmt.plain(" · ".join(parts))


def _how(sources: Sources) -> str | None:
    """How latencies were found where nothing was timed; None where the file was timed, or nothing is known."""
    validation = sources.validation
    if not validation or validation.number("latency_ms", "compressed") is not None:
        return None
    if sources.plan.latency_source is None:
        return None
    return "estimated from a data sheet" if sources.plan.estimated else "predicted, not timed"


def warnings(sources: Sources) -> list[str]:
    """What has to be known before any figure is read."""
    found = [fmt.plain(text, 600) for text in sources.left_out]
    how = _how(sources)
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
    validation, plan, how = sources.validation, sources.plan, _how(sources)
    if not validation:
        return ()
    mark = {"estimated from a data sheet": ", estimated", "predicted, not timed": ", predicted"}.get(how or "", "")
    speedup = validation.number("speedup", "value") or validation.number("speedup", "predicted")
    asked = f"asked {plan.budget.value:g}×" if plan.budget.kind == "speedup" else "against the dense model"
    ranges = validation.interval("speedup", "ci95")
    latency = validation.number("latency_ms", "compressed")
    dense = validation.number("latency_ms", "dense")
    if latency is None:
        latency, dense = validation.number("latency_ms", "predicted"), plan.dense_ms
    metric, size = validation.under("metric"), validation.under("size_bytes")
    drop = metric.number("drop", "value")
    shrunk = _ratio(size.number("dense"), size.number("compressed"))
    return (
        Card(
            f"Speed-up{mark}",
            fmt.times(speedup),
            f"{asked}{f'; 95 % interval {fmt.between(ranges)}' if ranges else ''}",
        ),
        Card(f"Latency{mark}", fmt.milliseconds(latency), f"dense {fmt.milliseconds(dense)}"),
        Card(
            fmt.plain(metric.text("name") or "metric", 40).capitalize(),
            fmt.score(metric.number("compressed")),
            f"dense {fmt.score(metric.number('dense'))}" + ("" if drop is None else f"; change {fmt.signed(-drop)}"),
        ),
        Card(
            "Size",
            fmt.megabytes(size.number("compressed")),
            f"dense {fmt.megabytes(size.number('dense'))}" + (f"; {shrunk:.1f}× smaller" if shrunk else ""),
        ),
    )


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top and bottom else None


def _result(sources: Sources) -> Section:
    validation, plan, how = sources.validation, sources.plan, _how(sources)
    rows = Rows()
    latency, speedup, metric = (validation.under(name) for name in ("latency_ms", "speedup", "metric"))
    ms = fmt.milliseconds
    if how:
        rows.add(
            f"latency, {how}",
            ms(plan.dense_ms),
            Cell(ms(latency.number("predicted")), strong=True),
            ms(latency.number("budget")),
            fmt.UNKNOWN,
        )
        rows.add(
            f"speed-up, {how}",
            "1×",
            Cell(fmt.times(speedup.number("predicted")), strong=True),
            _asked(sources),
            fmt.UNKNOWN,
        )
    elif validation:
        rows.add(
            "latency, median of one call",
            ms(latency.number("dense")),
            Cell(ms(latency.number("compressed")), strong=True),
            ms(latency.number("budget")),
            fmt.between(latency.interval("ci95")),
        )
        value = Cell(fmt.times(speedup.number("value")), strong=True)
        rows.add("speed-up", "1×", value, _asked(sources), fmt.between(speedup.interval("ci95")))
    if metric:
        rows.add(
            fmt.plain(metric.text("name") or "metric", 60),
            fmt.score(metric.number("dense")),
            Cell(fmt.score(metric.number("compressed")), strong=True),
            fmt.UNKNOWN,
            fmt.between(metric.interval("ci95"), ".4f"),
        )
        drop = metric.number("drop", "value")
        if drop is not None:
            ends = metric.interval("drop", "ci95")
            change = None if ends is None else (-ends[1], -ends[0])
            name = f"change of {fmt.plain(metric.text('name') or 'the metric', 60)}, same examples"
            rows.add(name, "0", fmt.signed(-drop), fmt.UNKNOWN, fmt.between(change, "+.4f"))
        for name, values in metric.items("also"):
            both = Facts(values)
            ours = fmt.score(both.number("compressed"))
            rows.add(
                fmt.plain(name, 60),
                fmt.score(both.number("dense")),
                ours,
                fmt.UNKNOWN,
                fmt.UNKNOWN,
            )
    size, macs = validation.under("size_bytes"), validation.under("macs")
    if size:
        ours = fmt.megabytes(size.number("compressed"))
        allowed = fmt.megabytes(size.number("budget"))
        rows.add("size of the file", fmt.megabytes(size.number("dense")), ours, allowed, fmt.UNKNOWN)
    asked = fmt.percent(plan.budget.value) if plan.budget.kind == "macs" else fmt.UNKNOWN
    rows.add(
        "multiply-accumulates of the encoder",
        "100.0 %",
        fmt.percent(plan.macs_fraction),
        asked,
        fmt.UNKNOWN,
    )
    if macs:
        ours = fmt.count(macs.number("compressed"))
        rows.add(
            "the same, of one example",
            fmt.count(macs.number("dense")),
            ours,
            fmt.UNKNOWN,
            fmt.UNKNOWN,
        )
    return section(
        "result",
        "Result",
        rows.table("Dense and compressed model", ("", "dense", "compressed", "budget", "95 % interval")),
        _notes(sources, how),
    )


def _asked(sources: Sources) -> str:
    budget = sources.plan.budget
    return fmt.times(budget.value) if budget.kind == "speedup" else fmt.UNKNOWN


def _notes(sources: Sources, how: str | None) -> list[Block]:
    validation = sources.validation
    notes = []
    rounds, examples = validation.number("latency_ms", "rounds"), validation.number("metric", "examples")
    if validation and not how:
        notes.append(
            "The dense model was exported and optimised the same way, in float32, and timed in turns with the "
            f"compressed one{f', {rounds:.0f} calls of each' if rounds else ''}; the interval of the speed-up is a "
            "bootstrap of the ratio of medians."
        )
    if examples:
        notes.append(f"Evaluated on {fmt.count(examples)} examples; the change pairs both models' answers to each.")
    parity = validation.number("parity", "max_abs_diff")
    if parity is not None:
        text = f"Parity: what the exported file answers differs from the same model in PyTorch by at most {parity:.2g}"
        lossy = validation.text("deployment", "precision") not in (None, "fp32")
        notes.append(text + ("; rounding to the file's number format is part of that." if lossy else "."))
    left_out = validation.at("deployment", "engine", "left_out")
    if isinstance(left_out, list) and left_out:
        notes.append(f"Kept in float32: {fmt.plain(', '.join(map(str, left_out)))}.")
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


def slices_of(validation: Facts) -> Section:
    """The metric on parts of the evaluation data."""
    found = list(validation.each("slices", "rows"))
    by = fmt.plain(validation.text("slices", "by") or "part", 40)
    rows = Rows()
    drawn: list[tuple[str, float, float, tuple[float, float] | None]] = []
    for row in found:
        name = row.text("name") or fmt.UNKNOWN
        dense, ours, drop = row.number("dense"), row.number("compressed"), row.number("drop", "value")
        ends = row.interval("drop", "ci95")
        rows.add(
            fmt.plain(name, 80),
            fmt.count(row.number("count")),
            fmt.score(dense),
            Cell(fmt.score(ours), strong=True),
            fmt.between(row.interval("ci95"), ".4f"),
            fmt.signed(None if drop is None else -drop),
            fmt.between(None if ends is None else (-ends[1], -ends[0]), "+.4f"),
        )
        if dense is not None and ours is not None and len(drawn) < 20:
            drawn.append((fmt.short(name), dense, ours, row.interval("ci95")))
    metric = fmt.plain(found[0].text("metric") or "metric", 40) if found else "metric"
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


def _candidates(sources: Sources) -> Section:
    shape = sources.plan.shape
    rows = Rows()
    for row in sorted(sources.validation.each("candidates"), key=lambda row: row.text("outcome") != "chosen"):
        outcome = row.text("outcome") or fmt.UNKNOWN
        chosen = outcome == "chosen"
        heads, filters = row.numbers("heads"), row.numbers("filters")
        rows.add(
            Cell(fmt.plain(row.text("engine") or row.text("precision") or fmt.UNKNOWN, 60), strong=chosen),
            Cell(fmt.plain(outcome), strong=chosen),
            f"{sum(heads):.0f} of {shape.heads * shape.layers}" if heads else fmt.UNKNOWN,
            f"{sum(filters):.0f} of {shape.filters * shape.layers}" if filters else fmt.UNKNOWN,
            fmt.percent(row.number("macs_fraction")),
            fmt.milliseconds(row.number("latency_ms")),
            fmt.milliseconds(row.number("predicted_ms")),
            fmt.times(row.number("speedup")),
            fmt.score(row.number("metric")),
            fmt.megabytes(row.number("size_bytes")),
        )
    others: list[Block] = []
    for number, row in enumerate(r for r in sources.validation.each("candidates") if r.text("outcome") != "chosen"):
        name = fmt.short(row.text("precision") or "candidate")
        for what, of in (("heads", shape.heads), ("filters", shape.filters)):
            counts = [round(value) for value in row.numbers(what)][: len(sources.plan.structure.heads)]
            layers = [Kept(tuple(range(min(max(0, value), of))), of) for value in counts]
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
    because = sources.validation.text("chosen_because")
    why: list[Block] = [Note(f"Why: {fmt.plain(because, 1200)}.")] if because and rows.rows else []
    return section(
        "candidates",
        "Candidates",
        rows.table("One candidate per number format, the chosen one first", columns, left=2),
        why,
        others,
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
