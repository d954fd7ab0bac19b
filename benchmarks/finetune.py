"""Measures the cost of a fine-pruning step, relative to a plain fine-tuning step, and the time of a projection.

    python benchmarks/finetune.py [MODEL] [--size minilm|base] [--batch-size 32] [--seq-len 64] [--rounds 8]
        [--scorers fisher,movement,...] [--dropout] [--output table.md]

The plain step is ordinary fine-tuning: forward, loss of the labels, backward, clipping, fused AdamW, on batches that
were made beforehand, with frozen embeddings (fine-pruning freezes them too). The fine-pruning step is the trainer's, in
the middle of the phase that finds the structure, plus its share of a projection. The two take turns, and the figure is
the median ratio of neighbouring steps. MODEL is a classifier; without it the weights are random. Tokens are random: the
cost does not depend on them.

Projections are timed at the size of BERT-base for every model. This is a benchmark, not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.core.plan import EncoderShape
from compress.data.batches import Encoded
from compress.fineprune.distill import Teaching
from compress.fineprune.masking import Masking, masking_schedule
from compress.fineprune.phase import Execution, PhaseSpec, steps_of
from compress.fineprune.projection import dense_cost, project, unit_costs
from compress.fineprune.recipe import Distilling, Rates, StructureRecipe
from compress.fineprune.train import Trainer
from compress.fineprune.unit_scores import SCORERS, scorer_of
from compress.inputs.checkpoint import load_checkpoint
from compress.models.encoder import encoder_of
from compress.pruning.removal import remove
from compress.reconstruction.joint import trained_parameters
from compress.reconstruction.layerwise import positions_read
from compress.search.costs import Costs
from compress.tasks import Task, task_of

SIZES = {
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
BASE = EncoderShape("bert", layers=12, hidden_size=768, heads=12, head_size=64, filters=3072)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Columns of the table: what is distilled.
TAUGHT = {
    "labels alone": Distilling(weight=0.0),
    "+ outputs": Distilling(weight=0.5),
    "+ hidden states": Distilling(weight=0.5, hidden=1.0),
}
LIMITS = {"labels alone": 1.3, "+ outputs": 2.0, "+ hidden states": 2.0}
BUDGET = 0.4
# Length of the phase; the measured steps are in its middle.
STEPS = 200
SECOND = "weights, after removal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a classifier's directory; without it random weights")
    parser.add_argument("--size", choices=tuple(SIZES), default="minilm", help="size of the model with random weights")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=64, help="tokens of every example")
    parser.add_argument("--rounds", type=int, default=8, help="pairs of steps per figure")
    parser.add_argument("--scorers", default=",".join(SCORERS))
    parser.add_argument("--dropout", action="store_true", help="dropout on, on both sides")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    model, task, name = classifier(given)
    data = examples(STEPS * given.batch_size, given.seq_len)
    # Seconds of a projection at the size of this model, spread over the steps between two projections.
    share = (
        np.median(projections(encoder_of(model).shape)["in training"]) / 1e3 / StructureRecipe(epochs=1).project_every
    )
    rows: dict[str, list[np.ndarray]] = {}
    for scorer in (*given.scorers.split(","), SECOND):
        for taught, distilling in TAUGHT.items():
            plain, own = time_steps(given, model, task, data, None if scorer == SECOND else scorer, distilling)
            ratios = (own if scorer == SECOND else own + share) / plain
            rows.setdefault(scorer, []).append(ratios)
            text = f"{scorer}, {taught}: {1e3 * np.median(plain):.0f} ms plain, {np.median(ratios):.2f}x"
            print(text, file=sys.stderr, flush=True)
    table = render(rows, projections(BASE), given, name)
    print("\n" + table)
    if given.output:
        given.output.write_text(table, encoding="utf-8")


def classifier(given: argparse.Namespace) -> tuple[Any, Task, str]:
    """Returns the model, its task, and its name for the table."""
    if given.model:
        checkpoint = load_checkpoint(given.model, "text-classification")
        return checkpoint.model, checkpoint.task, checkpoint.name
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=2, **SIZES[given.size])).eval()
    model.requires_grad_(False)
    return model, task_of(model.config, "text-classification"), f"{given.size} (random weights)"


def examples(count: int, length: int) -> Encoded:
    """Returns random examples, all of one length."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(1000, 20_000, length) for _ in range(count)]
    features = {"input_ids": rows, "attention_mask": [np.ones_like(row) for row in rows]}
    return Encoded(features, generator.integers(0, 2, count), dict.fromkeys(features, 0))


def time_steps(
    given: argparse.Namespace, model: Any, task: Task, data: Encoded, scorer: str | None, distilling: Distilling
) -> tuple[np.ndarray, np.ndarray]:
    """Returns seconds of plain and fine-pruning steps, taken in turns; without a scorer, in the phase after removal."""
    with plain_step(given, model, task, data) as plain, own_step(given, model, task, data, scorer, distilling) as own:
        seconds = []
        for number in range(given.rounds + 1):
            # The order alternates, so that neither step always finds warm caches.
            pair = [time_step(step, number) for step in ((plain, own) if number % 2 else (own, plain))]
            seconds.append(pair if number % 2 else pair[::-1])
    first, second = np.array(seconds[1:]).T
    return first, second


