"""Regression: loss and divergence in the unit of the labels, drawn labels around predictions, rank correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from compress.core.errors import DataError, ModelError
from compress.data.batches import Encoded
from compress.inputs.checkpoint import load_checkpoint
from compress.tasks import TextRegression
from compress.tasks.base import spearman
from support.models import MakeCheckpoint

TASK = TextRegression()


@pytest.fixture(scope="module")
def regressor(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("bert", id2label={0: "score"}, label2id={"score": 0})


def encode(regressor: Path, **columns: list[Any]) -> Encoded:
    from datasets import Dataset

    checkpoint = load_checkpoint(str(regressor))
    data, config = Dataset.from_dict(columns), checkpoint.model.config
    return TASK.encode(data, checkpoint.tokenizer, TASK.columns(data, config), 16, config)


def test_labels_are_numbers(regressor: Path) -> None:
    encoded = encode(regressor, text=["good", "bad", "slow"], score=["2.5", "-1e1", " 3 "])
    assert encoded.labels is not None and encoded.labels.tolist() == [2.5, -10.0, 3.0]
    assert encode(regressor, text=["good"], score=[""]).labels is None
    for wrong in ("high", "nan", "inf"):
        with pytest.raises(DataError, match=f"'{wrong}' in row 2, which is not a number"):
            encode(regressor, text=["good", "bad"], score=["1", wrong])


def test_classifiers_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match=r"2 classes, and text-regression needs exactly one number"):
        load_checkpoint(str(tiny_bert), task="text-regression")


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_unit_is_the_spread_of_the_labels(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs, dense = torch.randn(6, 1, generator=generator), torch.randn(6, 1, generator=generator)
    labels = np.random.default_rng(seed).normal(size=6)

    def encoded(values: Any) -> Encoded:
        return Encoded({"input_ids": [np.ones(2)] * 6}, labels=values, padding={"input_ids": 0})

    task, scaled = TASK.of_calibration(encoded(labels)), TASK.of_calibration(encoded(scale * labels))
    assert task.scale == pytest.approx(labels.std()) and TASK.of_calibration(encoded(None)).scale == 1.0
    # Another unit of outputs and labels changes nothing.
    torch.testing.assert_close(
        scaled.divergence(scale * outputs, scale * dense), task.divergence(outputs, dense), rtol=1e-3, atol=1e-6
    )
    expected = (outputs - dense).squeeze(-1).square() / (2 * labels.var())
    torch.testing.assert_close(task.divergence(outputs, dense), expected.float(), rtol=1e-3, atol=1e-6)


def test_drawn_labels_lie_around_the_outputs() -> None:
    task = TextRegression(scale=2.0)
    drawn = task.draw_labels(torch.full((20_000, 1), 3.0), torch.Generator().manual_seed(0))
    assert drawn.shape == (20_000,)
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.05) and float(drawn.std()) == pytest.approx(2.0, abs=0.05)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_spearman_is_that_of_scipy(rows: list[tuple[int, int]]) -> None:
    pairs = np.array(rows, dtype=np.float64)
    constant = any(len(set(column)) == 1 for column in pairs.T)
    expected = 0.0 if constant else spearmanr(pairs[:, 0], pairs[:, 1]).statistic
    assert spearman(pairs) == pytest.approx(expected, abs=1e-12)


def test_metric(regressor: Path) -> None:
    encoded = encode(regressor, text=["good", "bad", "slow"], score=[1.0, 3.0, 2.0])
    outputs = np.array([[0.1], [0.3], [0.2]])
    measured = TASK.evaluate(outputs, encoded)
    assert (measured.name, measured.value) == ("spearman", pytest.approx(1.0))
    bare = encode(regressor, text=["good", "bad", "slow"])
    faithful = TASK.evaluate(-outputs, bare, outputs)
    assert (faithful.name, faithful.value) == ("fidelity", pytest.approx(-1.0))
