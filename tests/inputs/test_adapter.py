"""LoRA adapters are merged into their base, whether peft is there or not."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.core.errors import ModelError
from compress.inputs.checkpoint import load_checkpoint
from support.models import random_model

PATHS = ("bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.2.output.dense")


def lora(folder: Path, base: Path | str | None, *, prefix: str = "", head: bool = True, **settings: Any) -> Path:
    """Write an adapter of two matrices, and of the head."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(2)
    sizes = {PATHS[0]: (24, 24), PATHS[1]: (20, 24)}
    tensors = {}
    for path, (into, out) in sizes.items():
        name = f"base_model.model.{path.removeprefix(prefix)}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, into, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, 4, generator=generator)
    if head:
        tensors["base_model.model.classifier.weight"] = torch.randn(2, 24, generator=generator)
        tensors["base_model.model.classifier.bias"] = torch.randn(2, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    notes = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 6, "lora_dropout": 0.1, **settings}
    if base is not None:
        notes["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(notes))
    return folder


def expected(base: Path, adapter: Path, scale: float) -> dict[str, torch.Tensor]:
    weights, parts = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for path in PATHS:
        name = f"base_model.model.{path}"
        weights[f"{path}.weight"] += scale * parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"]
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = parts[f"base_model.model.{name}"]
    return weights


@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_adapter_is_merged(tiny_bert: Path, tmp_path: Path, rank_stabilised: bool, beside: bool) -> None:
    """Alone, or in the folder of its base; with the weights of its own head."""
    folder = tmp_path / "adapter"
    if beside:
        shutil.copytree(tiny_bert, folder)
    lora(folder, "elsewhere" if beside else tiny_bert, use_rslora=rank_stabilised)
    found = load_checkpoint(str(folder))
    scale = 6 / (math.sqrt(4) if rank_stabilised else 4)
    state = found.model.state_dict()
    for name, value in expected(tiny_bert, folder, scale).items():
        torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5)
    assert any("LoRA adapter is merged" in sentence for sentence in found.said)
    assert found.fingerprint != load_checkpoint(str(tiny_bert)).fingerprint


def test_base_without_a_head_takes_the_adapters(tiny_bert: Path, tokenizer: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = random_model("bert", len(tokenizer))
    model.bert.save_pretrained(base)
    tokenizer.save_pretrained(base)
    found = load_checkpoint(str(lora(tmp_path / "adapter", base)))
    assert found.task.name == "text-classification"
    own = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert torch.equal(found.model.classifier.weight, own["base_model.model.classifier.weight"])
    assert not torch.equal(
        found.model.bert.encoder.layer[2].output.dense.weight, model.bert.encoder.layer[2].output.dense.weight
    )
    assert torch.equal(found.model.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


def test_tokenizer_of_the_adapter_is_taken_first(tiny_bert: Path, tmp_path: Path) -> None:
    folder = lora(tmp_path / "adapter", tiny_bert)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 17}))
    assert load_checkpoint(str(folder)).tokenizer.model_max_length == 17


def test_faults_name_what_is_wrong(tiny_bert: Path, tmp_path: Path) -> None:
    def message(folder: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load_checkpoint(str(folder))
        return str(caught.value)

    folder = lora(tmp_path / "adapter", tmp_path / "nowhere")
    found = message(folder)
    assert f"its base '{tmp_path / 'nowhere'}', named in adapter_config.json, is missing" in found
    assert "merge_and_unload()" in found
    assert "merge_and_unload()" in message(lora(folder, None))
    lora(folder, tiny_bert)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = f"base_model.model.{PATHS[0]}.lora_A.weight"
    save_file({**tensors, name: torch.zeros(4, 7)}, folder / "adapter_model.safetensors")
    assert f"does not fit its base '{tiny_bert}': it changes '{PATHS[0]}.weight'" in message(folder)
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "adapter_model.safetensors")
    assert "has no pair of matrices" in message(folder)
    further = name.replace("lora_A.weight", "lora_magnitude_vector")
    save_file({**tensors, further: torch.zeros(4)}, folder / "adapter_model.safetensors")
    assert f"'{further}' of adapter_model.safetensors" in message(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    assert "damaged or cut off" in message(folder)
