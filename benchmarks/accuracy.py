"""From the paper's method to ours, one change at a time: accuracy, divergence from the dense model, seconds.

    python benchmarks/accuracy.py MODEL --data train.tsv --eval-data dev.tsv [--macs 0.5,0.4,0.3,0.2,0.1]
        [--seeds 0,1,2] [--samples 2048] [--seq-len 64] [--variants kwon,full] [--log figures.jsonl]
        [--output table.md] [--plot plot.png]

Every seed draws its own calibration examples, the same for all variants and budgets. The divergence (KL) is measured on
other rows of the training data, none of them calibrated or evaluated on: choices between methods belong there, not on
the evaluation data. Models are run in PyTorch; a MACs budget rests on nothing that is timed.

Table and plot are written anew after every seed; with --log, runs may be cut off and continued. This is a benchmark,
not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.core.errors import CompressError
from compress.core.importance import Importance, Rankings
from compress.core.plan import Budget, Plan, Widths
from compress.core.progress import Silent
from compress.data.batches import Encoded
from compress.data.load import load_data, sample_rows
from compress.inputs.load import Loaded, load
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig, make_config
from compress.profile.take import Profile
from compress.pruning.removal import remove
from compress.search.planner import SearchProblem, make_plan
from compress.stages.calibrate import calibrate
from compress.stages.context import Run
from compress.stages.prune import prune
from compress.stages.try_out import refined
from compress.tasks import Task, outputs_of

Method = Literal["full", "kwon"]
P = ParamSpec("P")
T = TypeVar("T")

# Added to a run's seed where rows are drawn that the run has not seen.
OTHER_ROWS = 10_000


@dataclass(frozen=True)
class Variant:
    """One method of the comparison.

    Attributes:
        label: in table and plot.
        weighing: whose importance it goes by: Fisher's diagonal (``kwon``) or structured OBS (``full``).
        search: the paper's, or the exact one.
        exchange: whether units are exchanged by Fisher's blocks after the paper's search.
        repair: reconstruction: one scale per unit (``kwon``), whole matrices (``full``), or none.
        tried: whether the search tries structures out as a whole, as many as the effort says.
        joint: whether joint reconstruction follows, as much as the effort says.
    """

    label: str
    weighing: Method
    search: Method
    exchange: bool = False
    repair: Method | None = None
    tried: bool = False
    joint: bool = False


VARIANTS = {
    "kwon": Variant("kwon", "kwon", "kwon", exchange=True, repair="kwon"),
    "kwon-without-exchange": Variant("kwon without exchange", "kwon", "kwon", repair="kwon"),
    "fisher-dp": Variant("fisher + dp", "kwon", "full"),
    "fisher-dp-reconstruction": Variant("fisher + dp + reconstruction", "kwon", "full", repair="full"),
    "obs-dp": Variant("obs + dp, no reconstruction", "full", "full"),
    "obs-dp-reconstruction": Variant("obs + dp + reconstruction", "full", "full", repair="full"),
    "obs-spdy-reconstruction": Variant("obs + spdy + reconstruction", "full", "full", repair="full", tried=True),
    "full": Variant("full: and joint reconstruction", "full", "full", repair="full", tried=True, joint=True),
}


@dataclass(frozen=True)
class Figures:
    """What one model of one variant, budget and seed comes to.

    Attributes:
        metric: on the evaluation data.
        kl: mean divergence from the dense model on rows neither calibrated nor evaluated on; None without such rows.
        macs: fraction of the dense sublayers' multiply-accumulates that is left.
        widths: heads and filters of every layer.
        seconds: per stage.
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
        settings: what was compared on what, one line.
        metric_name: of the evaluation.
        log: JSON lines with every figure; what stands there is not computed again. None keeps no log.
        dense: the dense model's metric, by seed.
        figures: by variant, budget and seed.
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
        """One per seed."""
        return [found for (name, macs, _), found in self.figures.items() if (name, macs) == (variant, budget)]

    def variants(self) -> list[str]:
        return [name for name in VARIANTS if any(name == variant for variant, _, _ in self.figures)]

    def budgets(self) -> list[float]:
        return sorted({budget for _, budget, _ in self.figures}, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data")
    parser.add_argument("--task")
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--label-free", action="store_true", help="calibrate without labels")
    parser.add_argument("--macs", type=_numbers(float), default=(0.5, 0.4, 0.3, 0.2, 0.1), help="budgets, 0.5,0.3")
    parser.add_argument("--seeds", type=_numbers(int), default=(0, 1, 2), help="0,1,2")
    parser.add_argument("--variants", type=_variants, default=tuple(VARIANTS), help=f"of {','.join(VARIANTS)}")
    parser.add_argument("--effort", choices=tuple(EFFORT), default="standard", help="of what is tried and joint")
    parser.add_argument("--held-out", type=int, default=1024, help="rows of the training data to measure KL on")
    parser.add_argument("--output", type=Path, help="write the table here too")
    parser.add_argument("--log", type=Path, help="keep every figure here, and compute none twice (JSON lines)")
    parser.add_argument("--plot", type=Path, help="draw metric and KL against MACs here (.png, .svg)")
    parser.add_argument("--profile", type=Path, help="measured profile: the plot has latency by it too")
    given = parser.parse_args()

    compared = f"{Path(given.model).name} on {Path(given.data).name}"
    settings = f"{compared}, {given.samples} samples{', label-free' if given.label_free else ''}, "
    results = Results(f"{settings}seq-len {given.seq_len}, effort {given.effort}", given.log)
    try:
        profile = Profile.read(given.profile) if given.profile else None
        for seed in given.seeds:
            wanted = [(name, budget, seed) for name in given.variants for budget in given.macs]
            if any(key not in results.figures for key in wanted):
                compare(given, seed, results)
            table = render(results)
            if given.output:
                given.output.write_text(table, encoding="utf-8")
            if given.plot:
                draw(results, given.plot, profile)
    except CompressError as error:
        raise SystemExit(f"error: {error}") from None
    print(table)


def compare(given: argparse.Namespace, seed: int, results: Results) -> None:
    """All variants at all budgets for one seed, added to the results."""
    config = make_config(
        {
            "model": given.model,
            "data": given.data,
            "eval_data": given.eval_data,
            "task": given.task,
            "seq_len": given.seq_len,
            "samples": given.samples,
            "label_free": given.label_free,
            "effort": given.effort,
            "seed": seed,
        }
    )
    loaded = load(config, Silent())
    model, task = loaded.checkpoint.model, loaded.checkpoint.task
    other = unseen(config, loaded, given.held_out)
    dense, dense_other = outputs_of(model, task, loaded.evaluation), outputs_of(model, task, other)
    measured = task.evaluate(dense, loaded.evaluation, dense)
    results.metric_name = measured.name
    results.add_dense(seed, measured.value)
    _say(
        f"seed {seed}: {len(loaded.calibration)} calibrated on, {len(loaded.evaluation)} evaluated, KL on {len(other)}"
    )

    weighed: dict[Method, tuple[Importance, float]] = {}
    tried: dict[tuple[Method, float], tuple[Importance, float]] = {}
    for budget in given.macs:
        for name in given.variants:
            if (name, budget, seed) in results.figures:
                continue
            variant = VARIANTS[name]
            if variant.weighing not in weighed:
                changed = config.model_copy(update={"method": variant.weighing})
                weighed[variant.weighing] = timed(calibrate, Run.silent(changed, loaded))
            importance, calibrating = weighed[variant.weighing]
            trial = 0.0
            if variant.tried:
                if (variant.weighing, budget) not in tried:
                    tried[variant.weighing, budget] = timed(tried_out, importance, budget, config, loaded)
                importance, trial = tried[variant.weighing, budget]
            plan, search = timed(planned, variant, importance, budget, config, loaded)
            pruned, repair = timed(carried_out, variant, plan, config, loaded)
            found = Figures(
                metric=task.evaluate(outputs_of(pruned, task, loaded.evaluation), loaded.evaluation, dense).value,
                kl=divergence(pruned, task, other, dense_other),
                macs=plan.macs_fraction,
                widths=plan.structure.widths,
                seconds={"calibrate": calibrating, "search": trial + search, "remove and reconstruct": repair},
            )
            results.add(name, budget, seed, found)
            _say(
                f"seed {seed}  {budget:g} of the MACs  {variant.label:32s} {results.metric_name} {found.metric:.4f}  "
                f"KL {_number(found.kl, 4)}  {sum(found.seconds.values()):.1f} s"
            )


def tried_out(importance: Importance, macs: float, config: RunConfig, loaded: Loaded) -> Importance:
    """Losses mended by trying out structures."""
    return refined(Run.silent(config, loaded).asking(macs=macs), importance, None)


def planned(variant: Variant, importance: Importance, macs: float, config: RunConfig, loaded: Loaded) -> Plan:
    """The structure a variant searches for."""
    fisher = importance.fisher
    if fisher is not None and not variant.exchange:
        fisher = replace(fisher, head_blocks=None, filter_blocks=None)
    problem = SearchProblem(loaded.shape, Budget("macs", macs), variant.search, loaded.length, seed=config.seed)
    return make_plan(problem, importance.rankings if fisher is None else Rankings.from_fisher(fisher), fisher)


def carried_out(variant: Variant, plan: Plan, config: RunConfig, loaded: Loaded) -> Any:
    """A pruned copy of the dense model, reconstructed as the variant has it."""
    if variant.repair is None:
        model = copy.deepcopy(loaded.checkpoint.model)
        remove(model, plan.structure)
        return model
    changes = {"method": variant.repair, "effort": config.effort if variant.joint else "fast"}
    model, _ = prune(Run.silent(config, loaded).asking(**changes), plan)
    return model


def unseen(config: RunConfig, loaded: Loaded, count: int) -> Encoded:
    """Rows of the training data whose tokens are neither among the calibration nor among the evaluation examples."""
    rows = load_data(config.calibration_data, "train")
    checkpoint = loaded.checkpoint
    columns = checkpoint.task.columns(rows, checkpoint.model.config, config.text_column, config.label_column)
    # So many more rows that enough are left when all calibration examples are among them.
    sample = sample_rows(rows, count + len(loaded.calibration), config.seed + OTHER_ROWS)
    encoded = checkpoint.task.encode(sample, checkpoint.tokenizer, columns, config.seq_len, checkpoint.model.config)
    seen = set(contents(loaded.calibration)) | set(contents(loaded.evaluation))
    return encoded.select([i for i, content in enumerate(contents(encoded)) if content not in seen]).take(
        count, config.seed + OTHER_ROWS
    )


def contents(data: Encoded) -> list[bytes]:
    """The token ids of every example."""
    return [row.tobytes() for row in data.features["input_ids"]]


def divergence(model: Any, task: Task, data: Encoded, dense: NDArray[Any]) -> float | None:
    """Mean divergence of the model's outputs from the dense model's."""
    if not len(data):
        return None
    ours: Tensor = torch.from_numpy(outputs_of(model, task, data))
    return float(task.divergence(ours, torch.from_numpy(dense)).mean())


def timed(work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> tuple[T, float]:
    """What ``work`` returns, and its seconds."""
    start = time.perf_counter()
    result = work(*arguments, **keywords)
    return result, time.perf_counter() - start


def render(results: Results) -> str:
    """The results so far in Markdown."""
    budgets, seeds = results.budgets(), len(results.dense)
    header = " | ".join(f"{budget:g}" for budget in budgets)
    spread = f"mean of {seeds} seeds (least–largest)" if seeds > 1 else "one seed"

    def section(title: str, cell: Callable[[list[Figures]], str], first: str | None = None) -> list[str]:
        lines = [f"**{title}**", "", f"| MACs kept | {header} |", f"|---|{'---|' * len(budgets)}"]
        if first is not None:
            lines.append(f"| dense | {' | '.join([first] * len(budgets))} |")
        for name in results.variants():
            # A run that was cut off has no figures for some.
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
    """Metric and KL against the MACs kept, and against latency; bands reach from the least to the largest seed."""
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
    mean = _number(float(np.mean(values)), digits)
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else mean


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in ("compress", "torch", "transformers"))
    return f"{cores} cores, {platform.machine()}, {date.today()}, {versions}"


def _numbers(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def numbers(text: str) -> tuple[T, ...]:
        return tuple(kind(part) for part in text.split(","))

    return numbers


def _variants(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no variant '{unknown[0]}'; there are {', '.join(VARIANTS)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
