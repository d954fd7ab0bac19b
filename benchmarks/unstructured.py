"""Compares the scorers of single weights at several fractions, as fp32 checkpoint and as compact int8 file.

    python benchmarks/unstructured.py MODEL --data train.tsv --eval-data dev.tsv [--fractions 0.1,0.03,0.15]
        [--scorers one-shot,magnitude,movement,soft-movement,l0] [--seeds 0] [--examples 9600] [--epochs 1]
        [--recipe recipe.toml] [--log figures.jsonl] [--output table.md]

All scorers train with the same recipe (``--recipe``), in which scorer, epochs and number of examples are replaced;
``one-shot`` is magnitude without training. With --log, an interrupted benchmark can be continued. Rows are computed
fraction by fraction, in the order of ``--fractions`` and ``--scorers``. It asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from compress.core.errors import CompressError
from compress.core.progress import Silent
from compress.fineprune.prepared import Prepared
from compress.fineprune.recipe import Recipe, load_recipe
from compress.fineprune.session import TrainingSession
from compress.inputs.load import Loaded, load, load_training
from compress.options.run_config import make_config
from compress.sparsity.compact_file import NAME, load_compact, write_compact
from compress.sparsity.matrices import matrices_of
from compress.sparsity.train import thin_out
from compress.tasks import outputs_of

SCORERS = ("one-shot", "magnitude", "movement", "soft-movement", "l0")
# λ of soft movement, and the rate of L0's multipliers, as in the recipes with the paper's hyperparameters.
PENALTIES = {"soft-movement": 400.0, "l0": 1.0}


@dataclass(frozen=True)
class Figures:
    """Figures of one scorer at one fraction.

    Attributes:
        masked: metric of the fp32 checkpoint with zeros in it.
        compact: metric of the model in the compact file.
        remaining: fraction of the weights of the encoder's linear layers that are not zero, fp32.
        encoder_bytes: bytes of these weights in the compact file.
        file_bytes: bytes of the compact file.
        steps: training steps.
        seconds: seconds of training.
    """

    masked: float
    compact: float
    remaining: float
    encoder_bytes: int
    file_bytes: int
    steps: int
    seconds: float


class Log:
    """Rows that are computed already, and the file for new ones."""

    def __init__(self, settings: str, path: Path | None) -> None:
        self.settings, self._path = settings, path
        self.rows: dict[tuple[str, float, int], dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["settings"] == settings:
                    self.rows[row["scorer"], row["fraction"], row["seed"]] = row

    def add(self, scorer: str, fraction: float, seed: int, found: dict[str, Any]) -> None:
        row = {"settings": self.settings, "scorer": scorer, "fraction": fraction, "seed": seed, **found}
        self.rows[scorer, fraction, seed] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--fractions", type=_list(float), default=(0.1, 0.03, 0.15), help="0.1,0.03,0.15")
    parser.add_argument("--scorers", type=_list(str), default=SCORERS, help=",".join(SCORERS))
    parser.add_argument("--seeds", type=_list(int), default=(0,), help="0,1,2")
    parser.add_argument("--examples", type=int, default=9600, help="rows of the training data, drawn at random")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--score-learning-rate", type=float)
    parser.add_argument("--start", choices=("zero", "magnitude", "fisher"))
    parser.add_argument("--recipe", default="unstructured")
    parser.add_argument("--log", type=Path, help="keep every figure here and compute none twice (JSON lines)")
    parser.add_argument("--output", type=Path, help="write the table here too")
    given = parser.parse_args()
    wrong = [name for name in given.scorers if name not in SCORERS]
    if wrong:
        raise SystemExit(f"error: unknown scorer '{wrong[0]}'; choose from {', '.join(SCORERS)}")
    changed = {name: getattr(given, name) for name in ("batch_size", "learning_rate", "score_learning_rate", "start")}
    changed = {name: value for name, value in changed.items() if value is not None}
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changed.items())
    log = Log(
        f"{Path(given.model).name} on {Path(given.data).parent.name}/{Path(given.data).name}, recipe {given.recipe}, "
        f"{given.examples} examples, {given.epochs:g} epochs{', ' + said if said else ''}",
        given.log,
    )
    try:
        for seed in given.seeds:
            compute(given, seed, changed, log)
    except CompressError as error:
        raise SystemExit(f"error: {error}") from None
    table = render(log, given.fractions, given.scorers)
    if given.output:
        given.output.write_text(table, encoding="utf-8")
    print(table)


def compute(given: argparse.Namespace, seed: int, changed: dict[str, Any], log: Log) -> None:
    """Computes the rows of a seed that the log does not have."""
    wanted = [(scorer, fraction) for fraction in given.fractions for scorer in given.scorers]
    wanted = [pair for pair in wanted if (*pair, seed) not in log.rows]
    if not wanted and ("dense", 1.0, seed) in log.rows:
        return
    options = {"model": given.model, "data": given.data, "eval_data": given.eval_data, "seq_len": given.seq_len}
    config = make_config({**options, "seed": seed})
    loaded = load(config, Silent())
    recipe = load_recipe(given.recipe)
    if ("dense", 1.0, seed) not in log.rows:
        checkpoint = loaded.checkpoint
        model = checkpoint.model
        elements = sum(matrix.numel() for matrix in matrices_of(checkpoint.encoder).values())
        sizes = {"encoder_bytes": 4 * elements, "file_bytes": 4 * sum(p.numel() for p in model.parameters())}
        log.add("dense", 1.0, seed, {"masked": metric_of(model, loaded), "elements": elements, **sizes})
        print(f"dense {log.rows['dense', 1.0, seed]['masked']:.4f}", flush=True)
    rows = load_training(config, loaded, given.examples, None)
    order = np.random.default_rng(seed).permutation(len(rows))
    held, train = (rows.select(np.sort(part)) for part in np.split(order, [min(200, len(rows) // 10)]))
    for scorer, fraction in wanted:
        start = time.perf_counter()
        tables = recipe_of(recipe, scorer, given.epochs, changed)
        trains = tables.unstructured is not None and tables.unstructured.trains
        prepared = Prepared(tables, None, train, held)
        session = TrainingSession(loaded.checkpoint, prepared, seed=seed, tell=print) if trains else None
        out = thin_out(loaded.checkpoint, tables, fraction, session, seed=seed)
        seconds = time.perf_counter() - start
        steps = 0 if out.phase is None else out.phase.steps
        found = asdict(figures(out.model, loaded, steps, seconds))
        log.add(scorer, fraction, seed, found)
        print(f"seed {seed}  {fraction:g}  {scorer:14s} {found}", flush=True)


def recipe_of(recipe: Recipe, scorer: str, epochs: float, changed: dict[str, Any]) -> Recipe:
    """Returns the recipe with another scorer; the one of ``one-shot`` does not train."""
    if scorer == "one-shot":
        return load_recipe("one-shot")
    assert recipe.unstructured is not None, "a recipe with a table [unstructured]"
    update: dict[str, Any] = {"scorer": scorer, "epochs": epochs, **changed}
    if scorer in PENALTIES:
        update["penalty"] = PENALTIES[scorer]
    watching = recipe.validation.model_copy(update={"times": 2})
    return recipe.model_copy(
        update={"unstructured": recipe.unstructured.model_copy(update=update), "validation": watching}
    )


def figures(model: Any, loaded: Loaded, steps: int, seconds: float) -> Figures:
    """Returns accuracy and bytes of a model with zeros in it."""
    names = list(matrices_of(loaded.checkpoint.encoder))
    weights = model.state_dict()
    elements = sum(weights[name].numel() for name in names)
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / NAME
        state = write_compact(model, path)
        return Figures(
            masked=metric_of(model, loaded),
            compact=metric_of(load_compact(path), loaded),
            remaining=sum(int(weights[name].count_nonzero()) for name in names) / elements,
            encoder_bytes=sum(state[name].size_bytes for name in names),
            file_bytes=path.stat().st_size,
            steps=steps,
            seconds=seconds,
        )


def metric_of(model: Any, loaded: Loaded) -> float:
    """Returns the task's metric on the evaluation data."""
    task, data = loaded.checkpoint.task, loaded.evaluation
    outputs = outputs_of(model, task, data)
    return task.evaluate(outputs, data, outputs).value


