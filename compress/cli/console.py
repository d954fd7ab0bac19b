"""What a person reads on stdout: tables and bars. Colours and boxes on a terminal, plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compress.core.parsing import printable

if TYPE_CHECKING:
    from compress.artifact.verify import Verified
    from compress.cache.entry import Entry
    from compress.cache.memo import Foreseen
    from compress.cache.store import Store
    from compress.cli.doctor import Check
    from compress.core.plan import EncoderShape, Plan, Widths
    from compress.gate.breakdown import Part
    from compress.gate.judge import Report
    from compress.options.run_config import Resolved, RunConfig
    from compress.pipeline.compression import RunResult
    from compress.pipeline.sweep_result import Swept
    from compress.profile.target import Target

BAR_WIDTH = 24
_VERDICT_STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
_ABSENT = "-"


def _console() -> Console:
    # Made anew for each output: sys.stdout may have been redirected since the import.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        # Nobody's window limits a file or a pipe: wrapped table cells would only be harder to read and to grep.
        console.width = 200
    return console


def _table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _show(console: Console, table: Table) -> None:
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    # rich fills cells up to their column's width: noise in a file.
    console.file.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def _say(console: Console, text: str = "", style: str | None = None) -> None:
    # What is no terminal is not wrapped: a line there is one thing said.
    console.print(text, markup=False, style=style, soft_wrap=not console.is_terminal)


def bar(kept: float, of: float, width: int = BAR_WIDTH, *, ascii_only: bool = False) -> str:
    """``kept`` of ``of`` as a bar. Full only when all is kept, empty only when nothing is."""
    filled = round(width * kept / of) if of else 0
    if 0 < kept < of:
        filled = min(max(filled, 1), width - 1)
    on, off = ("#", ".") if ascii_only else ("█", "░")
    return on * filled + off * (width - filled)


def configuration(resolved: Resolved) -> None:
    """Every option, its value and where it came from."""
    console = _console()
    rows = [
        (name, _ABSENT if value is None else escape(str(value)), escape(origin))
        for name, value, origin in resolved.rows()
    ]
    _show(console, _table(console, ("option", "value", "from"), rows, left=3))


def foreseen(rows: Sequence[Foreseen]) -> None:
    """What a resumed run would use again and what it would make, with seconds as they were last time."""
    from compress.cache.memo import duration

    console = _console()
    cells = []
    for row in rows:
        age = _ABSENT if row.age_seconds is None else duration(row.age_seconds)
        seconds = _ABSENT if row.last_seconds is None else f"{row.last_seconds:.1f}"
        cells.append((row.stage, row.label or _ABSENT, "stored" if row.stored else "to be run", age, seconds))
    _say(console)
    _show(console, _table(console, ("stage", "of", "with --resume", "age", "seconds last time"), cells, left=3))
    left = [row.last_seconds for row in rows if not row.stored]
    if not left:
        _say(console, "nothing is left to be run but the writing")
    elif None not in left:
        _say(console, f"to be run: about {duration(sum(seconds or 0.0 for seconds in left))}, as last time")


def stored(store: Store, entries: Sequence[Entry]) -> None:
    """The results in a cache, and what they take."""
    from compress.cache.memo import duration

    console = _console()
    rows = [
        (
            entry.stage,
            entry.label if entry.damage is None else f"damaged: {entry.damage}",
            f"{entry.size_bytes / 1e6:.1f}",
            duration(entry.age_seconds()),
            duration(entry.idle_seconds()),
            f"{entry.seconds:.1f}",
        )
        for entry in entries
    ]
    if rows:
        _show(console, _table(console, ("stage", "of", "MB", "age", "last used", "seconds to make"), rows, left=2))
    total = sum(entry.size_bytes for entry in entries)
    _say(
        console,
        f"{len(rows)} results, {total / 1e6:.1f} MB of at most {store.limit_bytes / 1e6:.0f} MB in {store.root}",
    )


def result_document(result: RunResult) -> dict[str, Any]:
    """A run's result as plain JSON types."""
    import json

    return {
        "output": None if result.output is None else str(result.output),
        "verdict": result.verdict,
        "exit_code": result.exit_code,
        "validation": result.validation,
        "plan": json.loads(result.plan.to_json()),
        "seconds": result.seconds,
    }


