"""The page of several artifacts side by side."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from compress.report import formatting as fmt
from compress.report.artifact_page import model_name, verdict_of
from compress.report.page import Block, Cell, Note, Page, Picture, Rows, Section, section
from compress.report.sources import Sources
from compress.report.svg import Kept, Mark, chart, kept

# What has to be equal for latencies, or metrics, to be compared.
_SAME_LATENCY = (
    ("devices", ("deployment", "device", "processor")),
    ("numbers of threads", ("deployment", "device", "threads")),
    ("targets", ("deployment", "target")),
    ("batch sizes", ("deployment", "batch_size")),
    ("lengths", ("deployment", "seq_len")),
)


def comparison_page(artifacts: Sequence[Sources]) -> Page:
    """Artifacts side by side, in the order given; each has a letter, which pictures name it by."""
    letters = [_letter(number) for number in range(len(artifacts))]
    names = [
        f"{letter}: {fmt.plain(a.name or model_name(a), 60)}" for letter, a in zip(letters, artifacts, strict=True)
    ]
    return Page(
        title=f"{len(artifacts)} artifacts compared",
        subtitle=" · ".join(names),
        warnings=tuple(_warnings(artifacts)),
        sections=(
            section("figures", "Figures", _figures(artifacts, names), _picture(artifacts, letters)),
            _kept(artifacts, names),
            _origin(artifacts, names),
        ),
        footer="Made by compress. Every figure is that of the artifact's own validation.json.",
    )


def _letter(number: int) -> str:
    first, last = divmod(number, 26)
    return (string.ascii_uppercase[first - 1] if first else "") + string.ascii_uppercase[last]


def _warnings(artifacts: Sequence[Sources]) -> list[str]:
    measured = [a for a in artifacts if a.validation]
    found = []
    for what, path in _SAME_LATENCY:
        values = {str(a.validation.at(*path)) for a in measured}
        if len(values) > 1:
            said = ", ".join(fmt.plain(value, 60) for value in sorted(values))
            found.append(f"Latencies cannot be compared: the artifacts were measured on different {what} ({said}).")
            break
    if any(a.validation.number("latency_ms", "compressed") is None for a in measured):
        found.append("Some latencies are estimated or predicted, not measured: they are marked.")
    metrics = {str(a.validation.at("metric", "name")) for a in measured}
    data = {str(a.manifest.at("data", "evaluation", "sha256")) for a in measured}
    if len(metrics) > 1 or len(data) > 1:
        what = "metrics" if len(metrics) > 1 else "evaluation data"
        found.append(f"Accuracies cannot be compared: the artifacts were evaluated with different {what}.")
    return found


def _latency(artifact: Sources) -> str:
    found = artifact.validation.number("latency_ms", "compressed")
    if found is not None:
        return fmt.milliseconds(found)
    predicted = artifact.validation.number("latency_ms", "predicted")
    how = "estimated" if artifact.plan.estimated else "predicted"
    return fmt.UNKNOWN if predicted is None else f"{fmt.milliseconds(predicted)}, {how}"


def _speedup(artifact: Sources) -> str:
    found = artifact.validation.number("speedup", "value")
    if found is not None:
        return fmt.times(found)
    predicted = artifact.validation.number("speedup", "predicted")
    return fmt.UNKNOWN if predicted is None else f"{fmt.times(predicted)}, predicted"


def _change(artifact: Sources) -> str:
    drop = artifact.validation.number("metric", "drop", "value")
    return fmt.signed(None if drop is None else -drop)


def _figures(artifacts: Sequence[Sources], names: Sequence[str]) -> list[Block]:
    rows = Rows()
    states = [verdict_of(a)[0] for a in artifacts]
    rows.add("verdict", *(Cell(state or "not measured", strong=True, state=state) for state in states))
    table: tuple[tuple[str, Callable[[Sources], str]], ...] = (
        ("budget", lambda a: str(a.plan.budget)),
        (
            "number format",
            lambda a: fmt.plain(a.validation.text("deployment", "precision") or fmt.UNKNOWN, 20),
        ),
        ("latency", _latency),
        ("latency, 95 % interval", lambda a: fmt.between(a.validation.interval("latency_ms", "ci95"))),
        ("latency, dense", lambda a: fmt.milliseconds(a.validation.number("latency_ms", "dense"))),
        ("speed-up", _speedup),
        ("speed-up, 95 % interval", lambda a: fmt.between(a.validation.interval("speedup", "ci95"))),
        ("metric", lambda a: fmt.plain(a.validation.text("metric", "name") or fmt.UNKNOWN, 40)),
        ("its value", lambda a: fmt.score(a.validation.number("metric", "compressed"))),
        ("95 % interval", lambda a: fmt.between(a.validation.interval("metric", "ci95"), ".4f")),
        ("change against dense", _change),
        ("size", lambda a: fmt.megabytes(a.validation.number("size_bytes", "compressed"))),
        ("MACs kept", lambda a: fmt.percent(a.plan.macs_fraction)),
        ("heads kept", lambda a: str(sum(a.plan.structure.widths.heads))),
        ("filters kept", lambda a: str(sum(a.plan.structure.widths.filters))),
        ("parity, largest difference", lambda a: _number(a.validation.number("parity", "max_abs_diff"))),
    )
    for name, read in table:
        rows.add(name, *(read(artifact) for artifact in artifacts))
    return rows.table("Side by side", ("", *names))


def _number(value: float | None) -> str:
    return fmt.UNKNOWN if value is None else f"{value:.2g}"


def _picture(artifacts: Sequence[Sources], letters: Sequence[str]) -> list[Block]:
    marks, said = [], []
    for letter, artifact in zip(letters, artifacts, strict=True):
        validation = artifact.validation
        latency, metric = validation.number("latency_ms", "compressed"), validation.number("metric", "compressed")
        if latency is None or metric is None:
            continue
        marks.append(
            Mark(
                latency,
                metric,
                label=letter,
                x_range=validation.interval("latency_ms", "ci95"),
                y_range=validation.interval("metric", "ci95"),
            )
        )
        said.append(f"{letter}: {latency:.2f} ms, {metric:.4f}")
    if not marks:
        return []
    metric_name = fmt.short(artifacts[0].validation.text("metric", "name") or "metric")
    svg = chart(
        "side-by-side",
        f"{metric_name.capitalize()} against measured latency",
        "; ".join(said),
        x_title="milliseconds per call, measured",
        y_title=metric_name,
        marks=marks,
    )
    return [Picture(svg, "Lines are 95 % intervals. Further left is faster, further up more accurate.")]


def _kept(artifacts: Sequence[Sources], names: Sequence[str]) -> Section:
    blocks: list[Block] = []
    for number, (artifact, name) in enumerate(zip(artifacts, names, strict=True)):
        shape, structure = artifact.plan.shape, artifact.plan.structure
        for what, units, of in (
            ("Heads", structure.heads, shape.heads),
            ("Filters", structure.filters, shape.filters),
        ):
            svg = kept(f"kept-{what.lower()}-{number}", f"{what} kept by {name}", [Kept(u, of) for u in units])
            blocks.append(Picture(svg, f"{what} of {name}."))
    return section("kept", "What was kept", blocks, Note("Filled: kept. Outlined: removed."))


def _origin(artifacts: Sequence[Sources], names: Sequence[str]) -> Section:
    rows = Rows()
    table: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("model", ("model", "name")),
        ("model, SHA-256", ("model", "sha256")),
        ("calibration data, SHA-256", ("data", "calibration", "sha256")),
        ("evaluation data, SHA-256", ("data", "evaluation", "sha256")),
        ("compress", ("versions", "compress")),
        ("torch", ("versions", "torch")),
        ("onnxruntime", ("versions", "onnxruntime")),
        ("device", ("device", "processor")),
        ("date", ("date",)),
    )
    for name, path in table:
        values = [artifact.manifest.text(*path) for artifact in artifacts]
        rows.add(name, *(fmt.UNKNOWN if value is None else fmt.plain(value, 64) for value in values))
    seeds = [artifact.manifest.number("seed") for artifact in artifacts]
    rows.add("seed", *(fmt.UNKNOWN if seed is None else f"{seed:g}" for seed in seeds))
    return section("provenance", "Provenance", rows.table("Where each came from", ("", *names), left=len(names) + 1))
