"""What the tests share: small random models of every family with a real tokenizer, small data, real models and data.

``SHARED`` holds a real checkpoint and real data sets that may not be redistributed; tests that use them are skipped,
with the reason, where it is absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from support.data import TEXTS, write_rows
from support.models import EVERY_FAMILY, OF_IMAGES, MakeCheckpoint, random_model, write_image_processor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
