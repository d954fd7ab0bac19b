"""At chance, weak, or sound: few examples condemn nobody, and no wrong reading of labels passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.tasks.standing import standing_of_answers, standing_of_classes, standing_of_ranks, standing_of_spans


def answers(truth: np.ndarray, right: float, classes: int, seed: int = 0) -> np.ndarray:
    """Predictions of which this share is right, the others are at random."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(truth)) < right, truth, rng.integers(0, classes, len(truth)))


@pytest.mark.parametrize("count", [40, 200])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_classifier(count: int, classes: int) -> None:
    truth = np.arange(count) % classes
    good = standing_of_classes(answers(truth, 0.85, classes), truth, classes)
    assert good is not None and not good.weak
    wrong = {
        "shifted": (truth + 1) % classes,
        "always the same": np.zeros_like(truth),
        "in another order": np.random.default_rng(1).permutation(truth),
    }
    for name, predicted in wrong.items():
        found = standing_of_classes(predicted, truth, classes)
        assert found is not None and found.at_chance, name


def test_a_weak_classifier_is_not_at_chance() -> None:
    truth = np.arange(400) % 2
    found = standing_of_classes(answers(truth, 0.2, 2), truth, 2)
    assert found is not None and found.weak and not found.at_chance


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 10**6))
def test_few_examples_condemn_no_good_classifier(count: int, classes: int, seed: int) -> None:
    truth = np.random.default_rng(seed).integers(0, classes, count)
    # At most one in eight is wrong.
    predicted = truth.copy()
    predicted[: count // 8] = (predicted[: count // 8] + 1) % classes
    found = standing_of_classes(predicted, truth, classes)
    assert found is not None and not found.at_chance


def test_one_class_alone_is_compared_with_the_number_of_classes() -> None:
    truth = np.zeros(60, dtype=np.int64)
    good, bad = (standing_of_classes(answers(truth, right, 4), truth, 4) for right in (0.9, 0.0))
    assert good is not None and not good.weak and bad is not None and bad.at_chance


def test_a_correlation() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(60)
    good = standing_of_ranks(np.stack([truth + 0.1 * rng.random(60), truth], 1))
    assert good is not None and not good.weak
    for wrong in (-truth, np.zeros(60), np.roll(truth, 7)):
        found = standing_of_ranks(np.stack([wrong, truth], 1))
        assert found is not None and found.at_chance
    same = standing_of_ranks(np.stack([truth, np.ones(60)], 1))
    assert same is not None and same.at_chance and "have the number 1" in same.reference
    assert standing_of_ranks(np.stack([-truth[:3], truth[:3]], 1)) is None


def test_spans_and_answers() -> None:
    good = standing_of_spans(np.tile([1.0, 1.0, 1.0], (20, 1)), None)
    nothing = standing_of_spans(np.tile([0.0, 1.0, 1.0], (20, 1)), None)
    assert good is not None and not good.weak and nothing is not None and nothing.at_chance
    assert standing_of_spans(np.tile([0.0, 1.0, 0.0], (20, 1)), None) is None

    unanswered = np.arange(60) % 2 == 0
    silent = standing_of_answers(unanswered.astype(float), unanswered)
    assert silent is not None and silent.at_chance and "without an answer" in silent.reference
    found = standing_of_answers(np.full(60, 0.8), unanswered)
    assert found is not None and not found.weak
    random = standing_of_answers(np.full(60, 0.03), np.zeros(60, dtype=bool))
    assert random is not None and random.at_chance
    assert standing_of_answers(np.zeros(5), np.ones(5, dtype=bool)) is None
