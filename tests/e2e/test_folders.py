"""Whole runs of checkpoints whose files steer how they are run, in programs that have set up torch for themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import compress
from compress import cli, pipeline
from support.runs import configured, measure_briefly

FLAGS = {
    "output_attentions": True,
    "output_hidden_states": True,
    "return_dict": False,
    "chunk_size_feed_forward": 4,
    "_name_or_path": "/home/somebody/model",
}


@pytest.mark.e2e
def test_flags_and_the_callers_state_leave_no_trace_in_the_artifact(
    one_layer: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    measure_briefly(monkeypatch)
    model, out = Path(shutil.copytree(one_layer, tmp_path / "model")), tmp_path / "out"
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **FLAGS}))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            result = pipeline.run(configured(model, data_csv, out, macs=0.5, effort="fast"))
    finally:
        assert torch.get_default_dtype() is torch.float64
        torch.set_default_dtype(torch.float32)
    assert result.verdict == "pass"
    for name in ("config.json", "pytorch/config.json", "tokenizer_config.json", "plan.json", "validation.json"):
        text = (out / name).read_text()
        assert str(tmp_path) not in text and "somebody" not in text, name
    for name in ("config.json", "pytorch/config.json"):
        written = json.loads((out / name).read_text())
        assert not {key for key in FLAGS if written.get(key) == FLAGS[key]}, name
    pruned = compress.load(out)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    for batch, length in ((1, 1), (2, 5), (3, 22)):
        ids = np.random.default_rng(length).integers(5, 100, size=(batch, length))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        with torch.no_grad():
            expected = pruned(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
        np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-4)


def test_an_adapter_is_refused_before_any_work(
    one_layer: Path, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(one_layer, tmp_path / "model"))
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "SEQ_CLS"}))
    command = ["run", str(model), "--data", str(data_csv), "--macs", "0.5", "--output", str(tmp_path / "out")]
    assert cli.main(command) == 3
    error = capsys.readouterr().err
    assert "adapter_config.json" in error and "merge_and_unload()" in error
    assert not (tmp_path / "out").exists()
