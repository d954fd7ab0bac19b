"""Files timed in a process of their own: the same comparison, the same errors, and no process that is left over."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.errors import ExportError
from compress.export.apart import Apart
from compress.export.measure import LEAST_ROUNDS, LatencyComparison
from compress.profile.target import Target
from support.models import DenseOnnx
from support.structures import padded_inputs

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
FEED: dict[str, Any] = {name: tensor.numpy() for name, tensor in padded_inputs("distilbert").items()}


@pytest.fixture
def apart(tmp_path: Path) -> Any:
    process = Apart(CPU, tmp_path)
    yield process
    process.close()


@pytest.fixture(scope="module")
def model_file(dense_onnx: DenseOnnx) -> Path:
    return dense_onnx("distilbert")


def ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_paths_and_bytes_are_compared_in_one_process_that_ends_when_told(apart: Apart, model_file: Path) -> None:
    found = [
        apart.compare(model_file, model_file.read_bytes(), FEED, 0.0),
        apart.compare(model_file.read_bytes(), model_file, FEED, 0.0, widest=1e-9, most=2),
    ]
    assert all(isinstance(one, LatencyComparison) and one.speedup.low <= one.speedup.high for one in found)
    assert [one.rounds for one in found] == [LEAST_ROUNDS, 2 * LEAST_ROUNDS]
    assert all(one.dense.value > 0 and np.isfinite(one.speedup.value) for one in found)
    assert apart._process is not None
    number = apart._process.pid
    assert number != os.getpid() and not ended(number)
    apart.close()
    apart.close()
    assert ended(number)


def test_errors_are_those_of_the_file_and_the_process_goes_on(apart: Apart, model_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="damaged"):
        apart.compare(model_file, damaged, FEED, 0.0)
    with pytest.raises(ExportError, match="there is no model file"):
        apart.compare(tmp_path / "absent.onnx", model_file, FEED, 0.0)
    with pytest.raises(ExportError, match="input"):
        apart.compare(model_file, model_file, {}, 0.0)
    assert apart.compare(model_file, model_file, FEED, 0.0).rounds == LEAST_ROUNDS


def test_a_process_that_is_killed_is_said_and_started_anew(apart: Apart, model_file: Path) -> None:
    apart.compare(model_file, model_file, FEED, 0.0)
    assert apart._process is not None
    os.kill(apart._process.pid, signal.SIGKILL)
    apart._process.wait()
    with pytest.raises(ExportError, match="ended unasked, with -9, as it does where memory is short"):
        apart.compare(model_file, model_file, FEED, 0.0)
    assert apart.compare(model_file, model_file, FEED, 0.0).rounds == LEAST_ROUNDS


def test_an_interrupt_of_the_command_does_not_print_a_traceback_of_the_process(
    apart: Apart, model_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    apart.compare(model_file, model_file, FEED, 0.0)
    assert apart._process is not None
    os.kill(apart._process.pid, signal.SIGINT)
    assert apart.compare(model_file, model_file, FEED, 0.0).rounds == LEAST_ROUNDS
    apart.close()
    assert "Traceback" not in capfd.readouterr().err
