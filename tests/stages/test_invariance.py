"""What a file's answers differ by: found where a session depends on its call, 0 where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compress.core.progress import Silent
from compress.data.batches import Encoded
from compress.export.lowering import Engine, lower
from compress.export.onnx import export_onnx
from compress.export.runtime import open_session
from compress.inputs.load import Loaded, load
from compress.profile.target import Calls
from compress.stages.export import samples_of
from compress.stages.invariance import measure_invariance
from support.runs import configured


@pytest.fixture(scope="module")
def loaded(one_layer: Path, data_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(configured(one_layer, data_csv, tmp_path_factory.mktemp("none") / "out", macs=0.5), Silent())


class Planted:
    """A session of two classes: the first token decides, and planted things change the answer."""

    input_names: tuple[str, ...] = ("input_ids", "attention_mask")

    def __init__(
        self, by_batch: float = 0.0, by_place: float = 0.0, by_width: float = 0.0, tokens: bool = False
    ) -> None:
        self._planted = by_batch, by_place, by_width
        self._tokens = tokens

    def run(self, feed: Any) -> Any:
        ids = feed["input_ids"]
        by_batch, by_place, by_width = self._planted
        real = feed["attention_mask"].sum(1).max()
        drift = by_batch * (len(ids) > 1) + by_place * (np.arange(len(ids)) % 2) + by_width * (ids.shape[1] > real)
        first = np.where(ids == 0, 0.0, 0.25).astype(np.float32) + drift[:, None]
        answers = np.stack([first, np.full_like(first, 0.5)], axis=-1)
        return answers if self._tokens else answers[:, 1]

    def close(self) -> None:
        pass


def test_what_was_planted_is_found(loaded: Loaded) -> None:
    none = measure_invariance(Planted(), loaded)
    assert none is not None and (none.batch, none.order, none.padding, none.largest) == (0.0,) * 4
    assert none.changed == 0.0 and none.examples == len(loaded.evaluation) and none.batch_size == 32
    by_batch = measure_invariance(Planted(by_batch=0.125), loaded)
    assert by_batch is not None and by_batch.batch == by_batch.order == by_batch.padding == 0.125
    assert by_batch.changed == 0.0
    by_place = measure_invariance(Planted(by_place=0.5), loaded)
    assert by_place is not None and by_place.largest == 0.5
    assert by_place.changed is not None and 0.4 < by_place.changed <= 1.0
    by_width = measure_invariance(Planted(by_width=1.0), loaded)
    assert by_width is not None and (by_width.batch, by_width.order, by_width.padding) == (0.0, 0.0, 1.0)
    assert by_width.changed == 1.0


def test_outputs_at_padding_do_not_count(loaded: Loaded) -> None:
    tokens = replace_task(loaded)
    found = measure_invariance(Planted(tokens=True), tokens)
    assert found is not None and found.largest == 0.0 and found.changed == 0.0


def replace_task(loaded: Loaded) -> Loaded:
    """The same as a tagger, which answers for every token."""
    from compress.tasks import TASKS

    return replace(loaded, checkpoint=replace(loaded.checkpoint, task=TASKS["token-classification"]))


def test_engines_take_no_more_than_their_calls(loaded: Loaded) -> None:
    longest = int(loaded.evaluation.lengths.max())
    calls = Calls(batch_size=(1, 1, 1), seq_len=(1, longest, longest))
    one = replace(loaded, target=loaded.target.model_copy(update={"calls": calls}))
    found = measure_invariance(Planted(by_batch=1.0, by_width=1.0), one)
    assert found is not None and (found.batch, found.order, found.padding, found.largest) == (None, None, None, 0.0)


def test_without_examples_nothing_is_known(loaded: Loaded) -> None:
    empty: Encoded = loaded.evaluation.select([])
    assert measure_invariance(Planted(), replace(loaded, evaluation=empty)) is None


def test_dynamic_int8_differs_and_invariant_int8_does_not(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    export_onnx(loaded.checkpoint.model, path, input_names=loaded.input_names)
    proto = onnx.load(str(path))

    def largest(scheme: Any) -> float:
        lowered = lower(proto, Engine("int8", "packed", scheme), samples_of(loaded))
        found = measure_invariance(open_session(lowered.SerializeToString(), loaded.target), loaded)
        assert found is not None
        return found.largest

    assert largest("dynamic") > 1e-3
    assert largest("invariant") <= 1e-5
