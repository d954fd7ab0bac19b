"""Where a model's metric stands: at chance, weak, or as a fine-tuned model's.

Chance is what answers reach that ignore the input: always the largest class, or the model's own answers in another
order. A few examples prove little, so a model counts as at chance only where one of half the possible skill would
hardly do as badly.

Chance-corrected agreement and its deviation under independence: Cohen, A Coefficient of Agreement for Nominal Scales,
1960. The transform of a correlation: Fisher, On the "Probable Error" of a Coefficient of Correlation, 1921.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of what lies between chance and a perfect metric, a fine-tuned model reaches more than this.
WEAK_SKILL = 0.3
HALF_SKILL = 0.5
# How improbable a result must be of a model of half the possible skill.
IMPROBABLE = 0.05
# F1 that random spans and answers reach.
NEAR_ZERO = 0.05
# Standard deviations of a relation that is significant: 5 %, one-sided.
SIGNIFICANT = 1.645


@dataclass(frozen=True)
class Standing:
    """A model's metric beside chance.

    Attributes:
        value: the metric.
        chance: what answers reach that ignore the input, in the unit of the metric.
        reference: what chance is, in words.
        skill: part of the way from chance to a perfect metric; 0 at chance, 1 at the perfect one.
        at_chance: whether the model's answers have no relation to the truth, as far as the examples can tell.
        examples: number of units that were judged.
    """

    value: float
    chance: float
    reference: str
    skill: float
    at_chance: bool
    examples: int

    @property
    def weak(self) -> bool:
        """Whether the metric is far below what a fine-tuned model should have."""
        return self.at_chance or self.skill < WEAK_SKILL

    def said(self, name: str) -> str:
        """Returns the comparison in words.

        Args:
            name: of the metric.
        """
        return f"{name} {self.value:.3f}, and chance is {self.chance:.3f} ({self.reference}; {self.examples} examples)"


def standing_of_classes(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int, share_of: str = "class"
) -> Standing | None:
    """Returns where the accuracy of a classifier stands.

    Args:
        predicted: predicted classes, [n].
        truth: right classes, [n].
        classes: number of classes of the model.
        share_of: what a class is in messages.
    """
    count = len(truth)
    if not count:
        return None
    right = predicted == truth
    value = float(right.mean())
    size = 1 + max(int(predicted.max()), int(truth.max()), classes - 1)
    shares, answered = (np.bincount(values, minlength=size) / count for values in (truth, predicted))
    if shares.max() == 1.0:
        # The answer that is always right is not chance: nothing but the number of classes is left to compare with.
        chance, by_order, reference = 1 / classes, 1 / classes, f"one {share_of} of {classes}"
        related = True
    else:
        chance, by_order = float(shares.max()), float(shares @ answered)
        reference = f"the share of the most frequent {share_of}"
        related = (value - by_order) > SIGNIFICANT * np.sqrt(by_order * (1 - by_order) / count)
    skill = (value - by_order) / (1 - by_order) if by_order < 1 else 0.0
    improbable = _improbable(int(right.sum()), count, chance)
    return Standing(value, chance, reference, skill, improbable and (value <= chance + 1e-9 or not related), count)


def standing_of_ranks(pairs: NDArray[np.float64]) -> Standing | None:
    """Returns where a rank correlation stands.

    Args:
        pairs: predictions and truth, [n, 2].

    Returns:
        The comparison; None where there are too few pairs.
    """
    count = len(pairs)
    if count < 4:
        return None
    if np.ptp(pairs[:, 1]) == 0:
        return Standing(
            0.0, 0.0, f"all of them have the number {pairs[0, 1]:g}, so there is no order", 0.0, True, count
        )
    value = spearman(pairs)
    related = value * np.sqrt(count - 1) > SIGNIFICANT
    reach = np.arctanh(HALF_SKILL) - SIGNIFICANT / np.sqrt(count - 3)
    improbable = np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)) < reach
    return Standing(value, 0.0, "no relation", value, bool(improbable and not related), count)


def standing_of_spans(counts: NDArray[np.float64], words: Standing | None) -> Standing | None:
    """Returns where the F1 of spans stands.

    Args:
        counts: right, predicted and true spans of each sentence, [n, 3].
        words: where the tags of single words stand.

    Returns:
        The comparison; None without true spans.
    """
    right, found, real = counts.sum(0)
    if not real:
        return None
    value = float(2 * right / (found + real))
    unrelated = words is not None and words.skill <= 0
    low = value <= NEAR_ZERO or unrelated
    improbable = _improbable(int(right), int(real), 0.0)
    return Standing(value, 0.0, "no span found", value, bool(low and improbable), len(counts))


def standing_of_answers(scores: NDArray[np.float64], unanswered: NDArray[np.bool_]) -> Standing | None:
    """Returns where the F1 of answers stands.

    Args:
        scores: F1 of each question, [n].
        unanswered: whether the context has no answer to it, [n].

    Returns:
        The comparison; None where no question has an answer.
    """
    count = len(scores)
    if not count or unanswered.all():
        return None
    value, share = float(scores.mean()), float(unanswered.mean())
    chance = max(share, NEAR_ZERO)
    reference = "the share of questions without an answer" if share > NEAR_ZERO else "random words of the context"
    skill = (value - chance) / (1 - chance)
    improbable = _improbable(round(float(scores.sum())), count, chance)
    return Standing(value, chance, reference, skill, value <= chance + 1e-9 and improbable, count)


def spearman(pairs: NDArray[np.float64]) -> float:
    """Returns Spearman's rank correlation of the two columns of [n, 2]; 0 where a column is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(column) for column in pairs.T)
    spread = float(first.std() * second.std())
    covariance = float(((first - first.mean()) * (second - second.mean())).mean())
    return covariance / spread if spread > 0 else 0.0


def _improbable(right: int, count: int, chance: float) -> bool:
    """Returns whether a model of half the possible skill would hardly have so few right answers."""
    from scipy.stats import binom

    probability: Any = binom.cdf(right, count, chance + HALF_SKILL * (1 - chance))
    return bool(probability < IMPROBABLE)
