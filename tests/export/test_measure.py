"""Sessions, predictions in order, and comparisons; where times decide, they are made up."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.core.errors import DataError, ExportError, TargetError
from compress.data.batches import Encoded
from compress.export import measure
from compress.export.measure import LEAST_ROUNDS, choose_fastest, compare_latency, predict
from compress.export.runtime import open_session
from compress.profile.target import Target
from compress.profile.timing import BURST, PRIME
from support.models import DenseOnnx
from support.structures import padded_inputs

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
FEED: dict[str, NDArray[Any]] = {"input_ids": np.ones((1, 4), np.int64)}


class Sums:
    """A session that answers with the sum of every row's token ids."""

    input_names = ("input_ids", "attention_mask")

    def __init__(self) -> None:
        self.calls = 0

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        self.calls += 1
        return np.stack([feed["input_ids"].sum(axis=1), np.ones(len(feed["input_ids"]))], axis=1)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def model_file(dense_onnx: DenseOnnx) -> Path:
    return dense_onnx("distilbert")


def _feed(**extra: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {**{name: tensor.numpy() for name, tensor in padded_inputs("distilbert").items()}, **extra}


def _encoded(rows: list[list[int]]) -> Encoded:
    masks = [[1] * len(row) for row in rows]
    features: dict[str, Any] = {"input_ids": rows, "attention_mask": masks}
    return Encoded(features, labels=None, padding={"input_ids": 0, "attention_mask": 0})


def test_predictions_are_in_the_order_of_the_examples() -> None:
    rows = [[3] * length for length in (5, 1, 9, 2, 7, 7, 3)]
    for batch_size in (1, 3, 32):
        answers = predict(Sums(), _encoded(rows), batch_size)
        np.testing.assert_array_equal(answers[:, 0], [sum(row) for row in rows])


def test_predictions_do_not_depend_on_padding(model_file: Path) -> None:
    session = open_session(model_file, CPU)
    rows = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16]]
    alone, together = (predict(session, _encoded(rows), size) for size in (1, 4))
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_predictions_of_nothing() -> None:
    with pytest.raises(DataError, match="no examples"):
        predict(Sums(), _encoded([]))


def test_a_model_is_called_in_a_row_as_in_a_deployment() -> None:
    order: list[str] = []

    class Named(Sums):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            order.append(self._name)
            return super().run(feed)

    result = compare_latency(Named("dense"), Named("compressed"), FEED, seconds=0.1)
    turns = [len(list(calls)) for _, calls in groupby(order[12:])]  # after six rounds that warm up
    assert all(count % (PRIME + BURST) == 0 for count in turns)
    assert sum(turns) * BURST == 2 * (PRIME + BURST) * result.rounds


def test_comparison_is_of_paired_rounds() -> None:
    dense, compressed = Sums(), Sums()
    result = compare_latency(dense, compressed, FEED, seconds=0.1)
    assert dense.calls == compressed.calls >= result.rounds >= LEAST_ROUNDS
    assert result.speedup.low <= result.speedup.value <= result.speedup.high
    assert result.speedup.value == pytest.approx(result.dense.value / result.compressed.value)


def test_slow_models_are_timed_often_enough() -> None:
    assert compare_latency(Sums(), Sums(), FEED, seconds=0.0).rounds == LEAST_ROUNDS


def _times(monkeypatch: pytest.MonkeyPatch, *columns: NDArray[np.float64]) -> None:
    """Let every measurement come out like this, in milliseconds."""
    monkeypatch.setattr(measure, "measure", lambda calls, **_: np.stack(columns[: len(calls)], axis=1))


def test_a_machine_that_drifts_does_not_move_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = np.linspace(80.0, 160.0, 50)
    _times(monkeypatch, drift, drift / 2)
    result = compare_latency(Sums(), Sums(), FEED)
    assert result.speedup.as_list() == pytest.approx([2.0, 2.0])
    assert result.dense.high - result.dense.low > 10


def test_choose_takes_another_form_only_when_it_is_faster_beyond_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (4, 40))
    _times(monkeypatch, 20 + noise[0], 30 + noise[1], 10 + noise[2], 15 + noise[3])
    names = ("default", "slow", "fast", "middling")
    assert choose_fastest({name: Sums() for name in names}, FEED) == "fast"
    assert choose_fastest({name: Sums() for name in names[:2]}, FEED) == "default"
    assert choose_fastest({"default": Sums()}, FEED) == "default"
    _times(monkeypatch, 20 + noise[0], 19.9 + noise[1])
    assert choose_fastest({"default": Sums(), "no different": Sums()}, FEED) == "default"
    _times(monkeypatch, 20 + noise[0], 20 + noise[0])
    assert choose_fastest({"default": Sums(), "the same": Sums()}, FEED) == "default"


def test_session_from_a_path_and_from_bytes_agree(model_file: Path) -> None:
    from_path, from_bytes = open_session(model_file, CPU), open_session(model_file.read_bytes(), CPU)
    np.testing.assert_array_equal(from_path.run(_feed()), from_bytes.run(_feed()))
    assert from_path.input_names == ("input_ids", "attention_mask")


def test_inputs_the_graph_lacks_are_ignored(model_file: Path) -> None:
    session = open_session(model_file, CPU)
    extra = _feed(token_type_ids=np.zeros((3, 9), np.int64))
    np.testing.assert_array_equal(session.run(extra), session.run(_feed()))


def test_a_missing_input_is_named(model_file: Path) -> None:
    with pytest.raises(ExportError, match="needs input 'attention_mask', the feed has input_ids"):
        open_session(model_file, CPU).run({"input_ids": FEED["input_ids"]})


def test_a_runtime_failure_tells_the_shapes(model_file: Path) -> None:
    too_long = {name: np.ones((1, 4000), np.int64) for name in ("input_ids", "attention_mask")}
    with pytest.raises(ExportError, match=r"could not run the model on inputs .*\(1, 4000\)"):
        open_session(model_file, CPU).run(too_long)


def test_a_closed_session(model_file: Path) -> None:
    session = open_session(model_file, CPU)
    session.close()
    with pytest.raises(ExportError, match="closed"):
        session.run(_feed())


def test_files_that_cannot_be_loaded(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no model file"):
        open_session(tmp_path / "none.onnx", CPU)
    (tmp_path / "half.onnx").write_bytes(model_file.read_bytes()[:1000])
    with pytest.raises(ExportError, match="cannot load"):
        open_session(tmp_path / "half.onnx", CPU)


def test_a_missing_runtime_names_the_extra(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetError, match=r"pip install 'compress\[cpu\]'"):
        open_session(model_file, CPU)


def test_a_runtime_of_a_later_version(model_file: Path) -> None:
    target = CPU.model_copy(update={"name": "later", "runtime": "onnxruntime-gpu"})
    with pytest.raises(
        TargetError, match=r"'later' asks for runtime 'onnxruntime-gpu', .* onnxruntime-cpu.*Did you mean"
    ):
        open_session(model_file, target)
