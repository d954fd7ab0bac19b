"""Tokenizers: which files they consist of is for their classes to say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import ModelError
from compress.inputs import processors
from compress.inputs.checkpoint import load_checkpoint
from compress.inputs.processors import tokenizer_files


def config_of(family: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family)


@pytest.mark.parametrize(
    ("family", "vocabulary"),
    [
        ("bert", "vocab.txt"),
        ("distilbert", "vocab.txt"),
        ("electra", "vocab.txt"),
        ("mpnet", "vocab.txt"),
        ("roberta", "merges.txt"),
        ("xlm-roberta", "sentencepiece.bpe.model"),
        ("camembert", "sentencepiece.bpe.model"),
        ("deberta-v2", "spm.model"),
        ("modernbert", "tokenizer.json"),
    ],
)
def test_every_familys_files_are_known(family: str, vocabulary: str, tmp_path: Path) -> None:
    files = tokenizer_files(tmp_path, config_of(family))
    assert vocabulary in files and files[0] == "tokenizer.json"
    assert {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"} <= set(files)


def test_the_class_that_the_tokenizer_names_counts(tmp_path: Path) -> None:
    """A BERT with the tokenizer of XLM-R, as multilingual sentence encoders have it."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizerFast"}))
    assert "sentencepiece.bpe.model" in tokenizer_files(tmp_path, config_of("bert"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NobodysTokenizer"}))
    assert "vocab.txt" in tokenizer_files(tmp_path, config_of("bert"))


@pytest.fixture
def with_spm(shared_checkpoint: Any, tmp_path: Path) -> Path:
    """A DeBERTa-v2 as it is published: spm.model, and no tokenizer.json."""
    folder = Path(shutil.copytree(shared_checkpoint("deberta-v2"), tmp_path / "folder"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "DebertaV2Tokenizer"}))
    (folder / "spm.model").write_bytes(b"")
    return folder


def test_only_spm_model_is_refused_with_what_to_install(with_spm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"sentencepiece", "google.protobuf"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else object())
    with pytest.raises(ModelError, match=r"spm\.model.*pip install sentencepiece protobuf;") as caught:
        load_checkpoint(str(with_spm))
    assert "has no tokenizer" not in str(caught.value)


def test_only_spm_model_is_read(with_spm: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="a model of SentencePiece cannot be made without it")
    text = with_spm / "text"
    text.write_text("a good film\na bad film\nthe plot is dull\n" * 20)
    pieces = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]"}
    numbers = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(with_spm / "spm"),
        vocab_size=40,
        user_defined_symbols=["[MASK]"],
        hard_vocab_limit=False,
        **numbers,
        **{f"{name}_piece": piece for name, piece in pieces.items()},
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(with_spm / "spm.model"))
    ours = load_checkpoint(str(with_spm)).tokenizer
    assert ours.tokenize("a good film") == theirs.encode("a good film", out_type=str)


def test_a_tokenizer_without_tokens_is_refused(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some releases of transformers give one where they could not read the vocabulary."""
    import transformers

    class Empty:
        all_special_ids = (0, 1, 2)

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *args, **options: Empty())
    with pytest.raises(ModelError, match=r"no tokens but special ones: nothing was read from tokenizer\.json"):
        load_checkpoint(str(tiny_bert))


@pytest.mark.parametrize("kind", ["tokenizer", "image processor"])
def test_code_of_its_own_is_refused(shared_checkpoint: Any, tmp_path: Path, kind: str) -> None:
    text = kind == "tokenizer"
    folder = Path(shutil.copytree(shared_checkpoint("bert" if text else "vit"), tmp_path / "folder"))
    file = folder / (processors.TOKENIZER_CONFIG if text else processors.IMAGE_PROCESSOR_FILES[0])
    auto_map = {"AutoTokenizer": ["mine.MyTokenizer", None]} if text else {"AutoImageProcessor": "mine.MyProcessor"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": auto_map}))
    with pytest.raises(ModelError, match=rf"the {kind} of model .* needs code of its own \(mine\.My"):
        load_checkpoint(str(folder))


def rewritten(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("limit", "message"), [(0, "cuts texts to 0 tokens"), ("512", "cuts texts to '512' tokens"), (-1, "to -1 tokens")]
)
def test_lengths_that_are_none(tiny_bert: Path, tmp_path: Path, limit: Any, message: str) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "folder"))
    rewritten(folder, "tokenizer_config.json", model_max_length=limit)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(str(folder))


def test_what_a_tokenizer_would_do_to_texts_in_use_is_tried_at_once(tiny_bert: Path, tmp_path: Path) -> None:
    """A number beyond the embeddings, and a character without a token: both would end a later stage, or the service."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "folder"))
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    word = next(word for word in model["vocab"] if word.isalpha())
    rewritten(folder, "tokenizer.json", model={**model, "vocab": {**model["vocab"], word: 9000}})
    with pytest.raises(ModelError, match=f"numbers the token '{word}' 9000, the model has 200 tokens"):
        load_checkpoint(str(folder))
    rewritten(folder, "tokenizer.json", model={**model, "unk_token": "[NONE]"})
    with pytest.raises(ModelError, match=r"fails on a character that it does not know: .*unknown token"):
        load_checkpoint(str(folder))
