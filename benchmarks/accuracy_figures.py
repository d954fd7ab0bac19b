"""Variants and figures of accuracy.py, and how they are written: log, Markdown table, plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from compress.core.plan import Widths
from compress.profile.take import Profile

Method = Literal["full", "kwon"]


@dataclass(frozen=True)
class Variant:
    """One method of the comparison.

    Attributes:
        label: its name in table and plot.
        importance: Fisher's diagonal (``kwon``) or structured OBS (``full``).
        search: the paper's search (``kwon``) or the exact one (``full``).
        exchange: whether units are exchanged by Fisher's blocks after the paper's search.
        repair: reconstruction: one scale per unit (``kwon``), whole matrices (``full``), or None.
        tried: whether the search tries out whole structures, for ``TRY_SECONDS``.
        joint: whether joint reconstruction follows, for as long as the effort says.
        further: whether joint reconstruction draws further examples of the data; the others learn from those of
            calibration alone.
        identity: whether structured OBS counts all directions of a sublayer's output alike, as ZipLM does, instead of
            by the loss's curvature.
    """

    label: str
    importance: Method
    search: Method
    exchange: bool = False
    repair: Method | None = None
    tried: bool = False
    joint: bool = False
    further: bool = False
    identity: bool = False


VARIANTS = {
    "kwon": Variant("kwon", "kwon", "kwon", exchange=True, repair="kwon"),
    "kwon-without-exchange": Variant("kwon without exchange", "kwon", "kwon", repair="kwon"),
    "fisher-dp": Variant("fisher + dp", "kwon", "full"),
    "fisher-dp-reconstruction": Variant("fisher + dp + reconstruction", "kwon", "full", repair="full"),
    # In one shot, that is without ZipLM's gradual pruning with training on the whole data between the steps.
    "ziplm": Variant("ZipLM-style, one shot", "full", "full", repair="full", tried=True, identity=True),
    "obs-dp": Variant("obs + dp, no reconstruction", "full", "full"),
    "obs-dp-reconstruction": Variant("obs + dp + reconstruction", "full", "full", repair="full"),
    "obs-spdy-reconstruction": Variant("obs + spdy + reconstruction", "full", "full", repair="full", tried=True),
    "same-examples": Variant("and joint reconstruction, same examples", "full", "full", repair="full", joint=True),
    "full": Variant("full: on further examples too", "full", "full", repair="full", joint=True, further=True),
    "tried": Variant(
        "full, whole structures tried", "full", "full", repair="full", tried=True, joint=True, further=True
    ),
}


@dataclass(frozen=True)
class Figures:
    """Figures of one model: a variant at a budget with a seed.

    Attributes:
        metric: metric on the evaluation data.
        kl: mean divergence from the dense model on rows used neither for calibration nor for evaluation; None without
            such rows.
        macs: fraction of the dense sublayers' multiply-accumulates that is left.
        widths: heads and filters of every layer.
        seconds: seconds per stage.
    """

    metric: float
    kl: float | None
    macs: float
    widths: Widths
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Results:
    """All figures so far.

    Attributes:
        settings: model, data and options in one line.
        log: JSON lines with every figure; figures in it are not computed again. None keeps no log.
        metric_name: name of the metric.
        dense: the dense model's metric, by seed.
        figures: figures by variant, budget and seed.
    """

    settings: str
    log: Path | None = None
    metric_name: str = "metric"
    dense: dict[int, float] = field(default_factory=dict)
    figures: dict[tuple[str, float, int], Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.log is None or not self.log.exists():
            return
        for line in self.log.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.pop("settings") != self.settings:
                continue
            self.metric_name = row.pop("metric_name")
            seed, variant = row.pop("seed"), row.pop("variant")
            if variant == "dense":
                self.dense[seed] = row["metric"]
            else:
                widths = Widths(**{kind: tuple(units) for kind, units in row.pop("widths").items()})
                budget = row.pop("budget")
                self.figures[variant, budget, seed] = Figures(widths=widths, **row)

    def add_dense(self, seed: int, metric: float) -> None:
        if seed not in self.dense:
            self.dense[seed] = metric
            self._write(seed, variant="dense", metric=metric)

    def add(self, variant: str, budget: float, seed: int, found: Figures) -> None:
        self.figures[variant, budget, seed] = found
        self._write(seed, variant=variant, budget=budget, **asdict(found))

    def _write(self, seed: int, **row: Any) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"settings": self.settings, "metric_name": self.metric_name, "seed": seed, **row})
                )
                file.write("\n")

    def of(self, variant: str, budget: float) -> list[Figures]:
        """Returns the figures of a variant at a budget, one per seed."""
        return [found for (name, macs, _), found in self.figures.items() if (name, macs) == (variant, budget)]

    def variants(self) -> list[str]:
        return [name for name in VARIANTS if any(name == variant for variant, _, _ in self.figures)]

    def budgets(self) -> list[float]:
        return sorted({budget for _, budget, _ in self.figures}, reverse=True)


def render(results: Results) -> str:
    """Returns the results so far in Markdown."""
    budgets, seeds = results.budgets(), len(results.dense)
    header = " | ".join(f"{budget:g}" for budget in budgets)
    spread = f"mean of {seeds} seeds (least–largest)" if seeds > 1 else "one seed"

    def section(title: str, cell: Callable[[list[Figures]], str], first: str | None = None) -> list[str]:
        lines = [f"**{title}**", "", f"| MACs kept | {header} |", f"|---|{'---|' * len(budgets)}"]
        if first is not None:
            lines.append(f"| dense | {' | '.join([first] * len(budgets))} |")
        for name in results.variants():
            # An interrupted benchmark has no figures for some variants.
            cells = (cell(found) if found else "–" for found in (results.of(name, budget) for budget in budgets))
            lines.append(f"| {VARIANTS[name].label} | {' | '.join(cells)} |")
        return [*lines, ""]

    lines = section(
        f"{results.metric_name}, %, {spread}",
        lambda found: _spread([100 * f.metric for f in found], 2),
        first=_spread([100 * value for value in results.dense.values()], 2),
    )
    lines += section(
        f"KL to the dense model on unseen training rows, {spread}",
        lambda found: _spread([f.kl for f in found if f.kl is not None], 4),
    )
    lines += section("MACs really kept, mean", lambda found: f"{np.mean([f.macs for f in found]):.3f}")
    stages = list(next(iter(results.figures.values())).seconds)
    lines += ["**seconds, mean over seeds and budgets**", ""]
    lines += [f"| | {' | '.join(stages)} | all |", f"|---|{'---|' * (len(stages) + 1)}"]
    for name in results.variants():
        found = [f for budget in budgets for f in results.of(name, budget)]
        means = [float(np.mean([f.seconds[stage] for f in found])) for stage in stages]
        lines.append(f"| {VARIANTS[name].label} | {' | '.join(f'{s:.1f}' for s in means)} | {sum(means):.1f} |")
    return "\n".join([*lines, "", f"{results.settings}; {_machine()}"]) + "\n"


def draw(results: Results, path: Path, profile: Profile | None) -> None:
    """Plots metric and KL against the MACs kept and against latency; bands span all seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns: list[tuple[str, Callable[[Figures], float]]] = [("MACs kept", lambda f: f.macs)]
    if profile is not None:
        table = profile.table
        columns.append((f"latency on '{profile.target}', ms", lambda f: table.predict(f.widths)))
    rows: list[tuple[str, Callable[[Figures], float]]] = [
        (f"{results.metric_name}, %", lambda f: 100 * f.metric),
        ("KL to the dense model", lambda f: float("nan") if f.kl is None else f.kl),
    ]
    size = (5.5 * len(columns) + 1, 8)
    figure, grid = pyplot.subplots(2, len(columns), figsize=size, layout="constrained", squeeze=False, sharex="col")
    for axes, (y_label, y) in zip(grid, rows, strict=True):
        for one, (x_label, x) in zip(axes, columns, strict=True):
            for name in results.variants():
                found = [results.of(name, budget) for budget in reversed(results.budgets())]
                places = [float(np.mean([x(f) for f in seeds])) for seeds in found if seeds]
                values = [[y(f) for f in seeds] for seeds in found if seeds]
                (line,) = one.plot(places, [np.mean(v) for v in values], marker="o", label=VARIANTS[name].label)
                low, high = [min(v) for v in values], [max(v) for v in values]
                one.fill_between(places, low, high, color=line.get_color(), alpha=0.15)
            one.set(ylabel=y_label)
            one.grid(color="0.9")
            if y is rows[0][1]:
                one.axhline(
                    100 * float(np.mean(list(results.dense.values()))), color="0.6", linestyle=":", label="dense"
                )
            else:
                one.set(yscale="log", xlabel=x_label)
    grid[0, 0].legend(fontsize="small")
    figure.suptitle(results.settings, fontsize="medium")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    mean = number_text(float(np.mean(values)), digits)
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else mean


def number_text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in ("compress", "torch", "transformers"))
    return f"{cores} cores, {platform.machine()}, {date.today()}, {versions}"
