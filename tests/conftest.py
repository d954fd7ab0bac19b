"""What the tests share: small random models of every family with a real tokenizer, small data, real models and data.

``SHARED`` holds a real checkpoint and real data sets that may not be redistributed; tests that use them are skipped,
with the reason, where it is absent.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARED = Path(os.environ.get("COMPRESS_SHARED", Path(__file__).parents[2] / "shared"))
# Shared machines pause for seconds: a deadline would fail tests that are right.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


def pytest_configure() -> None:
    """Of several worker processes (pytest-xdist) each has a core of its own, else their threads fight for them.

    Before torch is imported, which counts the cores then.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


TEXTS = (
    ("a gripping film , warm and funny from start to end", "positive"),
    ("dull , slow and far too long", "negative"),
    ("the cast is wonderful and the story moves", "positive"),
    ("i wanted my money back", "negative"),
    ("one of the best things i have bought this year", "positive"),
    ("it broke after two days , what a waste", "negative"),
    ("great food , friendly service", "positive"),
    ("cold food and a rude waiter", "negative"),
    ("charming", "positive"),
    ("no plot , no wit , no point at all , and it never seems to end however much one hopes that it would", "negative"),
)
# Small, uneven and with a head size unlike the number of heads, so that mixed-up sizes show.
_SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
}
_BEHIND_PADDING = {"pad_token_id": 0, "max_position_embeddings": 41, "type_vocab_size": 1}
TINY_SIZES: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "distilbert": {"dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 20},
    # Positions of these start behind that of the padding token.
    **{name: {**_SIZES, **_BEHIND_PADDING} for name in ("roberta", "xlm-roberta", "camembert")},
    # This one takes 1 for the padding token whatever the configuration says.
    "mpnet": {**_SIZES, "pad_token_id": 1, "max_position_embeddings": 42},
    "electra": {**_SIZES, "embedding_size": 16},
    "deberta-v2": {
        **_SIZES,
        "relative_attention": True,
        "position_buckets": 4,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    # A window that texts are longer than, in the middle layer.
    "modernbert": {
        **_SIZES,
        "local_attention": 4,
        "global_attn_every_n_layers": 2,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    },
}
# Two by two patches.
_IMAGES = {"image_size": 16, "patch_size": 8}
TINY_SIZES |= {
    "vit": {**_SIZES, **_IMAGES},
    # transformers has two classes for it.
    "deit": {**_SIZES, **_IMAGES, "architectures": ["DeiTForImageClassification"]},
}
OF_IMAGES = ("deit", "vit")
# Written like BERT, module by module: what takes long is tried on them in the slow tests.
ALIKE = ("camembert", "deit", "electra", "roberta", "xlm-roberta")
# Those that read texts.
EVERY_FAMILY = [
    pytest.param(family, marks=pytest.mark.slow) if family in ALIKE else family
    for family in sorted(set(TINY_SIZES) - set(OF_IMAGES))
]
MakeCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs store what they find; not where the user keeps his."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _skip_without(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"'{path}' is not here: it cannot be redistributed (COMPRESS_SHARED names another folder)")
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data."""
    return _skip_without(SHARED)


@pytest.fixture(scope="session")
def minilm(shared: Path) -> Path:
    """A real checkpoint: MiniLM-L6, fine-tuned on SST-2, float16."""
    return _skip_without(shared / "models" / "minilm-sst2")


@pytest.fixture(scope="session")
def sst2(shared: Path) -> Path:
    """SST-2 as GLUE has it: train.tsv, dev.tsv."""
    return _skip_without(shared / "data" / "sst2")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer of a few hundred tokens, made from ``TEXTS``."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator([text for text, _ in TEXTS] * 3, vocab_size=200, show_progress=False)
    special = {name: f"[{name.split('_')[0].upper()}]" for name in ("unk_token", "sep_token", "pad_token", "cls_token")}
    # Training leaves the template out that puts [CLS] and [SEP] around a text.
    vocabulary = words.get_vocab()
    reloaded = BertWordPieceTokenizer(vocabulary, lowercase=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=reloaded._tokenizer,
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def random_model(family: str, vocabulary: int = 200, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A small classifier with random weights *and* random biases and norms: fresh models have zeros there."""
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

    names = {0: "negative", 1: "positive"}
    texts = {} if family in OF_IMAGES else {"vocab_size": vocabulary, "max_position_embeddings": 40}
    options = {
        **texts,
        **TINY_SIZES[family],
        "id2label": names,
        "label2id": {name: number for number, name in names.items()},
        **config,
    }
    kind = AutoModelForImageClassification if family in OF_IMAGES else AutoModelForSequenceClassification
    model = kind.from_config(AutoConfig.for_model(family, **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm_scale = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if norm_scale else 0.2 * noise)
    return model.eval()


def write_image_processor(directory: Path, size: int) -> None:
    """The file of an image processor: its class has other names where torchvision is not installed."""
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def make_checkpoint(
    tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function ``(family="bert", **config)`` that saves a small random checkpoint and returns its directory."""

    def make(family: str = "bert", seed: int = 0, **config: Any) -> Path:
        directory = tmp_path_factory.mktemp("models") / f"tiny-{family}"
        random_model(family, len(tokenizer), seed, **config).save_pretrained(directory)
        if family in OF_IMAGES:
            write_image_processor(directory, 16)
        else:
            tokenizer.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session", params=EVERY_FAMILY)
def tiny(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Path:
    """A small random checkpoint of each family in turn. Read only: tests that damage one make their own."""
    return make_checkpoint(request.param)


@pytest.fixture(scope="session")
def tiny_bert(make_checkpoint: MakeCheckpoint) -> Path:
    """A small random BERT classifier. Read only."""
    return make_checkpoint("bert")


@pytest.fixture(scope="session")
def tiny_distilbert(make_checkpoint: MakeCheckpoint) -> Path:
    """A small random DistilBERT classifier. Read only."""
    return make_checkpoint("distilbert")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the ending of the path says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Forty labelled rows: text, label (0 negative, 1 positive)."""
    return [{"text": text, "label": int(name == "positive")} for text, name in TEXTS * 4]


@pytest.fixture(scope="session", params=[".csv", ".tsv", ".jsonl", ".parquet"])
def data_file(
    request: pytest.FixtureRequest, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """``rows`` in a file of each format in turn."""
    return write_rows(tmp_path_factory.mktemp("data") / f"rows{request.param}", rows)


@pytest.fixture(scope="session")
def data_csv(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``rows`` as csv."""
    return write_rows(tmp_path_factory.mktemp("data") / "rows.csv", rows)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any attempt to reach another machine fails the test."""
    import socket

    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"tried to reach the network: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
