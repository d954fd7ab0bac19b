"""Shows why exchanging units by per-sample Fisher blocks hurts: the objective is fitted to noise.

    python benchmarks/exchange.py MODEL --data train.tsv [--macs 0.5,0.3] [--samples 2048] [--seq-len 64] [--seed 0]

The calibration examples are split in two halves. Fisher blocks of the first half choose the pruned units of every
sublayer, by the diagonal and by the paper's exchange (Kwon et al. 2022, section 4.2). The objective, the sum of a block
over the pruned units, is then computed on both halves. A choice that generalises lowers it on the second half too.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray

from compress.calibration.accumulate import Passes
from compress.calibration.fisher import fisher_information
from compress.core.errors import CompressError
from compress.core.importance import Rankings
from compress.core.progress import Silent
from compress.inputs.load import load
from compress.options.run_config import make_config
from compress.search.rearrange import rearrange


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--macs", default="0.5,0.3", help="fractions of the units of every sublayer to keep")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        compare(given)
    except CompressError as error:
        sys.exit(f"error: {error}")


def compare(given: argparse.Namespace) -> None:
    options = {"model": given.model, "data": given.data, "samples": given.samples, "seq_len": given.seq_len}
    config = make_config({**options, "seed": given.seed})
    loaded = load(config, Silent(), evaluation=False)
    encoder, task, data = loaded.checkpoint.encoder, loaded.checkpoint.task, loaded.calibration
    halves = [data.select(np.arange(start, len(data), 2)) for start in (0, 1)]
    own, other = (fisher_information(encoder, task, half, Passes(seed=given.seed), blocks=True) for half in halves)
    rankings = Rankings.from_fisher(own)
    print(
        "Exchange relative to the diagonal's choice, geometric mean over layers; below 1 is better\n\n"
        "| units kept | kind | objective, own half | objective, other half | sum of single units, other half |\n"
        "|---|---|---|---|---|"
    )
    for fraction in (float(part) for part in given.macs.split(",")):
        for kind in ("heads", "filters"):
            pairs = zip(getattr(own, f"{kind[:-1]}_blocks"), getattr(other, f"{kind[:-1]}_blocks"), strict=True)
            ratios = []
            for (block, unseen), ranking in zip(pairs, getattr(rankings, kind), strict=True):
                plain = ranking.first(round(fraction * len(block)))
                ratios.append(ratios_of(block, unseen, plain, rearrange(block, plain)))
            mean = np.exp(np.log(np.maximum(ratios, 1e-12)).mean(0))
            print(f"| {fraction:g} | {kind} | " + " | ".join(f"{value:.2f}" for value in mean) + " |", flush=True)
    print(f"\n{len(halves[0])} examples in each half, seed {given.seed}")


def ratios_of(
    own: NDArray[np.floating], other: NDArray[np.floating], plain: tuple[int, ...], exchanged: tuple[int, ...]
) -> tuple[float, float, float]:
    """Returns exchanged / plain: the objective on the own half, on the other, and of the other half's diagonal."""

    def over(block: NDArray[np.floating]) -> float:
        before, after = (np.setdiff1d(np.arange(len(block)), kept) for kept in (plain, exchanged))
        return float(block[np.ix_(after, after)].sum() / block[np.ix_(before, before)].sum())

    return over(own), over(other), over(np.diag(other.diagonal()))


if __name__ == "__main__":
    main()