def time_step(step: Callable[[int], Any], number: int) -> float:
    """Returns the seconds of a step."""
    _finish()
    start = time.perf_counter()
    step(number)
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def plain_step(given: argparse.Namespace, model: Any, task: Task, data: Encoded) -> Iterator[Callable[[int], None]]:
    """Yields a step of ordinary fine-tuning."""
    model = copy.deepcopy(model).to(DEVICE).train(given.dropout)
    parameters = trained_parameters(model)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=3e-5, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    batches = list(data.batches(given.batch_size, device=DEVICE))

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        assert batch.labels is not None
        loss = task.loss(task.forward(model, batch.inputs), batch.labels).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    yield step


@contextmanager
def own_step(
    given: argparse.Namespace, model: Any, task: Task, data: Encoded, scorer: str | None, distilling: Distilling
) -> Iterator[Callable[[int], Any]]:
    """Yields the trainer's step, in the middle of its phase."""
    student = copy.deepcopy(model).to(DEVICE)
    dense = encoder_of(copy.deepcopy(model).to(DEVICE))
    shape = dense.shape
    costs = Costs.macs(shape, BUDGET, given.seq_len)
    options: dict[str, Any] = {"epochs": 1.0, "batch_size": given.batch_size, "dropout": given.dropout}
    start = np.ones((shape.layers, shape.heads)), np.full((shape.layers, shape.filters), 0.02)
    masking, rates = None, Rates(**options)
    if scorer is None:
        remove(student, project(*start, costs, costs.limit, exact=True))
    else:
        rates = StructureRecipe.model_validate({**options, "scorer": scorer, "penalty": 0.1})
        encoder = encoder_of(student)
        schedule = masking_schedule(costs, shape.layers, steps_of(rates, len(data)), rates.first, rates.last)
        scores = scorer_of(rates, encoder, start, unit_costs(costs), 0)
        masking = Masking(encoder, scores, costs, schedule, rates.project_every)
    encoder = encoder_of(student)
    read = positions_read(dense, task, data.select(range(1))) if distilling.hidden else None
    teaching = Teaching(distilling, task, encoder, dense if distilling.weight else None, read)
    spec = PhaseSpec("benchmark", rates, times=1)
    trainer = Trainer(spec, encoder, teaching, data, data.select([0]), Execution(), masking)
    middle = trainer.steps // 2
    try:
        with trainer.training():
            yield lambda number: trainer.step(middle + number)
    finally:
        teaching.close()


def projections(shape: EncoderShape) -> dict[str, list[float]]:
    """Returns milliseconds of projections at the budgets of a schedule, as in training and exact."""
    rng = np.random.default_rng(0)
    costs = Costs.macs(shape, BUDGET, 128.0)
    dense = dense_cost(costs, shape.layers)
    found: dict[str, list[float]] = {"in training": [], "exact": []}
    for kind, times in (("in training", 30), ("exact", 3)):
        for share in np.linspace(1, 0.1, times):
            heads = rng.exponential(size=(shape.layers, shape.heads))
            filters = rng.exponential(size=(shape.layers, shape.filters)) / 60
            start = time.perf_counter()
            project(heads, filters, costs, share * dense, exact=kind == "exact")
            found[kind].append(1e3 * (time.perf_counter() - start))
    return found


def render(
    rows: dict[str, list[np.ndarray]], projecting: dict[str, list[float]], given: argparse.Namespace, name: str
) -> str:
    """Returns the table in Markdown."""
    lines = [f"| scorer | {' | '.join(TAUGHT)} |", "|---|---|---|---|"]
    for scorer, columns in rows.items():
        cells = [f"{np.median(c):.2f}x ({np.percentile(c, 25):.2f}–{np.percentile(c, 75):.2f})" for c in columns]
        lines.append(f"| {scorer} | {' | '.join(cells)} |")
    limits = " | ".join(f"at most {limit:g}x" for limit in LIMITS.values())
    lines += [
        f"| asked for | {limits} |",
        "",
        "| projection at BERT-base's size | median, ms | largest |",
        "|---|---|---|",
    ]
    for kind, ms in projecting.items():
        lines.append(f"| {kind} | {np.median(ms):.1f} | {np.max(ms):.1f} |")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores} cores, {platform.machine()}"
    versions = ", ".join(f"{package} {version(package)}" for package in ("compress", "torch", "transformers"))
    what = (
        f"{name}, {given.batch_size} x {given.seq_len} tokens, dropout {'on' if given.dropout else 'off'}; median of "
        f"{given.rounds} ratios (quartiles); {device}, {torch.get_num_threads()} threads, {date.today()}, {versions}"
    )
    return "\n".join([*lines, "", what]) + "\n"


if __name__ == "__main__":
    main()
