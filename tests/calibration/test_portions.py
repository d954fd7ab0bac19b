"""Laws of portions: every example once, in order, in parts that fit; and calibration that comes out the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.calibration.accumulate import Passes
from compress.calibration.curvature import curvature
from compress.calibration.fisher import fisher_information
from compress.core.errors import DataError
from compress.core.oom import Portions, out_of_memory
from compress.data.batches import Encoded
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from support.starved import Starved


@given(st.integers(1, 70), st.integers(1, 70))
def test_every_example_comes_once_and_in_order_in_parts_that_fit(count: int, fits: int) -> None:
    done: list[int] = []
    said: list[str] = []

    def work(part: slice) -> None:
        if part.stop - part.start > fits:
            raise MemoryError
        done.extend(range(part.start, part.stop))

    portions = Portions(said.append)
    for _ in range(2):
        done.clear()
        portions.each(count, work)
        assert done == list(range(count))
    assert (portions.most is None) == (count <= fits) == (not said)


def test_other_errors_and_what_does_not_fit_at_all_are_raised() -> None:
    def broken(_: slice) -> None:
        raise RuntimeError("shapes do not fit")

    def never(_: slice) -> None:
        raise MemoryError("not even one")

    with pytest.raises(RuntimeError, match="shapes"):
        Portions().each(4, broken)
    with pytest.raises(MemoryError, match="not even one"):
        Portions().each(4, never)


def test_the_real_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)
    assert not out_of_memory(ValueError("out of memory"))


@pytest.fixture(scope="module")
def checkpoint(tiny_bert: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_bert))


@pytest.fixture(scope="module")
def data() -> Encoded:
    generator = np.random.default_rng(0)
    rows = [generator.integers(5, 100, size=n, dtype=np.int32) for n in generator.integers(4, 20, size=23)]
    features = {"input_ids": rows, "attention_mask": [np.ones_like(r) for r in rows]}
    padding = {"input_ids": 0, "attention_mask": 0}
    return Encoded(features, generator.integers(0, 2, size=23), padding)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the order of float32 sums."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


CASES = [{"most": 5}, {"most": 1}, {"at": (1,)}, {"at": (2,)}, {"at": (2, 4)}]


@pytest.mark.parametrize("case", CASES)
def test_curvature_is_the_same_where_memory_runs_out(checkpoint: Checkpoint, data: Encoded, case: Any) -> None:
    said: list[str] = []
    whole = curvature(checkpoint.encoder, checkpoint.task, data, Passes(seed=3, batch_size=12))
    starved: Any = Starved(checkpoint.task, **case)
    parts = curvature(checkpoint.encoder, starved, data, Passes(seed=3, batch_size=12, say=said.append))
    assert re.search("memory ran out with 1[12] examples at once; going on with 6", said[0])
    for key, found in whole.items():
        assert_close(parts[key].inputs, found.inputs)
        assert_close(parts[key].outputs, found.outputs)


@pytest.mark.parametrize("label_free", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_fisher_information_is_the_same_where_memory_runs_out(
    checkpoint: Checkpoint, data: Encoded, case: Any, label_free: bool
) -> None:
    options: dict[str, Any] = {"passes": Passes(3, 12), "label_free": label_free, "blocks": True}
    whole = fisher_information(checkpoint.encoder, checkpoint.task, data, **options)
    starved: Any = Starved(checkpoint.task, **case)
    parts = fisher_information(checkpoint.encoder, starved, data, **options)
    for name in ("heads", "filters", "head_blocks", "filter_blocks"):
        assert_close(torch.as_tensor(getattr(parts, name)), torch.as_tensor(getattr(whole, name)))


@pytest.mark.parametrize("key", [(0, "ffn"), (2, "attention")])
def test_a_sum_that_memory_ends_in_is_not_counted_twice(
    checkpoint: Checkpoint, data: Encoded, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that ends between two sublayers: those before it have their share of the batch, the others do not."""
    from compress.calibration import curvature as module

    whole = curvature(checkpoint.encoder, checkpoint.task, data, Passes(seed=3, batch_size=12))
    original = module._Sums.zeros
    left = [1]

    class Failing(dict[Any, Any]):
        def __getitem__(self, asked: Any) -> Any:
            if asked == key and left:
                left.pop()
                raise MemoryError
            return super().__getitem__(asked)

    def zeros(*arguments: Any) -> Any:
        sums = original(*arguments)
        sums.outputs = Failing(sums.outputs)
        return sums

    monkeypatch.setattr(module._Sums, "zeros", zeros)
    parts = curvature(checkpoint.encoder, checkpoint.task, data, Passes(seed=3, batch_size=12))
    assert not left
    for asked, found in whole.items():
        assert_close(parts[asked].outputs, found.outputs)
        assert_close(parts[asked].inputs, found.inputs)


@pytest.mark.parametrize("weigh", ["full", "kwon"])
def test_activations_that_are_no_numbers_are_blamed_on_their_layer(tiny_bert: Path, data: Encoded, weigh: str) -> None:
    checkpoint = load_checkpoint(str(tiny_bert))
    with torch.no_grad():
        checkpoint.encoder.layers[1].get("ffn_input").weight.fill_(1e38)
    with pytest.raises(
        DataError, match=r"not finite: the output of encoder layer 1 has NaN .* calibration example \d+"
    ):
        if weigh == "full":
            curvature(checkpoint.encoder, checkpoint.task, data)
        else:
            fisher_information(checkpoint.encoder, checkpoint.task, data, Passes(seed=0))
