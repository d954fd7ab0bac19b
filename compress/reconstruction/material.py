"""What joint reconstruction learns from: which examples it is fitted to, trained on and judged by, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compress.core.plan import EncoderShape, Widths
from compress.data.batches import Encoded

BATCH_SIZE = 32
# Fraction of the MACs from which on a model gets the least number of passes.
REFERENCE = 0.4
# With 1 all smaller models would cost as much as it does. At 0.1 of the MACs (MiniLM-L6, SST-2), twice the steps and
# twice the examples took the divergence on unseen rows from 0.074 to 0.045.
GROWTH = 1.5
# Examples that judge: of the further ones so many at most, or such a share if fewer. Where those are fewer than a share
# of the calibration examples, these are held out instead. With 205 of them, noise hid a rate that was too high at half
# of the MACs (1.07 times the divergence after a pilot); 1,024 showed it (1.5 times).
JUDGES, JUDGING = 512, 0.25
HELD_OUT = 0.1
# Examples in a pass at least, where there are so many.
PASS = 2_048
# Share of the bound on operations that answers of the dense model on further examples may cost.
FURTHER_COST = 0.125


@dataclass(frozen=True)
class Length:
    """How long the training is, in passes over the training examples.

    Attributes:
        epochs: least passes.
        most_epochs: most passes. A model with less than ``REFERENCE`` of the MACs gets more than ``epochs``: the less
            is left of it, the more there is to repair, and the sooner a pass is over.
        most_flops: bound on floating-point operations, which can reduce the number of steps; None for no bound.
    """

    epochs: int
    most_epochs: int
    most_flops: float | None = None

    def passes(self, fraction: float) -> int:
        """Passes for a model with this fraction of the dense MACs."""
        wanted = self.epochs * (REFERENCE / max(fraction, 1e-9)) ** GROWTH
        return round(min(self.most_epochs, max(self.epochs, wanted)))


@dataclass(frozen=True)
class Material:
    """Examples by what they are for; labels are not read.

    Attributes:
        fitted: for the layer-by-layer fit, and to train on.
        more: to train on alone.
        judges: held out of both.
    """

    fitted: Encoded
    more: Encoded
    judges: Encoded

    @classmethod
    def of(cls, data: Encoded, further: Encoded | None, seed: int) -> Material:
        """Share out the examples there are.

        Args:
            data: calibration examples.
            further: other examples; None for none.
            seed: of the choice of those that judge.
        """
        more = data.select([]) if further is None else further
        count = min(JUDGES, int(JUDGING * len(more)))
        if count >= HELD_OUT * len(data):
            held, rest = _split(len(more), count, seed)
            return cls(data, more.select(rest), more.select(held))
        held, rest = _split(len(data), max(1, int(HELD_OUT * len(data))), seed)
        return cls(data.select(rest), more, data.select(held))

    def __len__(self) -> int:
        """Number of examples to train on."""
        return len(self.fitted) + len(self.more)

    def affordable(self, shape: EncoderShape, length: Length) -> Material:
        """Without further examples for which the dense model's answers cost too much.

        Args:
            shape: the dense encoder.
            length: of the training.
        """
        if length.most_flops is None:
            return self
        answer = 2 * shape.macs(shape.dense, self.fitted.mean_length)
        return replace(self, more=self.more.take(int(FURTHER_COST * length.most_flops / answer), seed=0))


def _split(examples: int, held: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw positions to hold out; returns these and all others, ascending."""
    order = np.random.default_rng(seed).permutation(examples)
    return np.sort(order[:held]), np.sort(order[held:])


def steps_within(shape: EncoderShape, widths: Widths, material: Material, length: Length) -> int:
    """Number of optimizer steps in the passes over the training examples, cut off at a bound on their cost.

    A pass is as long as one over the calibration examples, or over ``PASS`` others where there are so many. A step
    costs one forward and one backward pass of the pruned model. A backward pass costs as much as two forward passes.
    The dense model's answers are computed once.

    Args:
        shape: the dense encoder.
        widths: heads and filters of the pruned model.
        material: the examples.
        length: of the training.

    Returns:
        Steps of ``BATCH_SIZE`` examples.
    """
    tokens = material.fitted.mean_length
    dense, pruned = (shape.macs(of, tokens) for of in (shape.dense, widths))
    train = max(len(material.fitted), min(PASS, len(material)))
    steps = length.passes(pruned / dense) * -(-train // BATCH_SIZE)
    if length.most_flops is None:
        return steps
    once, step = 2 * min(len(material), steps * BATCH_SIZE) * dense, 6 * BATCH_SIZE * pruned
    return min(steps, max(0, int((length.most_flops - once) / max(step, 1.0))))
