"""A GPU that vanishes in the middle of a run: one clear error, nothing written, and ``--resume`` goes on.

The processor stands in for the GPU, up to the error, which is torch's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import pipeline
from compress.core.errors import DeviceError
from compress.inputs.compute import Compute
from compress.reconstruction import closed_form
from support.runs import configured, measure_briefly


@pytest.mark.e2e
def test_a_gpu_that_vanishes_leaves_nothing_and_resume_goes_on(
    one_layer: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_briefly(monkeypatch)
    monkeypatch.setattr(Compute, "on_processor", False)
    fit = closed_form.reconstruct

    def lost(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    config = configured(one_layer, data_csv, tmp_path / "out", macs=0.5, device="cpu")
    monkeypatch.setattr(closed_form, "reconstruct", lost)
    with pytest.raises(DeviceError, match=r"failed in the middle .*nothing was written.*--resume"):
        pipeline.run(config, resume=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(closed_form, "reconstruct", fit)
    result = pipeline.run(config, resume=True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert result.exit_code == 0 and {"calibrate", "dense"} <= {one["stage"] for one in manifest["reused"]}
    assert manifest["computed_on"] == {"type": "cpu", "name": "cpu"}
