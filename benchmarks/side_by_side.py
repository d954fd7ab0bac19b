"""Compares variants of `compress run` at several speed-ups, each measured on its exported file.

    python benchmarks/side_by_side.py MODEL --speedups 1.5,2,3 [--seeds 0,1,2] [--log runs.jsonl] [--output table.md]
        [--variant kwon='--method kwon' --variant full='--method full'] -- --data stsb --task sentence-similarity

A variant is a name and further options of `compress run`; the options after `--` go to all of them. Runs with the same
options for profile and calibration share these results (`--resume`) in a cache of this benchmark's own, so that they
differ only in the options of their variant. With --log, an interrupted benchmark can be continued. This is a benchmark,
not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

# Exit codes of runs that measured something: pass, fail, inconclusive.
MEASURED = (0, 1, 2)
DEFAULT_VARIANTS = ("kwon=--method kwon", "full=--method full")


@dataclass(frozen=True)
class Variant:
    """A name for the table, and options of `compress run`."""

    name: str
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Variant:
        name, _, options = text.partition("=")
        return cls(name, tuple(shlex.split(options)))


@dataclass(frozen=True)
class Row:
    """Measurements of one run.

    Attributes:
        settings: model and common options; a log may hold several of them.
        variant: name of the variant.
        speedup: the requested speed-up.
        seed: the run's seed.
        verdict: pass, fail or inconclusive.
        measured: speed-up of the exported file, with its interval.
        metric: name, dense value, compressed value, interval.
        macs: fraction of the dense sublayers' multiply-accumulates that is left.
        seconds: seconds of the run; results from the cache count as 0.
        held_out: mean loss on held-out training examples at the end of fine-pruning; None without fine-pruning.
        predicted: latency by the profile over the one measured on the file, less 1; None without a prediction.
    """

    settings: str
    variant: str
    speedup: float
    seed: int
    verdict: str
    measured: dict[str, Any]
    metric: dict[str, Any]
    macs: float
    seconds: float
    held_out: float | None = None
    predicted: float | None = None


def run(
    model: str, variant: Variant, speedup: float, seed: int, common: Sequence[str], scratch: Path, settings: str
) -> Row:
    """Runs one variant; raises SystemExit with the command's own message if it fails."""
    command = [sys.executable, "-m", "compress", "run", model, *common, *variant.options]
    command += ["--speedup", f"{speedup:g}", "--seed", str(seed), "--resume", "--json", "--output"]
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        ended = subprocess.run([*command, f"{directory}/out"], stdout=subprocess.PIPE, text=True)
        manifest = Path(directory, "out", "manifest.json")
        done = json.loads(manifest.read_text(encoding="utf-8"))["reconstruction"] if manifest.exists() else {}
    if not ended.stdout:
        raise SystemExit(f"{variant.name} at {speedup:g}x ended without a result, exit code {ended.returncode}")
    document = json.loads(ended.stdout)
    if ended.returncode not in MEASURED or "error" in document:
        raise SystemExit(f"{variant.name} at {speedup:g}x: {document['error']}")
    validation = document["validation"]
    metric = {key: validation["metric"][key] for key in ("name", "dense", "compressed", "ci95", "examples")}
    return Row(
        settings,
        variant.name,
        speedup,
        seed,
        validation["verdict"],
        validation["speedup"],
        metric,
        validation["macs"]["fraction"],
        sum(document["seconds"].values()),
        done["fine_pruned"]["phases"][-1]["after"] if done.get("fine_pruned") else None,
        _off(validation["latency_ms"]),
    )


def _off(latency: dict[str, Any]) -> float | None:
    """How far the prediction is off, relative to what was measured."""
    return None if latency["predicted"] is None else latency["predicted"] / latency["compressed"] - 1