def render(log: Log, fractions: tuple[float, ...], scorers: tuple[str, ...]) -> str:
    """Returns a Markdown table of means over the seeds."""
    seeds = sorted({seed for _, _, seed in log.rows})
    lines = [
        f"{log.settings}; seeds {', '.join(map(str, seeds))}; {platform.machine()}, {os.cpu_count()} cores, torch "
        f"{version('torch')}, {date.today()}.",
        "",
        "| scorer | remaining | steps | masked fp32 | compact int8 | encoder, MB | file, MB |",
        "|---|---|---|---|---|---|---|",
    ]

    def of(scorer: str, fraction: float, key: str) -> float:
        return mean(row[key] for (name, f, _), row in log.rows.items() if (name, f) == (scorer, fraction))

    dense = [row for (name, _, _), row in log.rows.items() if name == "dense"]
    if dense:
        sizes = f"{dense[0]['encoder_bytes'] / 1e6:.2f} | {dense[0]['file_bytes'] / 1e6:.2f}"
        lines.append(f"| dense | 100 % | – | {mean(row['masked'] for row in dense):.4f} | – | {sizes} |")
    for fraction in sorted(fractions, reverse=True):
        for scorer in scorers:
            if any((name, f) == (scorer, fraction) for name, f, _ in log.rows):
                value = {key: of(scorer, fraction, key) for key in ("masked", "compact", "encoder_bytes", "file_bytes")}
                lines.append(
                    f"| {scorer} | {of(scorer, fraction, 'remaining'):.1%} | {of(scorer, fraction, 'steps'):.0f} | "
                    f"{value['masked']:.4f} | {value['compact']:.4f} | {value['encoder_bytes'] / 1e6:.2f} | "
                    f"{value['file_bytes'] / 1e6:.2f} |"
                )
    return "\n".join(lines) + "\n"


def _list(kind: Any) -> Any:
    def parse(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list separated by commas") from None

    return parse


if __name__ == "__main__":
    main()
