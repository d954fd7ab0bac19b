"""A sentence encoder is what modules.json says: our embeddings are those of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.errors import ConfigError, ModelError
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from compress.tasks import SentenceSimilarity, outputs_of
from support.sentence_folders import TEXTS, sentence_folder, their_embeddings


def our_embeddings(checkpoint: Checkpoint, texts: list[str] = TEXTS, seq_len: int = 16) -> Any:
    from datasets import Dataset

    task: Any = checkpoint.task
    rows, config = Dataset.from_dict({"text": texts}), checkpoint.model.config
    data = task.encode(rows, checkpoint.tokenizer, task.columns(rows, config), seq_len, config)
    return outputs_of(checkpoint.model, task, data, batch_size=3)


PROMPTS = {"query": "the best film : ", "document": "waiter : "}
FOLDERS: dict[str, dict[str, Any]] = {
    **{
        mode: {"pooling": {"pooling_mode": mode}, "layers": ()}
        for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    "normalized": {},
    "two poolings": {"pooling": {"pooling_mode": ("mean", "cls")}},
    "dense": {"layers": ("Dense",)},
    "dense and normalized": {"layers": ("Dense", "Normalize")},
    "dense without bias": {"layers": ("NoBias",)},
    "another activation": {"layers": ("GELU", "Normalize")},
    "residual": {"layers": ("Residual",)},
    "normalized before dense": {"layers": ("Normalize", "Dense")},
    "layer norm": {"layers": ("LayerNorm", "Normalize")},
    "default prompt": {"prompts": PROMPTS, "default": "query"},
    "prompts without default": {"prompts": PROMPTS},
    "prompt not pooled": {
        "prompts": PROMPTS,
        "default": "query",
        "pooling": {"include_prompt": False, "pooling_mode": ("mean", "max", "weightedmean", "cls", "lasttoken")},
    },
    "truncated": {"truncate_dim": 7},
    "lower case": {"settings": {"do_lower_case": True}},
    "distilbert": {"family": "distilbert"},
    "mpnet": {"family": "mpnet", "pooling": {"pooling_mode": "lasttoken"}},
    "short texts": {"longest": 8},
}


@pytest.fixture
def cased(tokenizer: Any, tmp_path: Path) -> Any:
    """A tokenizer that keeps case."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.save_pretrained(tmp_path / "cased")
    file = tmp_path / "cased" / "tokenizer.json"
    written = json.loads(file.read_text())
    written["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(written))
    return PreTrainedTokenizerFast.from_pretrained(tmp_path / "cased")


@pytest.mark.parametrize("case", FOLDERS)
def test_embeddings_are_those_of_sentence_transformers(case: str, cased: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, cased, **FOLDERS[case])
    checkpoint = load_checkpoint(str(folder))
    assert isinstance(checkpoint.task, SentenceSimilarity)
    longest = FOLDERS[case].get("longest", 16)
    np.testing.assert_allclose(our_embeddings(checkpoint, seq_len=longest), their_embeddings(folder), atol=1e-5)


def old_keys(folder: Path) -> Path:
    """The pooling as older releases noted it."""
    file = folder / "1_Pooling" / "config.json"
    keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    old = {f"pooling_mode_{key}": key in ("max_tokens", "mean_sqrt_len_tokens") for key in keys}
    file.write_text(json.dumps({"word_embedding_dimension": 24, **old}))
    return folder


def old_layout(folder: Path) -> Path:
    """The transformer in a folder of its own, Dense as a pickle, settings under another name."""
    old = folder.parent / "old"
    (old / "0_Transformer").mkdir(parents=True)
    for file in folder.iterdir():
        beside = file.is_dir() or file.name in ("modules.json", "config_sentence_transformers.json")
        shutil.move(file, old / file.name if beside else old / "0_Transformer" / file.name)
    own = old / "0_Transformer"
    (own / "sentence_bert_config.json").rename(own / "sentence_roberta_config.json")
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rsplit('.', 1)[-1]}"
    (old / "modules.json").write_text(json.dumps(modules))
    from safetensors.torch import load_file

    dense = old / "2_Dense"
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    return old


