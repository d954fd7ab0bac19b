"""Measures what the method costs: seconds of every stage and peak memory, against layers and against samples.

    python benchmarks/cost.py [--layers 2,4,6,12] [--samples 128,512,2048] [--size minilm|base] [--length 32]
        [--macs 0.3] [--effort standard] [--output table.md] [--plot plot.png]

Weights and tokens are random: the cost does not depend on their values. Every row is measured in a process of its own,
and so is its peak memory. One list is varied at a time, the other stays at its largest value.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from compress.stages.calibrate import calibrate
from compress.stages.context import Run
from compress.stages.try_out import refined

SIZES = {
    "minilm": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
STAGES = ("calibrate", "search", "reconstruct")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=_whole, default=(2, 4, 6, 12))
    parser.add_argument("--samples", type=_whole, default=(128, 512, 2048))
    parser.add_argument("--size", choices=tuple(SIZES), default="minilm")
    parser.add_argument("--length", type=int, default=32, help="tokens of every example")
    parser.add_argument("--macs", type=float, default=0.3)
    parser.add_argument("--effort", default="standard")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(**json.loads(given.one))))
        return
    cases = [(layers, given.samples[-1]) for layers in given.layers]
    cases += [(given.layers[-1], samples) for samples in given.samples[:-1]]
    rows = []
    for layers, samples in cases:
        case = {"layers": layers, "samples": samples}
        case |= {"size": given.size, "length": given.length, "macs": given.macs, "effort": given.effort}
        done = subprocess.run(
            [sys.executable, __file__, "--one", json.dumps(case)], check=True, stdout=subprocess.PIPE, text=True
        )
        rows.append({**case, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr, flush=True)
        table = render(rows, given)
        if given.output:
            given.output.write_text(table, encoding="utf-8")
    print(table)
    if given.plot:
        draw(rows, given)


def measure(layers: int, samples: int, size: str, length: int, macs: float, effort: str) -> dict[str, Any]:
    """Returns the seconds of every stage and the peak memory of one case."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from compress.core.plan import Budget
    from compress.data.batches import Encoded
    from compress.inputs.checkpoint import Checkpoint
    from compress.inputs.load import Loaded
    from compress.models.encoder import encoder_of
    from compress.options.run_config import make_config
    from compress.profile.target import load_target
    from compress.search.planner import SearchProblem, make_plan
    from compress.stages.prune import prune
    from compress.tasks import task_of

    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, num_labels=2, **SIZES[size])).eval()
    model.requires_grad_(False)
    ids = [generator.integers(1000, 30000, length) for _ in range(samples)]
    masks = [np.ones_like(row) for row in ids]
    data = Encoded({"input_ids": ids, "attention_mask": masks}, None, {"input_ids": 0, "attention_mask": 0})
    nothing: Any = None  # no stage that is measured reads a tokenizer
    task = task_of(model.config, "text-classification")
    checkpoint = Checkpoint(f"random-{layers}", model, nothing, encoder_of(model), task, "random", Path())
    loaded = Loaded(checkpoint, load_target("cpu"), data, data.select([]), data.select([]))
    config = make_config({"model": "random", "data": "random", "macs": macs, "effort": effort})
    run = Run.silent(config, loaded)
    stages = run.stages
    with stages.stage("calibrate"):
        importance = calibrate(run)
    with stages.stage("search"):
        importance = refined(run, importance, None)
        plan = make_plan(SearchProblem(loaded.shape, Budget("macs", macs), "full", loaded.length), importance.rankings)
    with stages.stage("reconstruct"):
        prune(run, plan)
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": stages.seconds, "peak_gb": round(peak, 2), "date": time.strftime("%Y-%m-%d")}


def render(rows: Sequence[dict[str, Any]], given: argparse.Namespace) -> str:
    """Returns the rows so far as a Markdown table."""
    lines = [
        f"| layers | samples | {' | '.join(STAGES)} | all, s | peak, GB |",
        f"|---|---|{'---|' * len(STAGES)}---|---|",
    ]
    for row in rows:
        seconds = [row["seconds"][stage] for stage in STAGES]
        cells = " | ".join(f"{s:.0f}" for s in seconds)
        lines.append(f"| {row['layers']} | {row['samples']} | {cells} | {sum(seconds):.0f} | {row['peak_gb']:.2f} |")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in ("compress", "torch", "transformers"))
    settings = f"{given.size}, {given.length} tokens, {given.macs:g} of the MACs, effort {given.effort}"
    return (
        "\n".join([*lines, "", f"{settings}; {cores} cores, {platform.machine()}, {date.today()}, {versions}"]) + "\n"
    )


def draw(rows: Sequence[dict[str, Any]], given: argparse.Namespace) -> None:
    """Plots seconds against layers and against samples, stages stacked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for one, (key, fixed) in zip(axes, (("layers", "samples"), ("samples", "layers")), strict=True):
        most = max(row[fixed] for row in rows)
        chosen = sorted((row for row in rows if row[fixed] == most), key=lambda row: row[key])
        places = [row[key] for row in chosen]
        one.stackplot(places, *[[row["seconds"][s] for row in chosen] for s in STAGES], labels=STAGES, alpha=0.8)
        one.set(xlabel=f"{key} ({most} {fixed})", xlim=(0, None), ylim=(0, None))
        one.grid(color="0.9")
    axes[0].set(ylabel="seconds")
    axes[0].legend(loc="upper left")
    figure.savefig(given.plot, dpi=110)
    pyplot.close(figure)


def _whole(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
