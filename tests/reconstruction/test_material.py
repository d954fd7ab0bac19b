"""Which examples joint reconstruction learns from, which judge it, and how long it takes."""

from __future__ import annotations

import numpy as np
import pytest

from compress.core.plan import Widths
from compress.data.batches import Encoded
from compress.models.encoder import encoder_of
from compress.reconstruction.material import BATCH_SIZE, JUDGES, PASS, Length, Material, steps_within
from support.examples import examples
from support.models import random_model


def exactly(epochs: int, most_flops: float | None = None) -> Length:
    return Length(epochs, epochs, most_flops)


def rows_of(data: Encoded) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in data.features["input_ids"]]


def test_without_further_examples_a_tenth_judges_and_is_not_trained_on() -> None:
    data = examples(count=300)
    material = Material.of(data, None, 0)
    assert (len(material.judges), len(material.fitted), len(material.more), len(material)) == (30, 270, 0, 270)
    assert sorted(rows_of(material.judges) + rows_of(material.fitted)) == sorted(rows_of(data))
    assert rows_of(Material.of(data, None, 0).judges) == rows_of(material.judges)
    assert rows_of(Material.of(data, None, 1).judges) != rows_of(material.judges)


@pytest.mark.parametrize(("further", "judges"), [(10_000, JUDGES), (400, 100), (120, 30)])
def test_of_further_examples_some_judge_and_all_of_calibration_are_trained_on(further: int, judges: int) -> None:
    data, more = examples(count=300), examples(count=further, seed=1, labels=False)
    material = Material.of(data, more, 0)
    assert rows_of(material.fitted) == rows_of(data) and len(material.judges) == judges
    assert sorted(rows_of(material.judges) + rows_of(material.more)) == sorted(rows_of(more))


def test_too_few_further_examples_are_trained_on_only() -> None:
    material = Material.of(examples(count=300), examples(count=100, seed=1), 0)
    assert (len(material.judges), len(material.fitted), len(material.more)) == (30, 270, 100)


def test_further_examples_must_not_cost_too_much() -> None:
    shape = encoder_of(random_model("bert")).shape
    material = Material.of(examples(count=300), examples(count=2000, seed=1), 0)
    one = 2 * shape.macs(shape.dense, material.fitted.mean_length)
    assert len(material.affordable(shape, exactly(1)).more) == len(material.more)
    assert len(material.affordable(shape, exactly(1, 8 * 100.5 * one)).more) == 100
    assert len(material.affordable(shape, exactly(1, 0.0)).more) == 0


@pytest.mark.parametrize(("further", "counted"), [(0, 288), (500, 320 + 375), (4_000, PASS)])
def test_a_pass_is_as_long_as_there_are_examples_for(further: int, counted: int) -> None:
    shape = encoder_of(random_model("bert")).shape
    material = Material.of(examples(count=320), examples(count=further, seed=1), 0)
    assert steps_within(shape, shape.dense, material, exactly(2)) == 2 * int(np.ceil(counted / BATCH_SIZE))


def test_steps_are_those_of_the_epochs_unless_that_costs_too_much() -> None:
    shape, data = encoder_of(random_model("bert")).shape, examples(count=320)
    material = Material.of(data, None, 0)
    widths, length = Widths(heads=(3, 0, 1), filters=(10, 5, 0)), material.fitted.mean_length
    passes = 288 // BATCH_SIZE
    assert steps_within(shape, widths, material, exactly(3)) == 3 * passes
    once = 2 * 288 * shape.macs(shape.dense, length)
    step = 6 * BATCH_SIZE * shape.macs(widths, length)
    assert steps_within(shape, widths, material, exactly(3, once + 5.5 * step)) == 5
    assert steps_within(shape, widths, material, exactly(3, 0.5 * once)) == 0
    assert steps_within(shape, widths, material, exactly(3, 1e30)) == 3 * passes
    assert steps_within(shape, widths, material, exactly(3, 0.0)) == 0


@pytest.mark.parametrize(("fraction", "passes"), [(1.0, 4), (0.4, 4), (0.3, 6), (0.1, 12), (0.0, 12)])
def test_a_smaller_model_gets_more_passes(fraction: float, passes: int) -> None:
    assert Length(4, 12).passes(fraction) == passes
    assert Length(0, 0).passes(fraction) == 0