def test_old_keys(tokenizer: Any, tmp_path: Path) -> None:
    folder = old_keys(sentence_folder(tmp_path, tokenizer, layers=()))
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.task.settings()["pooling"] == "max+mean_sqrt_len_tokens"
    np.testing.assert_allclose(our_embeddings(checkpoint), their_embeddings(folder), atol=1e-5)


def test_old_layout(tokenizer: Any, tmp_path: Path) -> None:
    folder = old_layout(sentence_folder(tmp_path, tokenizer, layers=("Dense", "Normalize"), prompts=PROMPTS))
    want = their_embeddings(folder)
    np.testing.assert_allclose(our_embeddings(load_checkpoint(str(folder))), want, atol=1e-5)
    # The folder of the transformer reads what the folder above it says.
    np.testing.assert_allclose(our_embeddings(load_checkpoint(str(folder / "0_Transformer"))), want, atol=1e-5)
    assert load_checkpoint(str(folder)).name == "old"


def test_old_layout_of_the_hub(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = old_layout(sentence_folder(tmp_path, tokenizer, layers=("Dense",)))
    fetched: list[str] = []

    def file(name: str, path: str, local_files_only: bool) -> str:
        if not (folder / path).is_file():
            raise LocalEntryNotFoundError(path)
        return str(folder / path)

    def snapshot(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        fetched.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr("compress.inputs.checkpoint.hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", file)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    checkpoint = load_checkpoint("someone/encoder")
    assert checkpoint.name == "encoder" and checkpoint.directory == folder / "0_Transformer"
    # A pickle is fetched only where a layer has nothing else.
    assert [name for name in fetched if name.endswith(".bin")] == ["2_Dense/pytorch_model.bin"]


def test_folder_that_nobody_names_is_assumed(tokenizer: Any, tmp_path: Path) -> None:
    folder = old_layout(sentence_folder(tmp_path, tokenizer, layers=("Dense",)))
    (folder / "0_Transformer").rename(folder / "query_0_Transformer")
    found = load_checkpoint(str(folder / "query_0_Transformer"))
    assert found.said == ("there is no modules.json beside the model: mean pooling is assumed, normalised",)


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"])
def test_head_in_the_configuration_is_left_out(head: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    change(folder / "config.json", architectures=[head])
    for task in (None, "sentence-similarity"):
        checkpoint = load_checkpoint(str(folder), task)
        assert checkpoint.said[0] == f"the head of {head} is left out: embeddings do not use it"
        assert checkpoint.model.config.architectures == ["BertModel"]
    np.testing.assert_allclose(our_embeddings(checkpoint), their_embeddings(folder), atol=1e-5)


def test_masked_model_as_an_encoder(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, BertConfig

    config = BertConfig(vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=4)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_checkpoint(str(tmp_path), "sentence-similarity")
    assert found.said[0].startswith("the head of BertForMaskedLM is left out") and "mean pooling" in found.said[-1]
    with pytest.raises(ModelError, match="cannot tell the task of this checkpoint"):
        load_checkpoint(str(tmp_path))


def test_trained_head_beside_modules_is_asked_about(tiny_bert: Path, tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_bert / name, folder / name)
    with pytest.raises(ModelError, match="--task sentence-similarity leaves the head out, --task text-class"):
        load_checkpoint(str(folder))
    assert load_checkpoint(str(folder), "text-classification").task.name == "text-classification"
    assert load_checkpoint(str(folder), "sentence-similarity").task.name == "sentence-similarity"


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.is_file() else {}), **changes}))


