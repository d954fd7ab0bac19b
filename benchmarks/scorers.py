"""Compares fine-pruning by every scorer with search and reconstruction alone, at equal measured speed-ups.

    python benchmarks/scorers.py MODEL [--speedups 2,3,4] [--seeds 0] [--examples 8192] [--epochs 1]
        [--scorers fisher,movement] [--without-distillation] [--log runs.jsonl] [--output table.md]
        -- --data train.tsv --eval-data dev.tsv --seq-len 64

`post-training` is the run without `--fine-prune`. `weights alone` trains the weights of its structure. Every scorer
finds a structure of its own while the budget falls, and then trains its weights for as many epochs again. Examples,
epochs and rates are the same for all. The options after `--` go to `compress run`. side_by_side.py makes runs, log and
table.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from side_by_side import Variant, compare_parsed, parse, parser_of

SCORERS = ("fisher", "movement", "soft-movement", "l0", "magnitude", "random")
# The published 1e-1 for L0 is for fifty thousand steps and more: in a few hundred steps noise would decide.
SCORE_RATE = 1e-2
PENALTIES = {"soft-movement": 1.0, "l0": 10.0}


def recipe(scorer: str | None, examples: int, epochs: float, rates: tuple[float, float], distillation: float) -> str:
    """Returns a recipe as TOML.

    Args:
        scorer: name of the scorer; None trains the weights alone.
        examples: number of training examples.
        epochs: epochs of each phase.
        rates: learning rates of the weights, while the structure is found and afterwards.
        distillation: weight of the teacher's outputs in the loss; the labels have the rest.
    """
    structure, weights = ([f"epochs = {epochs!r}", f"learning_rate = {rate!r}", "dropout = false"] for rate in rates)
    lines = [f"examples = {examples}", "", "[weights]", *weights]
    if scorer is not None:
        lines += ["", "[structure]", f"scorer = {json.dumps(scorer)}", *structure, "project_every = 10"]
        lines += [
            f"score_learning_rate = {SCORE_RATE!r}",
            f"penalty = {PENALTIES.get(scorer, 0.0)!r}",
        ]
    lines += ["", "[distillation]", f"weight = {distillation!r}", "", "[validation]", "times = 4", "most = 500"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, (2.0, 3.0, 4.0))
    parser.add_argument("--scorers", default=",".join(SCORERS))
    parser.add_argument("--examples", type=int, default=8192)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="while the structure is found")
    parser.add_argument("--weights-learning-rate", type=float, default=3e-5, help="afterwards, and without that")
    parser.add_argument("--without-distillation", action="store_true", help="learn from labels alone")
    given = parse(parser)
    weight, suffix = (0.0, ", labels alone") if given.without_distillation else (0.5, "")
    rates = given.learning_rate, given.weights_learning_rate
    with tempfile.TemporaryDirectory() as directory:
        variants = [Variant("post-training", ())]
        for scorer in (None, *given.scorers.split(",")):
            name = scorer or "weights alone"
            path = Path(directory, f"{name.replace(' ', '-')}.toml")
            path.write_text(recipe(scorer, given.examples, given.epochs, rates, weight), encoding="utf-8")
            variants.append(Variant(name + suffix, ("--fine-prune", str(path))))
        note = f"; {given.examples} examples, {given.epochs:g} epochs a phase at {rates[0]:g} and {rates[1]:g}"
        print(compare_parsed(given, variants, note))


if __name__ == "__main__":
    main()
