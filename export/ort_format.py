"""ORT format: ONNX Runtime's own format for small devices, ``engine/model.ort``, and its list of operators.

A build of ONNX Runtime with only the operators of ``required_operators.config`` is a few MB. It cannot read ``.onnx``.
Source: ONNX Runtime's documentation, "ORT model format" and "Reduced operator config file".
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError

Platform = Literal["amd64", "arm"]
MODEL, OPERATORS = "model.ort", "required_operators.config"
# Fusing the same operators in another order changes outputs by less than this.
_TOLERANCE = 1e-4


def write_ort(model: Path, folder: Path, feed: Mapping[str, NDArray[Any]], platform: Platform) -> None:
    """Convert an exported file to ORT format, and check that the outputs are the same.

    Args:
        model: ONNX file.
        folder: gets ``model.ort`` and ``required_operators.config``; created if it is missing.
        feed: one batch to compare on, arrays by input name.
        platform: the device's kind of processor, which the optimizer may rely on.

    Raises:
        ExportError: ONNX Runtime cannot convert the file, or the outputs differ.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    with tempfile.TemporaryDirectory(prefix="compress-") as scratch, _quiet():
        output = Path(scratch)
        try:
            convert_onnx_models_to_ort(
                model,
                output_dir=output,
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform=platform,
                enable_type_reduction=True,
            )
            written, operators = next(output.rglob("*.ort")), next(output.rglob("*.config"))
        except (Exception, SystemExit) as error:  # the tool's exceptions differ between versions
            raise ExportError(f"ONNX Runtime could not convert {model.name} to its .ort format: {error}") from error
        # The comments contain the path of the scratch folder.
        lines = [line for line in operators.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        folder.mkdir(exist_ok=True)
        (folder / MODEL).write_bytes(written.read_bytes())
        (folder / OPERATORS).write_text("\n".join(lines).strip() + "\n", encoding="utf-8")
    difference = _difference(model, folder / MODEL, feed)
    if not difference <= _TOLERANCE:
        raise ExportError(
            f"outputs of {MODEL} differ from those of {model.name} by {difference:.1e}, more than {_TOLERANCE:g}; use "
            "a target without ort, or another version of ONNX Runtime"
        )


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the tool's output and log while the block runs."""
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _difference(first: Path, second: Path, feed: Mapping[str, NDArray[Any]]) -> float:
    import onnxruntime

    answers = []
    for path in (first, second):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        known = {value.name: feed[value.name] for value in session.get_inputs()}
        answers.append(np.asarray(session.run(None, known)[0], np.float64))
    return float(np.abs(answers[0] - answers[1]).max())
