"""config.json: flags that only steer how a model is run change nothing; what changes the model is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import EXIT_ERROR, ModelError
from compress.inputs.checkpoint import load_checkpoint

# Each alone in a config.json; none of them is a property of the weights.
FLAGS: list[dict[str, Any]] = [
    {"output_attentions": True},
    {"output_hidden_states": True},
    {"return_dict": False},
    {"torchscript": True},
    {"chunk_size_feed_forward": 4},
    {"use_cache": False},
    {"gradient_checkpointing": True},
    {"reference_compile": True},
    {"attn_implementation": "flash_attention_2"},
    {"_attn_implementation": "flash_attention_2"},
    {"_attn_implementation_internal": "eager", "_attn_implementation_autoset": True},
    {"torch_dtype": "float16"},
    {"dtype": "bfloat16"},
    {"transformers_weights": "other.safetensors"},
    {"configuration_files": ["config.4.0.0.json"]},
    {"_name_or_path": "/home/somebody/model"},
    {"pruned_heads": {}},
    {"quantization_config": None},
    {"auto_map": {"AutoModel": "modeling_bert.BertModel"}},
    {"architectures": "BertForSequenceClassification"},
    {"problem_type": "single_label_classification"},
    {"max_length": 20, "num_beams": 4, "do_sample": True},
    {"output_attentions": True, "output_hidden_states": True, "return_dict": False, "chunk_size_feed_forward": 1},
]
# Written by transformers itself, whatever config.json says, or part of the task.
_KEPT = ("problem_type", "max_length", "num_beams", "do_sample")


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint whose config.json is changed."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "folder"))


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(str(folder))
    assert caught.value.exit_code == EXIT_ERROR
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(model: Any, folder: Path) -> dict[str, Any]:
    model.config.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(flags))
def test_flags_change_neither_model_nor_artifact(folder: Path, tmp_path: Path, flags: dict[str, Any]) -> None:
    import torch

    plain = load_checkpoint(str(folder)).model
    edit(folder, **flags)
    model = load_checkpoint(str(folder)).model
    ids = torch.arange(5, 15).reshape(2, 5)
    answer = model(input_ids=ids)
    # An object with logits and nothing else, the same to the bit.
    assert list(answer) == ["logits"]
    assert torch.equal(answer.logits, plain(input_ids=ids).logits)
    first, second = written(plain, tmp_path / "plain"), written(model, tmp_path / "flags")
    assert {k: v for k, v in second.items() if k not in _KEPT} == {k: v for k, v in first.items() if k not in _KEPT}
    assert str(folder) not in json.dumps(second) and str(folder) not in json.dumps(model.config.to_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_decoder": True}, "decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"pruned_heads": {"0": [1, 2]}}, "pruned_heads"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized already"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized already"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "quantized already"),
        ({"auto_map": {"AutoConfig": "configuration_jina.JinaConfig"}}, "configuration_jina.JinaConfig"),
        ({"auto_map": {"AutoModel": ["modeling_mine.MyModel", None]}}, "modeling_mine.MyModel"),
        ({"architectures": ["MyBertForSequenceClassification"]}, "MyBertForSequenceClassification"),
        ({"architectures": None}, "name the task that it was fine-tuned for with --task"),
        ({"architectures": ["BertLMHeadModel"]}, "give --task sentence-similarity, which leaves the head out"),
        ({"model_type": None}, 'does not say the family of the model: add it, such as "model_type": "bert"'),
        ({"id2label": ["neg", "pos"]}, "id2label is a list, not an object"),
        ({"num_labels": 3}, "num_labels is 3, and id2label has 2 classes"),
        ({"hidden_act": "swishy"}, "no activation function 'swishy' (hidden_act)"),
        ({"vocab_size": 201}, "'bert.embeddings.word_embeddings.weight' do not have the sizes that config.json says"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_changes_the_model_is_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit(folder, **changes)
    assert words in refusal(folder)


def test_what_cannot_be_saved_is_refused_when_it_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, PreTrainedTokenizerBase

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("this value\ncannot be written")

    for kind in (BertConfig, PreTrainedTokenizerBase):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "save_pretrained", refuse)
            assert "cannot be saved again: this value cannot be written" in refusal(folder)


def test_a_configuration_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    assert "it is not a JSON object" in refusal(folder)
