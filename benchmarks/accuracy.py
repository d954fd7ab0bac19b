"""Compares the paper's method with ours, one change at a time: accuracy, divergence from the dense model, seconds.

    python benchmarks/accuracy.py MODEL --data train.tsv --eval-data dev.tsv [--macs 0.5,0.4,0.3,0.2,0.1]
        [--seeds 0,1,2] [--samples 2048] [--seq-len 64] [--variants kwon,full] [--log figures.jsonl]
        [--output table.md] [--plot plot.png]

Every seed draws its own calibration examples, the same for all variants and budgets. The divergence (KL) is measured on
other rows of the training data, used neither for calibration nor for evaluation: methods should be chosen on these,
not on the evaluation data. Models run in PyTorch; a MACs budget does not depend on timing.

Table and plot are written again after every seed; with --log, an interrupted benchmark can be continued. This is a
benchmark, not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from accuracy_figures import VARIANTS, Figures, Method, Results, Variant, draw, number_text, render
from numpy.typing import NDArray
from torch import Tensor

from compress.calibration.calibrate import observe
from compress.calibration.obs import rank_by_curvature
from compress.core.errors import CompressError
from compress.core.importance import Importance, Ranking, Rankings
from compress.core.plan import Budget, Plan
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

P = ParamSpec("P")
T = TypeVar("T")

# Added to a run's seed to draw rows that the run has not seen.
OTHER_ROWS = 10_000
# Seconds for trying out whole structures, where a variant does.
TRY_SECONDS = 15.0


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
    parser.add_argument(
        "--effort",
        choices=tuple(EFFORT),
        default="standard",
        help="for trying structures out and for joint reconstruction",
    )
    parser.add_argument("--held-out", type=int, default=1024, help="rows of the training data to measure KL on")
    parser.add_argument("--output", type=Path, help="write the table here too")
    parser.add_argument("--log", type=Path, help="keep every figure here and compute none twice (JSON lines)")
    parser.add_argument("--plot", type=Path, help="draw metric and KL against MACs here (.png, .svg)")
    parser.add_argument("--profile", type=Path, help="measured profile: adds latency to the plot")
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
    """Computes all variants at all budgets for one seed and adds them to the results."""
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
    loaded = load(config, Silent(), further=True)
    model, task = loaded.checkpoint.model, loaded.checkpoint.task
    other, loaded = hold_out(config, loaded, given.held_out)
    dense, dense_other = outputs_of(model, task, loaded.evaluation), outputs_of(model, task, other)
    measured = task.evaluate(dense, loaded.evaluation, dense)
    results.metric_name = measured.name
    results.add_dense(seed, measured.value)
    _say(
        f"seed {seed}: {len(loaded.calibration)} calibrated on, {len(loaded.evaluation)} evaluated, KL on {len(other)}"
    )

    weighed: dict[tuple[Method, bool], tuple[Importance, float]] = {}
    tried: dict[tuple[tuple[Method, bool], float], tuple[Importance, float]] = {}
    for budget in given.macs:
        for name in given.variants:
            if (name, budget, seed) in results.figures:
                continue
            variant = VARIANTS[name]
            kind = variant.importance, variant.identity
            if kind not in weighed:
                changed = config.model_copy(update={"method": variant.importance})
                weigh = weigh_alike if variant.identity else calibrate
                weighed[kind] = time_call(weigh, Run.silent(changed, loaded))
            importance, calibrating = weighed[kind]
            trial = 0.0
            if variant.tried:
                if (kind, budget) not in tried:
                    tried[kind, budget] = time_call(try_structures, importance, budget, config, loaded)
                importance, trial = tried[kind, budget]
            plan, search = time_call(find_plan, variant, importance, budget, config, loaded)
            pruned, repair = time_call(prune_copy, variant, plan, config, loaded)
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
                f"KL {number_text(found.kl, 4)}  {sum(found.seconds.values()):.1f} s"
            )


def weigh_alike(run: Run) -> Importance:
    """Returns what structured OBS finds where an error of a sublayer's output counts alike in all directions.

    Losses are shares of what removing the whole sublayer would lose, so that they can be added up.
    """
    loaded = run.loaded
    found = observe(run.config, loaded.checkpoint, loaded.calibration)
    assert isinstance(found, dict)
    alike = {key: replace(c, outputs=torch.eye(len(c.outputs))) for key, c in found.items()}
    rankings = rank_by_curvature(loaded.checkpoint.encoder, alike)

    def shares(kind: tuple[Ranking, ...]) -> tuple[Ranking, ...]:
        return tuple(replace(ranking, loss=ranking.loss / max(ranking.loss[0], 1e-30)) for ranking in kind)

    return Importance(Rankings(heads=shares(rankings.heads), filters=shares(rankings.filters)), None)


def try_structures(importance: Importance, macs: float, config: RunConfig, loaded: Loaded) -> Importance:
    """Returns the importance with losses corrected by trying out structures."""
    return refined(Run.silent(config, loaded).asking(macs=macs, search_seconds=TRY_SECONDS), importance, None)


def find_plan(variant: Variant, importance: Importance, macs: float, config: RunConfig, loaded: Loaded) -> Plan:
    """Returns the plan that a variant finds."""
    fisher = importance.fisher
    if fisher is not None and not variant.exchange:
        fisher = replace(fisher, head_blocks=None, filter_blocks=None)
    problem = SearchProblem(loaded.shape, Budget("macs", macs), variant.search, loaded.length, seed=config.seed)
    return make_plan(problem, importance.rankings if fisher is None else Rankings.from_fisher(fisher), fisher)


def prune_copy(variant: Variant, plan: Plan, config: RunConfig, loaded: Loaded) -> Any:
    """Returns a pruned copy of the dense model, reconstructed as the variant asks."""
    if variant.repair is None:
        model = copy.deepcopy(loaded.checkpoint.model)
        remove(model, plan.structure)
        return model
    changes = {"method": variant.repair, "effort": config.effort if variant.joint else "fast"}
    learnt = loaded if variant.further else replace(loaded, further=loaded.further.select([]))
    model, _ = prune(Run.silent(config, learnt).asking(**changes), plan)
    return model


def hold_out(config: RunConfig, loaded: Loaded, count: int) -> tuple[Encoded, Loaded]:
    """Returns rows of the training data whose tokens are in no example that is learnt from or evaluated.

    Where too few of them are left, they are taken out of the further examples, without which the second value is.
    """
    rows = load_data(config.calibration_data, "train")
    checkpoint = loaded.checkpoint
    columns = checkpoint.task.columns(rows, checkpoint.model.config, config.text_column, config.label_column)
    # Enough rows for ``count``, even if all examples that were learnt from are among them.
    learnt = len(loaded.calibration) + len(loaded.further)
    sample = sample_rows(rows, count + learnt, config.seed + OTHER_ROWS)
    encoded = checkpoint.task.encode(sample, checkpoint.tokenizer, columns, config.seq_len, checkpoint.model.config)
    for seen in (loaded.calibration, loaded.further, loaded.evaluation):
        encoded = encoded.without(seen)
    if len(encoded) >= count or not len(loaded.further):
        return encoded.take(count, config.seed + OTHER_ROWS), loaded
    others = loaded.further.without(loaded.evaluation).take(count, config.seed + OTHER_ROWS)
    return others, replace(loaded, further=loaded.further.without(others))


def divergence(model: Any, task: Task, data: Encoded, dense: NDArray[Any]) -> float | None:
    """Returns the mean divergence of the model's outputs from the dense model's; None without data."""
    if not len(data):
        return None
    ours: Tensor = torch.from_numpy(outputs_of(model, task, data))
    return float(task.divergence(ours, torch.from_numpy(dense)).mean())


def time_call(work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> tuple[T, float]:
    """Calls ``work``; returns its result and its seconds."""
    start = time.perf_counter()
    result = work(*arguments, **keywords)
    return result, time.perf_counter() - start


def _numbers(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def numbers(text: str) -> tuple[T, ...]:
        return tuple(kind(part) for part in text.split(","))

    return numbers


def _variants(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown variant '{unknown[0]}'; choose from {', '.join(VARIANTS)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
