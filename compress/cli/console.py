"""What a person reads on stdout: tables and bars. Colours and boxes on a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from compress.artifact import summary
from compress.artifact.validation import FLOAT_SUMS, Sections
from compress.cli.terminal import ABSENT, bar, between, formatted, millions, percent, say, show, table, terminal
from compress.core.parsing import printable

if TYPE_CHECKING:
    from compress.artifact.validation import Candidate, KeptFile, Weights
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

_VERDICT_STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}


def configuration(resolved: Resolved) -> None:
    """Every option, its value and where it came from."""
    console = terminal()
    rows = [
        (name, ABSENT if value is None else escape(str(value)), escape(origin))
        for name, value, origin in resolved.rows()
    ]
    show(console, table(console, ("option", "value", "from"), rows, left=3))


def foreseen(rows: Sequence[Foreseen]) -> None:
    """What a resumed run would use again and what it would make, with seconds as they were last time."""
    from compress.cache.memo import duration

    console = terminal()
    cells = []
    for row in rows:
        age = ABSENT if row.age_seconds is None else duration(row.age_seconds)
        seconds = ABSENT if row.last_seconds is None else f"{row.last_seconds:.1f}"
        cells.append((row.stage, row.label or ABSENT, "stored" if row.stored else "to be run", age, seconds))
    say(console)
    show(console, table(console, ("stage", "of", "with --resume", "age", "seconds last time"), cells, left=3))
    left = [row.last_seconds for row in rows if not row.stored]
    if not left:
        say(console, "nothing is left to be run but the writing")
    elif None not in left:
        say(console, f"to be run: about {duration(sum(seconds or 0.0 for seconds in left))}, as last time")


def stored(store: Store, entries: Sequence[Entry]) -> None:
    """The results in a cache, and what they take.

    Args:
        store: the cache.
        entries: its results.
    """
    from compress.cache.memo import duration

    console = terminal()
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
        show(console, table(console, ("stage", "of", "MB", "age", "last used", "seconds to make"), rows, left=2))
    total = sum(entry.size_bytes for entry in entries)
    say(
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
        "spent": result.spent,
    }


def result(result: RunResult, config: RunConfig | None = None) -> None:
    """The summary of a run: dense, compressed, budget; what each layer kept; the verdict.

    Args:
        result: of the run.
        config: names target and budget; None leaves them out.
    """
    console = terminal()
    validation = Sections.of(result.validation)
    weights = validation.unstructured
    if weights is not None:
        _weights(console, weights)
    else:
        if validation.unpruned is not None and validation.unpruned.sentence:
            say(console, escape(validation.unpruned.sentence), "bold")
        rows = list(_summary(validation, result.plan))
        show(console, table(console, ("", "dense", "compressed", "budget", "95 % interval"), rows))
        _layers(console, result.plan.shape, result.plan.structure.widths)
    if len(validation.candidates) > 1:
        _candidates(console, validation.candidates)
    if validation.kept:
        _beside(console, validation.kept)
    if "interpolated" in (result.plan.latency_source or ""):
        say(console, "The plan rests on a profile interpolated between two lengths that were taken.", "yellow")
    if result.plan.estimated:
        say(console, "The plan rests on an estimated profile: run `compress validate` on the device.", "yellow")
    if result.seconds:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items())
        say(console, f"seconds: {stages}; {sum(result.seconds.values()):.1f} in all", "dim")
    if result.output is not None:
        say(console, f"artifact: {result.output}")
    invariance = validation.invariance
    if invariance is not None and invariance.largest > FLOAT_SUMS:
        differ = f"by up to {invariance.largest:.2g}, {invariance.said}"
        say(console, f"Answers depend on what shares a call: {differ}.", "yellow")
    if validation.reason:
        say(console, validation.reason)
    where = ""
    if config is not None and weights is None:
        # The target's file may name several, of which one was taken.
        target = config.target if validation.deployment is None else validation.deployment.target
        where = f" on {target}, budget {config.budget}"
    say(console, f"verdict: {result.verdict}{where}", _VERDICT_STYLE.get(result.verdict))


def _weights(console: Console, weights: Weights) -> None:
    """Accuracy and bytes, what every layer kept, and what it does not bring."""
    from compress.artifact import sparse

    show(console, table(console, sparse.COLUMNS, sparse.rows(weights)))
    ascii_only = "utf" not in (console.encoding or "").lower()
    for layer in weights.layers:
        drawn = bar(layer.remaining, 1.0, ascii_only=ascii_only)
        say(console, f"layer {layer.layer:2d}  {drawn}  {sparse.percent(layer.remaining)}")
    for line in sparse.stored_lines(weights):
        say(console, f"in the compact file: {line}", "dim")
    say(console, sparse.BYTES_NOT_TIME, "yellow")


def _summary(validation: Sections, plan: Plan) -> Iterable[tuple[str, ...]]:
    """The result table's rows, as cells."""
    for row in summary.rows(validation, plan):
        values = row.dense, row.compressed, row.budget
        if row.kind == "latency":
            timed = row.how in ("measured", None)
            name = "latency, ms" if timed else f"latency, ms (predicted, {plan.latency_source} profile)"
            template = "{:.2f}" if timed else "{:.3f}"
            yield name, *(formatted(value, template) for value in values), between(row.interval, template)
        elif row.kind == "speedup" and row.how == "measured":
            _, *others = values
            yield "speed-up", "1x", *(formatted(value, "{:.2f}x") for value in others), between(row.interval, "{:.2f}")
        elif row.kind == "latency unpruned":
            template = "{:.2f}" if row.how == "measured" else "{:.3f}"
            name = f"against dense {row.name}, ms"
            yield escape(name), *(formatted(value, template) for value in values), ""
        elif row.kind == "speedup unpruned":
            yield (
                "speed-up over that",
                "1x",
                formatted(row.compressed, "{:.2f}x"),
                ABSENT,
                between(row.interval, "{:.2f}"),
            )
        elif row.kind == "metric":
            yield row.name, *(formatted(value, "{:.4f}") for value in values), between(row.interval, "{:.4f}")
        elif row.kind == "size":
            dense, compressed = (formatted(millions(value), "{:.1f}") for value in (row.dense, row.compressed))
            yield "size, MB", dense, compressed, ABSENT, ""
        elif row.kind == "macs":
            yield "encoder MACs", "100 %", percent(row.compressed), percent(row.budget), ""