def result(result: RunResult, config: RunConfig | None = None) -> None:
    """The summary of a run: dense, compressed, budget; what each layer kept; the verdict."""
    console = _console()
    weights = result.validation.get("unstructured")
    if weights is not None:
        _weights(console, weights)
    else:
        rows = list(summary_rows(result.validation, result.plan))
        _show(console, _table(console, ("", "dense", "compressed", "budget", "95 % interval"), rows))
        _layers(console, result.plan.shape, result.plan.structure.widths)
    if len(result.validation.get("candidates", [])) > 1:
        candidates(console, result.validation["candidates"])
    if "interpolated" in (result.plan.latency_source or ""):
        _say(console, "The plan rests on a profile interpolated between two lengths that were taken.", "yellow")
    if result.plan.estimated:
        _say(console, "The plan rests on an estimated profile: run `compress validate` on the device.", "yellow")
    if result.seconds:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
        _say(console, f"seconds: {stages}; {sum(result.seconds.values()):.1f} in all", "dim")
    if result.output is not None:
        _say(console, f"artifact: {result.output}")
    if result.validation.get("reason"):
        _say(console, str(result.validation["reason"]))
    where = f" on {config.target}, budget {config.budget}" if config is not None and weights is None else ""
    _say(console, f"verdict: {result.verdict}{where}", _VERDICT_STYLE.get(result.verdict))


def _weights(console: Console, weights: Mapping[str, Any]) -> None:
    """Of single weights: accuracy and bytes, what every layer kept, and what it does not bring."""
    from compress.artifact.sparse import BYTES_NOT_TIME, COLUMNS, percent, rows, stored_lines

    _show(console, _table(console, COLUMNS, rows(weights)))
    ascii_only = "utf" not in (console.encoding or "").lower()
    for layer in weights["layers"]:
        drawn = bar(layer["remaining"], 1.0, ascii_only=ascii_only)
        _say(console, f"layer {layer['layer']:2d}  {drawn}  {percent(layer['remaining'])}")
    for line in stored_lines(weights):
        _say(console, f"in the compact file: {line}", "dim")
    _say(console, BYTES_NOT_TIME, "yellow")


def summary_rows(validation: Mapping[str, Any], plan: Plan) -> Iterable[tuple[str, ...]]:
    """Rows (name, dense, compressed, budget, interval) of what ``validation.json`` has; parts it lacks are left out."""
    latency = validation.get("latency_ms")
    if latency and latency.get("compressed") is None and latency.get("predicted") is not None:
        how = f"predicted, {plan.latency_source} profile"
        yield (
            f"latency, ms ({how})",
            _number(plan.dense_ms, "{:.3f}"),
            _number(latency["predicted"], "{:.3f}"),
            _number(latency.get("budget"), "{:.3f}"),
            "",
        )
    elif latency:
        yield (
            "latency, ms",
            _number(latency.get("dense"), "{:.2f}"),
            _number(latency.get("compressed"), "{:.2f}"),
            _number(latency.get("budget"), "{:.2f}"),
            _interval(latency.get("ci95"), "{:.2f}"),
        )
    speedup = validation.get("speedup")
    if speedup and speedup.get("value") is not None:
        asked = plan.budget.value if plan.budget.kind == "speedup" else None
        yield (
            "speed-up",
            "1x",
            _number(speedup.get("value"), "{:.2f}x"),
            _number(asked, "{:.2f}x"),
            _interval(speedup.get("ci95"), "{:.2f}"),
        )
    metric = validation.get("metric")
    if metric and metric.get("compressed") is not None:
        yield (
            str(metric.get("name", "metric")),
            _number(metric.get("dense"), "{:.4f}"),
            _number(metric.get("compressed"), "{:.4f}"),
            _ABSENT,
            _interval(metric.get("ci95"), "{:.4f}"),
        )
    size = validation.get("size_bytes")
    if size:
        dense, compressed = (None if size.get(k) is None else size[k] / 1e6 for k in ("dense", "compressed"))
        yield "size, MB", _number(dense, "{:.1f}"), _number(compressed, "{:.1f}"), _ABSENT, ""
    asked = plan.budget.value if plan.budget.kind == "macs" else None
    yield "encoder MACs", "100 %", f"{plan.macs_fraction:.1%}".replace("%", " %"), _percent(asked), ""


