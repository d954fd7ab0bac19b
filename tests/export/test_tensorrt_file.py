"""Laws of engine files: what was written is read back where nothing differs; whatever decides what runs is compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import EXIT_ERROR, TargetError
from compress.export.tensorrt_file import (
    EngineRecord,
    engine_path,
    onnx_digest,
    read_engine,
    read_record,
    record_path,
    write_engine,
)

RECORD = EngineRecord(
    gpu="NVIDIA A100-SXM4-40GB",
    compute_capability="8.0",
    tensorrt="10.9.0.34",
    driver="550.54.15",
    onnx_sha256="a" * 64,
    batch_size=(1, 4, 8),
    seq_len=(1, 64, 128),
    inputs=("input_ids", "attention_mask"),
    outputs=("logits",),
)
CHANGES: dict[str, Any] = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "compute_capability": "9.0",
    "tensorrt": "10.13.3.9",
    "onnx_sha256": "b" * 64,
    "batch_size": (1, 4, 16),
    "seq_len": (1, 96, 128),
    "inputs": ("input_ids",),
    "outputs": ("start", "end"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a model")
    return path


@given(engine=st.binary(min_size=1, max_size=200))
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, engine: bytes) -> None:
    path = tmp_path_factory.mktemp("engines") / "model.onnx"
    write_engine(path, engine, RECORD)
    assert read_engine(path, RECORD) == engine
    assert replace(read_record(path, EngineRecord), engine_sha256="") == RECORD
    assert (engine_path(path).parent, record_path(path).parent) == (path.parent / "engine",) * 2


@pytest.mark.parametrize("name", CHANGES)
def test_every_difference_is_refused_and_both_sides_are_said(model: Path, name: str) -> None:
    write_engine(model, b"engine", RECORD)
    here = replace(RECORD, **{name: CHANGES[name]})
    with pytest.raises(TargetError) as caught:
        read_engine(model, here)
    assert caught.value.exit_code == EXIT_ERROR
    message = str(caught.value)
    for side in (getattr(RECORD, name), CHANGES[name]):
        shown = ", ".join(map(str, side)) if isinstance(side, tuple) else side
        assert (shown[:12] if name == "onnx_sha256" else shown) in message
    assert "remove" in message and "model.plan" in message


def test_an_engine_that_takes_more_than_is_asked_for_is_used(model: Path) -> None:
    write_engine(model, b"engine", RECORD)
    assert read_engine(model, replace(RECORD, batch_size=(1, 4, 4), seq_len=(8, 64, 100), driver="600.1")) == b"engine"


def test_every_field_is_compared_or_known_not_to_matter() -> None:
    assert set(json.loads(RECORD.to_json())) == {*CHANGES, "driver", "engine_sha256", "format"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no record of the GPU and TensorRT"),
        ("{", "damaged"),
        ("[]", "damaged"),
        (RECORD.to_json().replace('"8.0"', "8.0"), "damaged"),
        (RECORD.to_json().replace('"gpu"', '"graphics"'), "damaged"),
        (RECORD.to_json().replace('"format": 1', '"format": 9'), "format 9"),
    ],
)
def test_an_engine_without_its_record_is_not_loaded(model: Path, text: str | None, words: str) -> None:
    write_engine(model, b"engine", RECORD)
    record_path(model).unlink() if text is None else record_path(model).write_text(text)
    with pytest.raises(TargetError, match=words):
        read_engine(model, RECORD)


def test_a_damaged_engine_is_not_loaded(model: Path) -> None:
    write_engine(model, b"engine", RECORD)
    engine_path(model).write_bytes(b"engime")
    with pytest.raises(TargetError, match="damaged"):
        read_engine(model, RECORD)


def test_weights_beside_a_file_are_part_of_it(model: Path) -> None:
    alone = onnx_digest(model)
    assert alone == onnx_digest(model.read_bytes())
    beside = model.with_name("model.onnx.data")
    beside.write_bytes(b"weights")
    with_weights = onnx_digest(model)
    beside.write_bytes(b"others")
    assert len({alone, with_weights, onnx_digest(model)}) == 3