def _candidates(console: Console, rows: Sequence[Candidate]) -> None:
    """Every candidate of a run: precision, what it keeps, what was measured, what became of it."""
    cells = [
        (
            row.precision,
            percent(row.macs_fraction),
            formatted(row.latency_ms, "{:.2f}"),
            formatted(row.metric, "{:.4f}"),
            formatted(millions(row.size_bytes), "{:.1f}"),
            escape(row.outcome),
        )
        for row in rows
    ]
    show(console, table(console, ("candidate", "MACs", "ms", "metric", "MB", "outcome"), cells))


def _beside(console: Console, kept: Sequence[KeptFile]) -> None:
    """Files beside model.onnx: the same model in other number formats."""
    cells = [
        (
            escape(one.file),
            escape(one.precision),
            *summary.timing_of(one),
            f"{one.metric.compressed:.4f}",
            f"{one.size_bytes.compressed / 1e6:.1f}",
            one.verdict,
        )
        for one in kept
    ]
    show(console, table(console, ("beside model.onnx", "", "ms", "speed-up", "metric", "MB", "verdict"), cells, left=2))


def swept(found: Swept) -> None:
    """The table of a sweep; a star for what is on the front."""
    console = terminal()
    rows = [
        (
            point.budget,
            escape(point.engine),
            percent(point.macs_fraction),
            f"{point.latency_ms:.2f}",
            f"{point.speedup:.2f}x",
            between(point.speedup_ci95, "{:.2f}"),
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
    show(console, table(console, columns, rows, left=2))
    say(console, f"sweep: {found.output}")


def plan(plan: Plan) -> None:
    """A plan before it is carried out."""
    console = terminal()
    _layers(console, plan.shape, plan.structure.widths)
    # Its first line and its closing lines; the layers are the bars above.
    head, *rest = plan.explain().splitlines()
    for line in (head, *(line for line in rest if not line.startswith("  layer"))):
        say(console, line)


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
    show(console, table(console, ("layer", "heads", "filters"), rows, left=3))


def _kept(kept: int, of: int) -> str:
    return f"{kept:>{len(str(of))}}/{of}" if kept else f"{0:>{len(str(of))}}/{of} removed"


def why(reasons: Mapping[str, Any]) -> None:
    """Milliseconds per sublayer, largest first within reach of the eye: a bar for its share of the whole."""
    console = terminal()
    ascii_only = "utf" not in (console.encoding or "").lower()
    total = float(reasons["total_ms"])
    rows = [
        (
            str(part["layer"]),
            str(part["kind"]),
            f"{part['width']}/{part['of']}",
            f"{part['ms']:.3f}",
            percent(part["share"]),
            bar(part["share"], 1, ascii_only=ascii_only),
        )
        for part in reasons["sublayers"]
    ]
    fixed = float(reasons["fixed_ms"])
    share = fixed / total if total else 0.0
    rows.append(("", "embeddings, head", "", f"{fixed:.3f}", percent(share), bar(share, 1, ascii_only=ascii_only)))
    rows.append(("", "all", "", f"{total:.3f}", percent(1.0), ""))
    show(console, table(console, ("layer", "part", "kept", "ms", "share", ""), rows, left=2))
    for name, title in (("one_more_ms", "One more ms would buy:"), ("one_less_ms", "One less ms would cost:")):
        lines = reasons.get(name) or []
        if lines:
            say(console, title, "bold")
        for line in [lines] if isinstance(lines, str) else lines:
            say(console, f"  {line}")


def gated(report: Report, heaviest: Sequence[Part] | None = None) -> None:
    """A gate's verdict: a row per limit, what did not pass in a sentence, and what weighs where asked.

    Args:
        report: the gate's.
        heaviest: parts of the model file; None where that was not asked for.
    """
    from compress.gate.formats import TITLES, cells, explained

    console = terminal()
    rows = []
    for judgement in report.judgements:
        what, value, spread, asked, verdict = map(escape, cells(judgement))
        rows.append((f"[{_VERDICT_STYLE[judgement.verdict]}]{verdict}[/]", what, value, spread, asked))
    show(console, table(console, ("", "limit", "found", "interval", "asked"), rows, left=2))
    for judgement in report.judgements:
        if judgement.verdict != "pass":
            say(console, explained(judgement))
    for note in report.notes:
        say(console, f"note: {note}")
    if heaviest is not None:
        _parts(console, heaviest)
    elif any(judgement.verdict == "fail" and judgement.limit.kind.weighs for judgement in report.judgements):
        say(console, f"What weighs: compress gate {report.artifact} ... --why", "dim")
    say(console, f"gate: {TITLES[report.verdict]}", _VERDICT_STYLE[report.verdict])


def _parts(console: Console, heaviest: Sequence[Part]) -> None:
    ascii_only = "utf" not in (console.encoding or "").lower()
    whole = sum(part.size_bytes or 0 for part in heaviest)
    rows = [
        (
            part.name,
            formatted(millions(part.size_bytes), "{:.2f}"),
            formatted(part.ms, "{:.3f}"),
            bar(part.size_bytes or 0, whole, ascii_only=ascii_only),
        )
        for part in heaviest
    ]
    show(console, table(console, ("part of model.onnx", "MB", "ms", "share of the bytes"), rows))


def verified(artifact: str, found: Verified) -> None:
    """What `compress verify` found: a line for each file that is not as it was written.

    Args:
        artifact: as the user named it.
        found: by file.
    """
    console = terminal()
    for finding in found.findings:
        say(console, f"{finding.problem}: {printable(finding.file)}: {printable(finding.detail)}", "red")
    if found.findings:
        say(console, f"{printable(artifact)} is not as it was written: restore it, or make it again", "bold red")
    else:
        say(console, f"{printable(artifact)}: all {found.files} files are as compress {found.written_by} wrote them")


def targets(known: Sequence[Target]) -> None:
    """The targets there are, and where a run here takes their profiles from."""
    from compress.profile.device import provenance

    console = terminal()
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
    show(console, table(console, ("target", "device", "runtime", "precision", "profile", "description"), rows, left=6))


def findings(found: Sequence[Check]) -> None:
    """What `compress doctor` found."""
    console = terminal()
    style = {"ok": "green", "warning": "yellow", "problem": "red"}
    rows = [
        (
            f"[{style[finding.state]}]{finding.state}[/]",
            escape(finding.name),
            escape(finding.value) + (f"; {escape(finding.remedy)}" if finding.remedy else ""),
        )
        for finding in found
    ]
    show(console, table(console, ("", "what", "found"), rows, left=3))