def candidates(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Every candidate of a run: precision, what it keeps, what was measured, what became of it."""
    cells = [
        (
            str(row["precision"]),
            _percent(row["macs_fraction"]),
            _number(row["latency_ms"], "{:.2f}"),
            _number(row["metric"], "{:.4f}"),
            _number(None if row["size_bytes"] is None else row["size_bytes"] / 1e6, "{:.1f}"),
            escape(str(row["outcome"])),
        )
        for row in rows
    ]
    _show(console, _table(console, ("candidate", "MACs", "ms", "metric", "MB", "outcome"), cells))


def swept(found: Swept) -> None:
    """The table of a sweep; a star for what is on the front."""
    console = _console()
    rows = [
        (
            point.budget,
            escape(point.engine),
            _percent(point.macs_fraction),
            f"{point.latency_ms:.2f}",
            f"{point.speedup:.2f}x",
            _interval(point.speedup_ci95, "{:.2f}"),
            f"{point.metric:.4f}",
            f"{point.size_bytes / 1e6:.1f}",
            "refused" if point.refused else point.verdict,
            "*" if point.front else "",
        )
        for point in found.points
    ]
    columns = (
        "budget",
        "engine",
        "MACs",
        "ms",
        "speed-up",
        "95 % interval",
        found.metric_name,
        "MB",
        "verdict",
        "front",
    )
    _show(console, _table(console, columns, rows, left=2))
    _say(console, f"sweep: {found.output}")


def plan(plan: Plan) -> None:
    """A plan before it is carried out."""
    console = _console()
    _layers(console, plan.shape, plan.structure.widths)
    # Its first line and its closing lines; the layers are the bars above.
    head, *rest = plan.explain().splitlines()
    for line in (head, *(line for line in rest if not line.startswith("  layer"))):
        _say(console, line)


def _layers(console: Console, shape: EncoderShape, widths: Widths) -> None:
    ascii_only = "utf" not in (console.encoding or "").lower()
    rows = [
        (
            str(number),
            f"{bar(heads, shape.heads, ascii_only=ascii_only)} {_kept(heads, shape.heads)}",
            f"{bar(filters, shape.filters, ascii_only=ascii_only)} {_kept(filters, shape.filters)}",
        )
        for number, (heads, filters) in enumerate(zip(widths.heads, widths.filters, strict=True))
    ]
    _show(console, _table(console, ("layer", "heads", "filters"), rows, left=3))


def _kept(kept: int, of: int) -> str:
    return f"{kept:>{len(str(of))}}/{of}" if kept else f"{0:>{len(str(of))}}/{of} removed"


def why(reasons: Mapping[str, Any]) -> None:
    """Milliseconds per sublayer, largest first within reach of the eye: a bar for its share of the whole."""
    console = _console()
    ascii_only = "utf" not in (console.encoding or "").lower()
    total = float(reasons["total_ms"])
    rows = [
        (
            str(part["layer"]),
            str(part["kind"]),
            f"{part['width']}/{part['of']}",
            f"{part['ms']:.3f}",
            _percent(part["share"]),
            bar(part["share"], 1, ascii_only=ascii_only),
        )
        for part in reasons["sublayers"]
    ]
    fixed = float(reasons["fixed_ms"])
    share = fixed / total if total else 0.0
    rows.append(("", "embeddings, head", "", f"{fixed:.3f}", _percent(share), bar(share, 1, ascii_only=ascii_only)))
    rows.append(("", "all", "", f"{total:.3f}", _percent(1.0), ""))
    _show(console, _table(console, ("layer", "part", "kept", "ms", "share", ""), rows, left=2))
    for name, title in (("one_more_ms", "One more ms would buy:"), ("one_less_ms", "One less ms would cost:")):
        lines = reasons.get(name) or []
        if lines:
            _say(console, title, "bold")
        for line in [lines] if isinstance(lines, str) else lines:
            _say(console, f"  {line}")


def gated(report: Report, heaviest: Sequence[Part] | None = None) -> None:
    """A gate's verdict: a row per limit, what did not pass in a sentence, and what weighs where asked."""
    from compress.gate.formats import TITLES, cells, explained

    console = _console()
    rows = []
    for judgement in report.judgements:
        what, value, spread, asked, verdict = map(escape, cells(judgement))
        rows.append((f"[{_VERDICT_STYLE[judgement.verdict]}]{verdict}[/]", what, value, spread, asked))
    _show(console, _table(console, ("", "limit", "found", "interval", "asked"), rows, left=2))
    for judgement in report.judgements:
        if judgement.verdict != "pass":
            _say(console, explained(judgement))
    for note in report.notes:
        _say(console, f"note: {note}")
    if heaviest is not None:
        _parts(console, heaviest)
    elif any(judgement.verdict == "fail" and judgement.limit.kind.weighs for judgement in report.judgements):
        _say(console, f"What weighs: compress gate {report.artifact} ... --why", "dim")
    _say(console, f"gate: {TITLES[report.verdict]}", _VERDICT_STYLE[report.verdict])


def _parts(console: Console, heaviest: Sequence[Part]) -> None:
    ascii_only = "utf" not in (console.encoding or "").lower()
    whole = sum(part.size_bytes or 0 for part in heaviest)
    rows = [
        (
            part.name,
            _number(None if part.size_bytes is None else part.size_bytes / 1e6, "{:.2f}"),
            _number(part.ms, "{:.3f}"),
            bar(part.size_bytes or 0, whole, ascii_only=ascii_only),
        )
        for part in heaviest
    ]
    _show(console, _table(console, ("part of model.onnx", "MB", "ms", "share of the bytes"), rows))


def verified(artifact: str, found: Verified) -> None:
    """What `compress verify` found: a line for each file that is not as it was written."""
    console = _console()
    for finding in found.findings:
        _say(console, f"{finding.problem}: {printable(finding.file)}: {printable(finding.detail)}", "red")
    if found.findings:
        _say(console, f"{printable(artifact)} is not as it was written: restore it, or make it again", "bold red")
    else:
        _say(console, f"{printable(artifact)}: all {found.files} files are as compress {found.written_by} wrote them")


def targets(known: Sequence[Target]) -> None:
    """The targets there are, and where a run here takes their profiles from."""
    from compress.profile.target import provenance

    console = _console()
    rows = [
        (
            escape(target.name),
            escape(target.device),
            target.runtime,
            target.precision,
            provenance(target),
            escape(target.description or ""),
        )
        for target in known
    ]
    _show(
        console, _table(console, ("target", "device", "runtime", "precision", "profile", "description"), rows, left=6)
    )


def findings(found: Sequence[Check]) -> None:
    """What `compress doctor` found."""
    console = _console()
    style = {"ok": "green", "warning": "yellow", "problem": "red"}
    rows = [
        (
            f"[{style[finding.state]}]{finding.state}[/]",
            escape(finding.name),
            escape(finding.value) + (f"; {escape(finding.remedy)}" if finding.remedy else ""),
        )
        for finding in found
    ]
    _show(console, _table(console, ("", "what", "found"), rows, left=3))


def _number(value: float | None, template: str) -> str:
    return _ABSENT if value is None else template.format(value)


def _percent(value: float | None) -> str:
    return _ABSENT if value is None else f"{100 * value:.1f} %"


def _interval(bounds: Sequence[float] | None, template: str) -> str:
    return "" if not bounds else f"{template.format(bounds[0])} to {template.format(bounds[1])}"
