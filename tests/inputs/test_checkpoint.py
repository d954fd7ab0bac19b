"""Checkpoints: what is loaded is whole, and everything else is refused with a message."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.errors import EXIT_ERROR, ConfigError, ModelError
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from support.models import MakeCheckpoint


@pytest.fixture
def broken(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "broken"))


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config.update(changes)
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_weights(directory: Path, change: Any) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def refusal(model: Path | str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(str(model), **options)
    assert caught.value.exit_code == EXIT_ERROR
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_family_loads_without_a_network_or_a_word(
    tiny: Path, no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    checkpoint = load_checkpoint(str(tiny), seq_len=40)

    assert capfd.readouterr() == ("", "")
    assert checkpoint.name == tiny.name
    assert checkpoint.task.name == "text-classification"
    assert checkpoint.encoder.shape.heads == 4
    assert checkpoint.directory == tiny.resolve()
    assert checkpoint.fingerprint == hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
    assert not checkpoint.model.training
    for parameter in checkpoint.model.parameters():
        assert parameter.dtype == torch.float32
        assert not parameter.requires_grad


def test_logging_of_the_libraries_is_as_before(tiny_bert: Path) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_checkpoint(str(tiny_bert))
    with pytest.raises(ModelError):
        load_checkpoint(str(tiny_bert / "nothing"))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_half_precision_loads_as_float32(broken: Path) -> None:
    import torch

    def halve(weights: dict[str, Any]) -> None:
        weights.update({name: value.astype(np.float16) for name, value in weights.items()})

    edit_weights(broken, halve)
    edit_config(broken, dtype="float16")
    model = load_checkpoint(str(broken)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.dtype == torch.float32


def test_shards_load_like_one_file(broken: Path) -> None:
    import torch

    whole = load_checkpoint(str(broken))
    whole.model.save_pretrained(broken, max_shard_size="8KB")
    (broken / "model.safetensors").unlink()
    sharded = load_checkpoint(str(broken))
    assert len(list(broken.glob("model-*.safetensors"))) > 1
    assert len(sharded.fingerprint) == 64 and sharded.fingerprint != whole.fingerprint
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, sharded.model.state_dict()[name])
    next(broken.glob("model-*.safetensors")).unlink()
    assert "cannot be read" in refusal(broken)


def test_relative_path_and_home(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_bert)
    assert load_checkpoint(".").name == tiny_bert.name
    monkeypatch.setenv("HOME", str(tiny_bert.parent))
    assert load_checkpoint(f"~/{tiny_bert.name}").name == tiny_bert.name


def test_real_checkpoint(minilm: Path, no_network: None) -> None:
    checkpoint: Checkpoint = load_checkpoint(str(minilm), task="text-classification", seq_len=512)
    assert (checkpoint.encoder.shape.layers, checkpoint.encoder.shape.filters) == (6, 1536)
    assert checkpoint.model.config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize(
    "name",
    ["", " ", "./nothing", "/nowhere", "~/nothing", "~nobody-of-that-name/x", "a/b/c", "models\\mine", "mine/", "a\0b"],
)
def test_path_that_does_not_exist(name: str, no_network: None) -> None:
    message = refusal(name)
    assert f"'{name}' does not exist" in message
    assert "give a directory" in message


def test_path_beside_an_existing_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in refusal("models/mine")


def test_name_longer_than_any_file(no_network: None) -> None:
    assert "cannot be read: [Errno 36]" in refusal("x" * 300)


def test_file_instead_of_directory(tiny_bert: Path) -> None:
    assert "give the directory" in refusal(tiny_bert / "model.safetensors")


def test_directory_that_is_no_checkpoint(tmp_path: Path) -> None:
    assert "no config.json" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"bert"', "\udcff", '{"model_type": "bert", "hidden_size": "wide"}'])
def test_damaged_configuration(broken: Path, text: str) -> None:
    (broken / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "config.json" in refusal(broken)


@pytest.mark.parametrize(("family", "reason"), [("gpt2", "decoder"), ("llama", "decoder"), ("albert", "share")])
def test_family_that_cannot_be_supported_says_why(broken: Path, family: str, reason: str) -> None:
    edit_config(broken, model_type=family)
    message = refusal(broken)
    assert f"'{family}' cannot be compressed" in message and reason in message


@pytest.mark.parametrize("family", ["made-up", None])
def test_unsupported_family_names_the_supported(broken: Path, family: str | None) -> None:
    edit_config(broken, model_type=family, auto_map={"AutoConfig": "evil.Config"})
    message = refusal(broken)
    assert (family or "does not say the family") in message
    assert "bert" in message and "distilbert" in message


def test_bert_as_decoder(broken: Path) -> None:
    edit_config(broken, is_decoder=True)
    assert "decoder" in refusal(broken)


def test_heads_that_do_not_divide_the_width(broken: Path) -> None:
    edit_config(broken, num_attention_heads=5)
    message = refusal(broken)
    assert "broken" in message


def test_widths_that_the_weights_do_not_have(broken: Path) -> None:
    edit_config(broken, intermediate_size=21)
    message = refusal(broken)
    assert "config.json" in message or "size" in message


@pytest.mark.parametrize(
    ("head", "named"),
    [("BertForMaskedLM", None), ("BertModel", "text-classification"), ("BertForMultipleChoice", None)],
)
def test_other_head(broken: Path, head: str, named: str | None) -> None:
    edit_config(broken, architectures=[head])
    message = refusal(broken, task=named)
    # A head of pre-training may be left out.
    assert head in message and ("ForSequenceClassification" in message or "--task sentence-similarity" in message)


def test_newly_initialised_head(broken: Path, tiny_distilbert: Path, tmp_path: Path) -> None:
    edit_weights(broken, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("classifier")])
    message = refusal(broken)
    assert "no trained head" in message and "classifier.weight" in message and "fine-tune" in message
    # The same, where config.json does not say what head there is.
    edit_config(broken, architectures=None)
    assert "cannot tell the task" in refusal(broken)
    assert "no trained head" in refusal(broken, task="text-classification")

    other = Path(shutil.copytree(tiny_distilbert, tmp_path / "other"))
    edit_weights(other, lambda weights: weights.pop("pre_classifier.weight"))
    assert "no trained head" in refusal(other)


def test_missing_encoder_weights(broken: Path) -> None:
    edit_weights(broken, lambda weights: weights.pop("bert.encoder.layer.1.output.dense.weight"))
    message = refusal(broken)
    assert "incomplete" in message and "layer.1.output" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers(broken: Path, value: float) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["bert.encoder.layer.2.attention.self.key.weight"][3, 4] = value

    edit_weights(broken, spoil)
    message = refusal(broken)
    assert "1 weights that are NaN or infinite in 'bert.encoder.layer.2.attention.self.key.weight'" in message


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_truncated_weights(broken: Path, kept: int) -> None:
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = refusal(broken)
    assert "model.safetensors" in message and "damaged or cut off" in message


def test_weights_that_git_did_not_fetch(broken: Path) -> None:
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(broken)


def test_only_pickled_weights(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    message = refusal(broken)
    assert "pytorch_model.bin" in message and "save_pretrained" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_damaged_index(broken: Path, text: str) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refusal(broken)


def test_index_that_leads_out_of_the_directory(broken: Path, tmp_path: Path) -> None:
    (broken / "model.safetensors").rename(tmp_path / "outside.safetensors")
    names = {"weight_map": {"classifier.bias": "../outside.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(names))
    assert f"'{broken / 'outside.safetensors'}' cannot be read" in refusal(broken)


def test_weights_quantized_already(broken: Path) -> None:
    edit_config(broken, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert "quantized" in refusal(broken)


@pytest.mark.parametrize("seq_len", [41, 10_000])
def test_length_beyond_the_model(tiny: Path, seq_len: int) -> None:
    message = refusal(tiny, seq_len=seq_len)
    assert str(seq_len) in message and "at most 40" in message


def test_no_tokenizer(broken: Path) -> None:
    (broken / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(broken)


@pytest.mark.parametrize("text", ["", "{", '{"version": "1.0", "model": {"type": "Unknown"}}'])
def test_damaged_tokenizer(broken: Path, text: str) -> None:
    (broken / "tokenizer.json").write_text(text)
    assert "tokenizer" in refusal(broken)


def test_tokenizer_of_another_model(make_checkpoint: MakeCheckpoint, broken: Path) -> None:
    def cut(weights: dict[str, Any]) -> None:
        name = "bert.embeddings.word_embeddings.weight"
        weights[name] = weights[name][:150].copy()

    edit_weights(broken, cut)
    edit_config(broken, vocab_size=150)
    assert "200 tokens" in refusal(broken)


@pytest.mark.parametrize("config", [{"problem_type": "regression"}, {"problem_type": "multi_label_classification"}])
def test_head_of_another_kind(broken: Path, config: dict[str, str]) -> None:
    edit_config(broken, **config)
    assert "text-classification" in refusal(broken)


def test_head_with_one_output(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint("bert", id2label={0: "score"}, label2id={"score": 0})
    assert "at least two" in refusal(directory, task="text-classification")
    assert load_checkpoint(str(directory)).task.name == "text-regression"


def test_unknown_task(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'text-classification'"):
        load_checkpoint(str(tiny_bert), task="text-clasification")


class Hub:
    """A hub that has one checkpoint; what the real one would answer, without a network."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, reachable: bool = True) -> None:
        import huggingface_hub

        self.directory = directory
        self.fetched: list[str] = []
        monkeypatch.setattr("compress.inputs.checkpoint.hub_reachable", lambda: reachable)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.hf_hub_download)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def hf_hub_download(self, name: str, file: str, local_files_only: bool) -> str:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache\nmore advice")
        if not (self.directory / file).is_file():
            raise EntryNotFoundError(f"there is no {file}")
        self.fetched.append(file)
        return str(self.directory / file)

    def snapshot_download(self, name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        self.fetched.extend(allow_patterns)
        return str(self.directory)


def test_checkpoint_of_the_hub(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tiny_bert, monkeypatch)
    checkpoint = load_checkpoint("someone/sentiment")
    assert (checkpoint.name, checkpoint.directory) == ("sentiment", tiny_bert)
    # No pickle, no code, no other framework's weights are fetched.
    assert all(name.endswith((".json", ".txt", ".safetensors", ".model")) for name in hub.fetched)


def test_pickles_of_the_hub_are_fetched_where_there_is_nothing_else(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    hub = Hub(broken, monkeypatch)
    assert "nothing in it is run" in load_checkpoint("someone/sentiment").said[0]
    assert "pytorch_model.bin" in hub.fetched and "model_head.pkl" not in hub.fetched


@pytest.mark.parametrize("name", ["modules.json", "config_setfit.json"])
def test_head_of_setfit_is_fetched_where_there_may_be_one(
    broken: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (broken / name).write_text("[]" if name == "modules.json" else "{}")
    hub = Hub(broken, monkeypatch)
    load_checkpoint("someone/few-shot", "text-classification")
    assert "model_head.pkl" in hub.fetched


def test_unsupported_family_of_the_hub_is_not_downloaded(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_config(broken, model_type="llama")
    hub = Hub(broken, monkeypatch)
    assert "'llama' cannot be compressed" in refusal("someone/chat")
    assert hub.fetched == ["config.json"]


def test_hub_out_of_reach_leaves_the_cache(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(tiny_bert, monkeypatch, reachable=False)
    assert "not on this machine and the hub cannot be reached" in refusal("someone/sentiment")


def test_adapter_of_the_hub_is_refused(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, where there is no config.json to fetch, and beside base weights, which alone would be another model."""
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "someone/base"}')
    hub = Hub(broken, monkeypatch)
    assert "adapter that is not merged" in refusal("someone/lora")
    assert "adapter_config.json" in hub.fetched
    (broken / "config.json").unlink()
    assert "M.from_pretrained('someone/base'), 'someone/lora')" in refusal("someone/lora")


def test_tokenizer_files_of_the_hub_are_those_of_its_class(
    shared_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(shared_checkpoint("deberta-v2"), monkeypatch)
    load_checkpoint("someone/deberta")
    assert "spm.model" in hub.fetched and "vocab.txt" not in hub.fetched


def ask_hub(code: str, **environment: str) -> str:
    """Run code in a process of its own: the hub's address is read when its library is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stderr == ""
    return run.stdout


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_hub_that_cannot_be_reached(environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from compress.inputs.checkpoint import load_checkpoint\n"
        "from compress.data.load import load_data\n"
        "from compress.core.errors import CompressError\n"
        "for ask in (lambda: load_checkpoint('some/model'), lambda: load_data('some/data', 'train')):\n"
        "    try: ask()\n"
        "    except CompressError as error: print(type(error).__name__, error)\n"
    )
    model, data = ask_hub(code, HF_HOME=str(tmp_path), **environment).splitlines()
    assert model.startswith("ModelError") and "'some/model'" in model and "meant as a path" in model
    assert data.startswith("DataError") and "'some/data'" in data and "meant as a path" in data