def with_module(folder: Path, kind: str, place: int, **notes: Any) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(place, {"idx": place, "name": f"x{place}", "path": "9_X", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "9_X").mkdir()
    change(folder / "9_X" / "config.json", **notes)


@pytest.mark.parametrize(
    ("kind", "place", "notes", "message"),
    [
        ("sentence_transformers.models.LSTM", 1, {}, "has LSTM, which is not supported"),
        ("sentence_transformers.models.CNN", 1, {}, "has CNN, which is not supported"),
        (
            "sentence_transformers.models.WeightedLayerPooling",
            1,
            {},
            "has WeightedLayerPooling, which is not supported",
        ),
        ("sentence_transformers.models.WordWeights", 1, {}, "has WordWeights, which is not supported"),
        ("custom_st.Pooling", 1, {}, "has custom_st.Pooling, which is not supported"),
        ("sentence_transformers.models.Pooling", 2, {}, "has a second Pooling"),
        ("sentence_transformers.models.Normalize", 1, {}, "has Normalize on tokens, before pooling"),
        (
            "sentence_transformers.models.Normalize",
            2,
            {"module_input_name": "token_embeddings"},
            "has Normalize on tokens",
        ),
    ],
)
def test_other_modules_are_refused_by_name(
    kind: str, place: int, notes: dict[str, Any], message: str, tokenizer: Any, tmp_path: Path
) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    with_module(folder, kind, place, **notes)
    with pytest.raises(ModelError, match=f"{message}.*--embedding tokens compresses the transformer alone"):
        load_checkpoint(str(folder))
    alone = load_checkpoint(str(folder), embedding="tokens")
    task: Any = alone.task
    assert task.embedding == "tokens" and not task.notes.complete and "only the transformer" in alone.said[0]


@pytest.mark.parametrize("kind", ["WordEmbeddings", "BoW", "Router", "Asym", "CLIPModel", "StaticEmbedding"])
def test_folders_without_a_transformer_are_refused(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    with_module(folder, f"sentence_transformers.models.{kind}", 0)
    with pytest.raises(ModelError, match=f"begins with {kind}, which is not a transformer"):
        load_checkpoint(str(folder), embedding="tokens")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "asks for pooling median; supported are cls, max, mean"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "asks for pooling of no kind"),
        ("1_Pooling/config.json", {"pooling_mode_quantile": True}, "asks for pooling pooling_mode_quantile"),
        ("2_Dense/config.json", {"activation_function": "custom.Gelu"}, "function custom.Gelu, which is not one of"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Linear"}, "torch.nn.Linear, which is not one of"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.PReLU"}, "torch.nn.PReLU, which is not one of"),
        ("2_Dense/config.json", {"out_features": 11}, "'linear.weight' has the shape"),
        ("2_Dense/config.json", {"out_features": None}, "has no number out_features"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "asks for transformer_task fill-mask"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            "reads pooler_output of the transformer",
        ),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 5}}}, "has processing_kwargs"),
        ("sentence_bert_config.json", {"module_output_name": "sentence_embedding"}, "makes sentence_embedding of"),
        ("sentence_bert_config.json", {"tokenizer_args": {"strip_accents": False}}, "tokenizer_args .*strip_accents"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "says SparseEncoder"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default_prompt_name 'x', which is not"),
        ("config_sentence_transformers.json", {"prompts": ["query: "]}, "has prompts .*, not texts by name"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "has truncate_dim 0; write a number from 1"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "compares texts by 'maxsim'"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "asks for pooling 3; supported are"),
        ("sentence_bert_config.json", {"modality_config": "text"}, "has modality_config 'text', not an object"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": "x"}},
            "reads last_hidden_state of the|not supported",
        ),
        ("sentence_bert_config.json", {"tokenizer_args": [1]}, r"has tokenizer_args \[1\], not an object"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "has max_seq_length 'long'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    file: str, changes: dict[str, Any], message: str, tokenizer: Any, tmp_path: Path
) -> None:
    folder = sentence_folder(tmp_path, tokenizer, layers=("Dense",))
    change(folder / file, **changes)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_texts_are_compared_as_the_encoder_says(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """The metric is that of sentence-transformers for the same encoder, whose embeddings differ in length."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    folder = sentence_folder(tmp_path, tokenizer, layers=("Dense",), similarity_fn_name=name)
    first, second, scores = TEXTS[:4], TEXTS[1:], [0.1, 0.9, 0.4, 0.2]
    evaluator = EmbeddingSimilarityEvaluator(first, second, scores, main_similarity=name)
    want = evaluator(SentenceTransformer(str(folder), device="cpu"))[f"spearman_{name}"]
    checkpoint = load_checkpoint(str(folder))
    task: Any = checkpoint.task
    rows, config = (
        Dataset.from_dict({"sentence1": first, "sentence2": second, "score": scores}),
        checkpoint.model.config,
    )
    data = task.encode(rows, checkpoint.tokenizer, task.columns(rows, config), 16, config)
    assert task.evaluate(outputs_of(checkpoint.model, task, data), data).value == pytest.approx(want, abs=1e-6)
    assert any("compared by" in line for line in checkpoint.said) == (name != "cosine")


def test_a_classifier_beside_the_encoder_is_left_out_and_said(tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    (folder / "model_head.pt").write_bytes(b"")
    assert any("model_head.pt is left out" in line for line in load_checkpoint(str(folder)).said)


def test_pooling_without_its_list_of_modules_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    (folder / "modules.json").unlink()
    with pytest.raises(ModelError, match=r"has 1_Pooling but no modules.json"):
        load_checkpoint(str(folder))


def test_classes_of_2019_are_transformers(tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    want = their_embeddings(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.models.BERT"
    (folder / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(our_embeddings(load_checkpoint(str(folder))), want, atol=1e-5)


@pytest.mark.parametrize("name", ["2_Dense/model.safetensors", "1_Pooling/config.json", "config.json"])
def test_missing_files_are_named(name: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer, layers=("Dense",))
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name.split("/")[0].replace("config.json", "no config.json")):
        load_checkpoint(str(folder))


def test_pickles_run_no_code(tokenizer: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("run",))

    folder = old_layout(sentence_folder(tmp_path, tokenizer, layers=("Dense",)))
    torch.save({"linear.weight": Evil()}, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is not a list of weights but a pickle of builtins.print"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a\\b"])
def test_paths_stay_inside(path: str, tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="leads out of the folder"):
        load_checkpoint(str(folder))


def test_a_cross_encoder_is_its_head(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "cross")
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    change(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    assert load_checkpoint(str(folder)).task.name == "text-classification"


def test_prompts_are_chosen_by_name(tokenizer: Any, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, tokenizer, prompts=PROMPTS, default="query")
    for asked, theirs, said in [
        (None, {}, "the prompt 'the best film : ' ('query', the model's default) is put before every text"),
        (
            "document",
            {"prompt_name": "document"},
            "the prompt 'waiter : ' is put before every text (--prompt document)",
        ),
        ("none", {"prompt": ""}, "no prompt is put before texts (--prompt none)"),
    ]:
        checkpoint = load_checkpoint(str(folder), prompt=asked)
        assert any(said in line for line in checkpoint.said)
        np.testing.assert_allclose(our_embeddings(checkpoint), their_embeddings(folder, **theirs), atol=1e-5)
    with pytest.raises(ConfigError, match=r"there is no prompt 'querry'\. Did you mean 'query'"):
        load_checkpoint(str(folder), prompt="querry")


def test_prompts_without_a_default_are_named(tokenizer: Any, tmp_path: Path) -> None:
    found = load_checkpoint(str(sentence_folder(tmp_path, tokenizer, prompts=PROMPTS)))
    assert any("has prompts (document, query) and no default: none is used" in line for line in found.said)


def test_prompt_is_for_sentence_encoders(tiny_bert: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prompt query is for sentence-similarity; this task is text-class"):
        load_checkpoint(str(tiny_bert), prompt="query")
    folder = sentence_folder(tmp_path, tokenizer)
    with pytest.raises(ConfigError, match="there is no prompt 'query'"):
        load_checkpoint(str(folder / ".." / "base"), prompt="query")


def test_a_cross_encoders_activation_is_kept_where_every_release_reads_it(tiny_bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "ranker"))
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    config = load_checkpoint(str(folder)).model.config
    assert config.sentence_transformers == {"activation_fn": "torch.nn.modules.linear.Identity"}
