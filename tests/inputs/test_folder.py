"""Model folders: what else lies in them is noticed before anything is loaded, whatever is installed here."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.errors import EXIT_ERROR, ModelError
from compress.inputs.checkpoint import load_checkpoint

LORA = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "someone/base", "r": 4}
# What is more than a LoRA is not merged here.
DORA = {**LORA, "use_dora": True}


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to which something is added or from which it is taken."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "folder"))


def refusal(model: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(str(model))
    assert caught.value.exit_code == EXIT_ERROR
    assert "\n" not in str(caught.value)
    return str(caught.value)


def add_adapter(folder: Path, notes: dict[str, Any] | None = DORA, weights: str = "adapter_model.safetensors") -> None:
    from safetensors.numpy import save_file

    if notes is not None:
        (folder / "adapter_config.json").write_text(json.dumps(notes))
    save_file({"base_model.model.x.lora_A.weight": np.zeros((2, 2), np.float32)}, folder / weights)


@pytest.fixture(params=[False, True], ids=["without-peft", "with-peft"])
def peft(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """transformers as it is where peft is missing, and where it is installed."""
    from transformers.integrations import peft as integration
    from transformers.models.auto import auto_factory

    for module in (auto_factory, integration):
        if hasattr(module, "is_peft_available"):
            monkeypatch.setattr(module, "is_peft_available", lambda: request.param)
    return bool(request.param)


def test_adapter_beside_its_base_is_refused_with_the_command_that_merges_it(folder: Path, peft: bool) -> None:
    add_adapter(folder)
    message = refusal(folder)
    assert "adapter that is not merged (adapter_config.json)" in message
    assert "move adapter_config.json" in message and "merge_and_unload()" in message
    assert f"ForSequenceClassification as M; PeftModel.from_pretrained(M.from_pretrained('{folder}')" in message


def test_adapter_alone_is_refused_with_its_base_named(folder: Path, peft: bool) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    add_adapter(folder)
    message = refusal(folder)
    assert f"M.from_pretrained('someone/base'), '{folder}').merge_and_unload()" in message
    assert "move" not in message and "config.json; give" not in message


@pytest.mark.parametrize(
    ("notes", "weights", "words"),
    [
        (None, "adapter_model.safetensors", "adapter_model.safetensors"),
        (None, "adapter_model.bin", "adapter_model.bin"),
        (LORA, "adapter_model.bin", "merge_and_unload()"),
        ({**LORA, "init_lora_weights": "pissa"}, "adapter_model.safetensors", "merge_and_unload()"),
        ({**LORA, "bias": "all"}, "adapter_model.safetensors", "merge_and_unload()"),
        ({**LORA, "fan_in_fan_out": True}, "adapter_model.safetensors", "merge_and_unload()"),
        ({**LORA, "use_something_new": 3}, "adapter_model.safetensors", "merge_and_unload()"),
        ({**DORA, "task_type": None}, "adapter_model.safetensors", "AutoModel as M"),
        ({**DORA, "task_type": "TOKEN_CLS"}, "adapter_model.safetensors", "AutoModelForTokenClassification as M"),
        ({**LORA, "peft_type": "PROMPT_TUNING"}, "adapter_model.safetensors", "PROMPT_TUNING cannot be merged"),
        ({"model_name": "bert", "config": {"architecture": "lora"}}, "pytorch_adapter.bin", "model.merge_adapter"),
    ],
    ids=[
        *("no-notes", "no-notes-pickle", "pickle", "pissa", "biases", "transposed", "new", "features", "tagging"),
        *("prompt-tuning", "adapters-library"),
    ],
)
def test_adapters_that_are_more_than_a_lora_are_refused(
    folder: Path, notes: dict[str, Any] | None, weights: str, words: str, peft: bool
) -> None:
    add_adapter(folder, notes, weights)
    assert words in refusal(folder)


def test_adapter_of_a_sentence_encoder_is_refused(folder: Path, peft: bool) -> None:
    """sentence-transformers keeps the adapter where the encoder would be: in the folder, or in that of its module."""
    (folder / "modules.json").write_text("[]")
    (folder / "0_Transformer").mkdir()
    add_adapter(folder / "0_Transformer", {**LORA, "task_type": "FEATURE_EXTRACTION"})
    assert "0_Transformer/adapter_config.json" in refusal(folder)


def test_several_adapters_side_by_side_are_found(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    for name in ("english", "french"):
        (folder / name).mkdir()
        add_adapter(folder / name)
    assert "adapters in english, french" in refusal(folder)


def test_checkpoints_of_a_trainer_below_are_named(folder: Path) -> None:
    for name in ("checkpoint-100", "checkpoint-200"):
        shutil.copytree(folder, folder / name, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"")
    assert "give one of the folders in it: checkpoint-100, checkpoint-200" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.Q4_0.gguf", "gguf_file='model.Q4_0.gguf').save_pretrained('CONVERTED')"),
        ("flax_model.msgpack", "from_flax=True).save_pretrained('CONVERTED')"),
        ("tf_model.h5", "from_tf=True).save_pretrained('CONVERTED')"),
        ("model.onnx", "exported model"),
        ("openvino_model.xml", "exported model"),
        ("model.fp16.safetensors", "rename the file"),
        ("last.ckpt", "save_pretrained in the program that made it"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_other_formats_are_refused_with_what_to_do(folder: Path, name: str, words: str, config: bool) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"something")
    if not config:
        (folder / "config.json").unlink()
    message = refusal(folder)
    assert name in message and words in message
    assert ("import BertForSequenceClassification as M" in message) == (config and "CONVERTED" in words)


class Program:
    """A pickle of it writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_program_is_never_run(folder: Path, tmp_path: Path, zipped: bool) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    if zipped:
        torch.save(Program(tmp_path / "ran"), file)
    else:
        file.write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    message = refusal(folder)
    assert "pytorch_model.bin" in message and "save_pretrained" in message
    assert ("not a list of weights but a pickle of" in message) == zipped
    # torch would advise to load it with weights_only=False.
    assert "weights_only" not in message and ("of which nothing was run" in message) != zipped
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_pickled_weights_are_read_as_tensors(folder: Path, dtype: str, parts: int) -> None:
    import torch
    from safetensors.torch import load_file

    before = load_checkpoint(str(folder))
    weights = {name: value.to(getattr(torch, dtype)) for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    for part in range(parts):
        name = "pytorch_model.bin" if parts == 1 else f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        torch.save({key: weights[key] for key in names[part::parts]}, folder / name)
    # Beside the weights a Trainer leaves pickles of other things.
    (folder / "training_args.bin").write_bytes(b"anything")
    after = load_checkpoint(str(folder))
    assert any("as tensors alone: nothing in it is run" in sentence for sentence in after.said)
    expected = before.model.state_dict()
    for name, value in after.model.state_dict().items():
        assert torch.equal(
            value, expected[name].to(getattr(torch, dtype)).float() if value.is_floating_point() else value
        )
    assert (after.fingerprint == before.fingerprint) == (dtype == "float32") or parts > 0


def test_pickles_that_are_no_tables_of_tensors_are_refused(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": {"a": torch.zeros(2)}, "epoch": 3}, folder / "pytorch_model.bin")
    assert "are not a table of tensors by name" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"something")
    assert "cannot be read as tensors" in refusal(folder)


def linked_as_the_hubs_cache(folder: Path, root: Path) -> Path:
    """The same files as the hub's client keeps them: links from a snapshot to blobs named by their content."""
    blobs, snapshot = root / "models--a--b" / "blobs", root / "models--a--b" / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:040x}")
    return snapshot


def test_a_snapshot_in_the_hubs_cache_is_a_folder_like_another(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    before = load_checkpoint(str(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert load_checkpoint(str(linked_as_the_hubs_cache(folder, tmp_path / "first"))).fingerprint == before.fingerprint
    (folder / "model.safetensors").unlink()
    after = load_checkpoint(str(linked_as_the_hubs_cache(folder, tmp_path / "second")))
    assert all(torch.equal(value, before.model.state_dict()[name]) for name, value in after.model.state_dict().items())
