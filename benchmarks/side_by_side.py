"""`compress run` side by side: several variants at several speed-ups, each measured on the file that it exports.

    python benchmarks/side_by_side.py MODEL --speedups 1.5,2,3 [--seeds 0,1,2] [--log runs.jsonl] [--output table.md]
        [--variant kwon='--method kwon' --variant full='--method full'] -- --data stsb --task sentence-similarity

A variant is a name and further options of `compress run`; what follows `--` goes to all of them. Runs share profile and
calibration where their options do (`--resume`), in a store of this benchmark's own, so that they differ in what they
are named for. With --log, runs may be cut off and continued. This is a benchmark, not a test: it asserts nothing.
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
from statistics import mean
from typing import Any

# What a run ends with when it measured something: pass, fail, inconclusive.
MEASURED = (0, 1, 2)
DEFAULT_VARIANTS = ("kwon=--method kwon", "full=--method full")


@dataclass(frozen=True)
class Variant:
    """A name in the table, and options of `compress run`."""

    name: str
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Variant:
        name, _, options = text.partition("=")
        return cls(name, tuple(shlex.split(options)))


@dataclass(frozen=True)
class Row:
    """What one run measured.

    Attributes:
        settings: model and common options; a log may hold those of several.
        variant, speedup, seed: what was asked for.
        measured: speed-up on the exported file, with its interval.
        metric: name, dense, compressed, interval.
        macs: fraction of the dense sublayers' multiply-accumulates that is left.
        seconds: of the run, without what was found in the store.
        held_out: mean loss on held-out training examples that fine-pruning ended with; None without fine-pruning.
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


def run(
    model: str, variant: Variant, speedup: float, seed: int, common: Sequence[str], scratch: Path, settings: str
) -> Row:
    """One run; SystemExit with the command's own message where it could not be made."""
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
    )


def read_log(log: Path | None) -> list[Row]:
    if log is None or not log.exists():
        return []
    return [Row(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]


def table(rows: Sequence[Row], variants: Iterable[str]) -> str:
    """Markdown: a line a variant and budget; several seeds as mean (least to largest)."""
    first = rows[0]
    lines = [
        f"| variant | asked for | measured | MACs kept | {first.metric['name']} (dense {first.metric['dense']:.4f}) "
        "| held-out loss | verdict | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for speedup in sorted({row.speedup for row in rows}):
        for name in variants:
            found = [row for row in rows if row.variant == name and row.speedup == speedup]
            if found:
                lines.append(f"| {name} | {speedup:g}x | {_line(found)} |")
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {date.today()}, " + ", ".join(
        f"{package} {version(package)}" for package in ("torch", "transformers", "onnxruntime")
    )
    return "\n".join([first.settings, "", *lines, "", machine]) + "\n"


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
    return " | ".join([measured, f"{macs:.1%}", metric, held_out, verdicts, f"{seconds:.0f}"])


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
    """Run what the log does not have yet; the table, which is written anew after every run.

    Args:
        note: what else the variants have in common, for table and log.
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
    """The arguments that every benchmark of this kind has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--speedups", type=numbers, default=list(speedups))
    parser.add_argument("--seeds", type=numbers, default=[0.0])
    parser.add_argument("--log", type=Path, help="JSON lines, one a run")
    parser.add_argument("--output", type=Path, help="write the table here too")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given; ``common`` is what follows ``--``, for `compress run`."""
    # Split by hand: argparse takes what follows -- for positional arguments, and there is only one.
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    return parser.parse_args(sys.argv[1:at], argparse.Namespace(common=sys.argv[at + 1 :]))


def compared(given: argparse.Namespace, variants: Sequence[Variant], note: str = "") -> str:
    """``compare`` for parsed arguments."""
    seeds = [int(seed) for seed in given.seeds]
    return compare(given.model, variants, given.speedups, seeds, given.common, given.log, given.output, note)


def main() -> None:
    parser = parser_of(__doc__, (2.0,))
    parser.add_argument("--variant", action="append", help="NAME=OPTIONS; without it: kwon and full")
    given = parse(parser)
    print(compared(given, [Variant.parse(text) for text in given.variant or DEFAULT_VARIANTS]))


if __name__ == "__main__":
    main()