def read_log(log: Path | None) -> list[Row]:
    if log is None or not log.exists():
        return []
    return [Row(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]


def table(rows: Sequence[Row], variants: Iterable[str]) -> str:
    """Returns a Markdown table, one line per variant and budget; several seeds as mean (smallest to largest)."""
    first = rows[0]
    lines = [
        f"| variant | asked for | measured | MACs kept | {first.metric['name']} (dense {first.metric['dense']:.4f}) "
        "| held-out loss | verdict | prediction | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for speedup in sorted({row.speedup for row in rows}):
        for name in variants:
            found = [row for row in rows if row.variant == name and row.speedup == speedup]
            if found:
                lines.append(f"| {name} | {speedup:g}x | {_line(found)} |")
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {date.today()}, " + ", ".join(
        f"{package} {version(package)}" for package in ("torch", "transformers", "onnxruntime")
    )
    off = [abs(row.predicted) for row in rows if row.predicted is not None]
    errors = [f"Predicted latencies are off by {median(off):.1%} (median of {len(off)} runs).", ""] if off else []
    return "\n".join([first.settings, "", *lines, "", *errors, machine]) + "\n"


def _line(found: Sequence[Row]) -> str:
    if len(found) == 1:
        (row,) = found
        measured = f"{row.measured['value']:.2f}x ({' to '.join(f'{end:.2f}' for end in row.measured['ci95'])})"
        metric = f"{row.metric['compressed']:.4f} ({' to '.join(f'{end:.4f}' for end in row.metric['ci95'])})"
    else:
        measured = _spread([row.measured["value"] for row in found], ".2f", "x")
        metric = f"{_spread([row.metric['compressed'] for row in found], '.4f')}, {len(found)} seeds"
    verdicts = ", ".join(sorted({row.verdict for row in found}))
    losses = [row.held_out for row in found if row.held_out is not None]
    held_out = f"{mean(losses):.4f}" if losses else "–"
    macs, seconds = mean(row.macs for row in found), mean(row.seconds for row in found)
    errors = [row.predicted for row in found if row.predicted is not None]
    predicted = f"{mean(errors):+.1%}" if errors else "–"
    return " | ".join([measured, f"{macs:.1%}", metric, held_out, verdicts, predicted, f"{seconds:.0f}"])


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    return f"{mean(values):{form}}{unit} ({min(values):{form}} to {max(values):{form}})"


def compare(
    model: str,
    variants: Sequence[Variant],
    speedups: Sequence[float],
    seeds: Sequence[int],
    common: Sequence[str],
    log: Path | None = None,
    output: Path | None = None,
    note: str = "",
) -> str:
    """Makes the runs that the log does not have yet and returns the table of all runs.

    Args:
        model: a checkpoint's directory, or a name on the hub.
        variants: the variants to compare.
        speedups: speed-ups to ask for.
        seeds: seeds of the runs.
        common: options of `compress run` that all variants share.
        log: JSON lines, one per run; None keeps no log.
        output: file for the table, written again after every run; None writes none.
        note: further settings that the variants share, for table and log.
    """
    settings = " ".join([Path(model).name, *common]) + note
    rows = [row for row in read_log(log) if row.settings == settings]
    done = {(row.variant, row.speedup, row.seed) for row in rows}
    names = [variant.name for variant in variants]
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as scratch:
        os.environ.setdefault("COMPRESS_CACHE", str(Path(scratch, "store")))
        for seed in seeds:
            for speedup in speedups:
                for variant in variants:
                    if (variant.name, speedup, seed) in done:
                        continue
                    row = run(model, variant, speedup, seed, common, Path(scratch), settings)
                    rows.append(row)
                    if log is not None:
                        with log.open("a", encoding="utf-8") as stream:
                            stream.write(json.dumps(asdict(row)) + "\n")
                    if output is not None:
                        output.write_text(table(rows, names), encoding="utf-8")
                    print(f"{variant.name} at {speedup:g}x, seed {seed}: {_line([row])}", file=sys.stderr)
    return table(rows, names)


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def parser_of(description: str | None, speedups: Sequence[float]) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that all benchmarks of this kind share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--speedups", type=numbers, default=list(speedups))
    parser.add_argument("--seeds", type=numbers, default=[0.0])
    parser.add_argument("--log", type=Path, help="JSON lines, one per run")
    parser.add_argument("--output", type=Path, help="write the table here too")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line; ``common`` holds the options after ``--``, for `compress run`."""
    # Split by hand: argparse would read the options after -- as positional arguments.
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    return parser.parse_args(sys.argv[1:at], argparse.Namespace(common=sys.argv[at + 1 :]))


def compare_parsed(given: argparse.Namespace, variants: Sequence[Variant], note: str = "") -> str:
    """Calls ``compare`` with parsed arguments."""
    seeds = [int(seed) for seed in given.seeds]
    return compare(given.model, variants, given.speedups, seeds, given.common, given.log, given.output, note)


def main() -> None:
    parser = parser_of(__doc__, (2.0,))
    parser.add_argument("--variant", action="append", help="NAME=OPTIONS; without it: kwon and full")
    given = parse(parser)
    print(compare_parsed(given, [Variant.parse(text) for text in given.variant or DEFAULT_VARIANTS]))


if __name__ == "__main__":
    main()
