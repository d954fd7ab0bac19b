"""The lines that load an artifact as a CUDA graph are run as they stand, with the processor's memory for the GPU's.
What a graph does is CUDA's; what is bound, named and shaped is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from compress.artifact.cuda_loader import card_of, loader
from compress.export.key_masks import with_mask
from compress.export.runtime import open_session
from compress.options.run_config import RunConfig
from compress.profile.target import load_target
from compress.stages.card import card
from support.made_up import PLAN
from support.models import DenseOnnx
from support.structures import padded_inputs


def test_the_loader_answers_as_a_session(dense_onnx: DenseOnnx) -> None:
    file = dense_onnx("bert")
    text = loader(onnx.load(str(file)), 3, 9)
    assert len([line for line in text.splitlines() if line.strip()]) <= 24
    for cuda, processor in (('"cuda", 0', '"cpu", 0'), ("cuda, ", ""), ("model.onnx", str(file))):
        assert cuda in text
        text = text.replace(cuda, processor)
    there: dict[str, Any] = {}
    exec(compile(text, "loader", "exec"), there)
    for seed in (0, 1):
        feed = {name: tensor.numpy() for name, tensor in padded_inputs("bert", 3, 9, seed).items()}
        (answer,) = there["call"](feed).values()
        np.testing.assert_array_equal(answer, open_session(file, load_target("cpu")).run(feed))


def test_the_documentation_has_these_lines() -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    lines = loader(helper.make_model(helper.make_graph([], "bert", inputs, [answer])), 1, 64)
    assert f"```python\n{lines}```" in (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()


def test_the_card_of_a_cuda_target_has_it(dense_onnx: DenseOnnx, tmp_path: Path) -> None:
    task = {"name": "text-classification"}
    proto = onnx.load(str(dense_onnx("bert")))
    onnx.save_model(proto, str(tmp_path / "model.onnx"))
    config = RunConfig(model="some/model", target="h100", speedup=2.0, batch_size=2, seq_len=64)
    text = card(config, PLAN, None, task, tmp_path)
    assert loader(proto, 2, 64) in text and "padding has to be on the right" not in text
    assert "enable_cuda_graph" not in card(config.model_copy(update={"target": "cpu"}), PLAN, None, task, tmp_path)
    assert "enable_cuda_graph" not in card(
        config.model_copy(update={"target": "gone.toml"}), PLAN, None, task, tmp_path
    )
    onnx.save_model(with_mask(proto, "lengths"), str(tmp_path / "model.onnx"))
    assert any("padding has to be on the right" in line for line in card_of(tmp_path / "model.onnx", 2, 64))
