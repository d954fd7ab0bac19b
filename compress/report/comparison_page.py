"""The page of several artifacts side by side."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from compress.artifact.validation import Deployment
from compress.report import formatting as fmt
from compress.report.artifact_page import model_name, verdict_of
from compress.report.page import Block, Cell, Note, Page, Picture, Rows, Section, section
from compress.report.sources import Sources
from compress.report.svg import Kept, Mark, chart, kept

# What has to be equal for latencies to be compared.
_SAME_LATENCY: tuple[tuple[str, Callable[[Deployment], object]], ...] = (
    ("devices", lambda deployment: deployment.device.get("processor")),
    ("numbers of threads", lambda deployment: deployment.device.get("threads")),
    ("targets", lambda deployment: deployment.target),
    ("batch sizes", lambda deployment: deployment.batch_size),
    ("lengths", lambda deployment: deployment.seq_len),
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
    measured = [a for a in artifacts if not a.validation.empty]
    found = []
    for what, of in _SAME_LATENCY:
        deployments = [a.validation.deployment for a in measured]
        values = {str(None if deployment is None else of(deployment)) for deployment in deployments}
        if len(values) > 1:
            said = ", ".join(fmt.plain(value, 60) for value in sorted(values))
            found.append(f"Latencies cannot be compared: the artifacts were measured on different {what} ({said}).")
            break
    if any(a.how != "measured" for a in measured):
        found.append("Some latencies are estimated or predicted, not measured: they are marked.")
    metrics = {a.row("metric").name for a in measured}
    data = {str(a.manifest.at("data", "evaluation", "sha256")) for a in measured}
    if len(metrics) > 1 or len(data) > 1:
        what = "metrics" if len(metrics) > 1 else "evaluation data"
        found.append(f"Accuracies cannot be compared: the artifacts were evaluated with different {what}.")
    return found


def _latency(artifact: Sources) -> str:
    found, how = artifact.row("latency").compressed, artifact.how
    return fmt.milliseconds(found) + ("" if found is None or how == "measured" else f", {how}")


def _dense_latency(artifact: Sources) -> str:
    return fmt.milliseconds(artifact.row("latency").dense if artifact.how == "measured" else None)


def _speedup(artifact: Sources) -> str:
    found = artifact.row("speedup").compressed
    return fmt.times(found) + ("" if found is None or artifact.how == "measured" else ", predicted")


def _precision(artifact: Sources) -> str:
    deployment = artifact.validation.deployment
    return fmt.plain((deployment.precision if deployment is not None else "") or fmt.UNKNOWN, 20)


def _parity(artifact: Sources) -> str:
    parity = artifact.validation.parity
    return fmt.UNKNOWN if parity is None else f"{parity.max_abs_diff:.2g}"


def _figures(artifacts: Sequence[Sources], names: Sequence[str]) -> list[Block]:
    rows = Rows()
    states = [verdict_of(a)[0] for a in artifacts]
    rows.add("verdict", *(Cell(state or "not measured", strong=True, state=state) for state in states))
    table: tuple[tuple[str, Callable[[Sources], str]], ...] = (
        ("budget", lambda a: str(a.plan.budget)),
        ("number format", _precision),
        ("latency", _latency),
        ("latency, 95 % interval", lambda a: fmt.between(a.row("latency").interval)),
        ("latency, dense", _dense_latency),
        ("speed-up", _speedup),
        ("speed-up, 95 % interval", lambda a: fmt.between(a.row("speedup").interval)),
        ("metric", lambda a: fmt.plain(a.row("metric").name or fmt.UNKNOWN, 40)),
        ("its value", lambda a: fmt.score(a.row("metric").compressed)),
        ("95 % interval", lambda a: fmt.between(a.row("metric").interval, ".4f")),
        ("change against dense", lambda a: fmt.signed(a.row("change").compressed)),
        ("size", lambda a: fmt.megabytes(a.row("size").compressed)),
        ("MACs kept", lambda a: fmt.percent(a.plan.macs_fraction)),
        ("heads kept", lambda a: str(sum(a.plan.structure.widths.heads))),
        ("filters kept", lambda a: str(sum(a.plan.structure.widths.filters))),
        ("parity, largest difference", _parity),
    )
    for name, read in table:
        rows.add(name, *(read(artifact) for artifact in artifacts))
    return rows.table("Side by side", ("", *names))


def _picture(artifacts: Sequence[Sources], letters: Sequence[str]) -> list[Block]:
    marks, said = [], []
    for letter, artifact in zip(letters, artifacts, strict=True):
        latency, metric = artifact.row("latency"), artifact.row("metric")
        if artifact.how != "measured" or latency.compressed is None or metric.compressed is None:
            continue
        x, y = latency.compressed, metric.compressed
        marks.append(Mark(x, y, label=letter, x_range=latency.interval, y_range=metric.interval))
        said.append(f"{letter}: {x:.2f} ms, {y:.4f}")
    if not marks:
        return []
    metric_name = fmt.short(artifacts[0].row("metric").name or "metric")
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
