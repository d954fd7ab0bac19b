"""What the tests share: small random models of every family with a real tokenizer, small data, real models and data.

``SHARED`` holds a real checkpoint and real data sets that may not be redistributed; tests that use them are skipped,
with the reason, where it is absent.
"""

from __future__ import annotations

# isort: off
# First: torch counts the cores when it is imported.
import support.own_core  # noqa: F401
# isort: on

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.data import TEXTS, write_rows
from support.exporter import export_once, remember_exports, remember_operators
from support.models import EVERY_FAMILY, OF_IMAGES, MakeCheckpoint, random_model, write_image_processor
from support.once import Once
from support.structures import padded_inputs
from support.thorough import PROFILE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARED = Path(os.environ.get("COMPRESS_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_report_header() -> str:
    """Said before the first test."""
    return f"how much is tried: {PROFILE} (HYPOTHESIS_PROFILE)"


@pytest.fixture(autouse=True)
def _threads_of_the_worker() -> Iterator[None]:
    """More threads than a worker has cores would spin against each other in all later tests."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and "PYTEST_XDIST_WORKER" in os.environ and torch.get_num_threads() != 1:
        warnings.warn(f"left {torch.get_num_threads()} threads of PyTorch behind", stacklevel=1)
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes what is made once a session, in a folder that all workers share."""
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each worker a folder of its own below that of the session.
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Once(root / "once")


@pytest.fixture(autouse=True, scope="session")
def shared_cache(once: Once) -> Iterator[None]:
    """Runs store results where the session keeps its own, not the user; those that resume find them there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESS_CACHE", str(once.root / "cache"))
        yield


@pytest.fixture(autouse=True)
def remembered_exports(once: Once) -> None:
    """From the second test that exports on, exporting takes less."""
    remember_operators()
    remember_exports(once)


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


def _train_tokenizer(directory: Path) -> None:
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator([text for text, _ in TEXTS] * 3, vocab_size=200, show_progress=False)
    special = {name: f"[{name.split('_')[0].upper()}]" for name in ("unk_token", "sep_token", "pad_token", "cls_token")}
    # Training leaves the template out that puts [CLS] and [SEP] around a text.
    vocabulary = words.get_vocab()
    reloaded = BertWordPieceTokenizer(vocabulary, lowercase=True)
    PreTrainedTokenizerFast(
        tokenizer_object=reloaded._tokenizer,
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    ).save_pretrained(directory)


@pytest.fixture(scope="session")
def tokenizer(once: Once) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer of a few hundred tokens, made from ``TEXTS``."""
    from transformers import PreTrainedTokenizerFast

    found: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(once("tokenizer", _train_tokenizer))
    return found


def _save(directory: Path, tokenizer: PreTrainedTokenizerBase, family: str, seed: int = 0, **config: Any) -> None:
    random_model(family, len(tokenizer), seed, **config).save_pretrained(directory)
    if family in OF_IMAGES:
        write_image_processor(directory, 16)
    else:
        tokenizer.save_pretrained(directory)


@pytest.fixture(scope="session")
def make_checkpoint(
    tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function ``(family="bert", **config)`` that saves a small random checkpoint and returns its directory."""

    def make(family: str = "bert", seed: int = 0, **config: Any) -> Path:
        directory = tmp_path_factory.mktemp("models") / f"tiny-{family}"
        _save(directory, tokenizer, family, seed, **config)
        return directory

    return make


@pytest.fixture(scope="session")
def shared_checkpoint(tokenizer: PreTrainedTokenizerBase, once: Once) -> Callable[..., Path]:
    """A function ``(family="bert", **config)``: one directory for the whole session and all workers. Read only."""

    def shared(family: str = "bert", **config: Any) -> Path:
        options = "".join(f"-{name}-{value}" for name, value in config.items())
        folder = once(
            f"checkpoint-{family}{options}", lambda place: _save(place / f"tiny-{family}", tokenizer, family, **config)
        )
        return folder / f"tiny-{family}"

    return shared


@pytest.fixture(scope="session", params=EVERY_FAMILY)
def tiny(request: pytest.FixtureRequest, shared_checkpoint: MakeCheckpoint) -> Path:
    """A small random checkpoint of each family in turn. Read only: tests that damage one make their own."""
    return shared_checkpoint(request.param)


@pytest.fixture(scope="session")
def tiny_bert(shared_checkpoint: MakeCheckpoint) -> Path:
    """A small random BERT classifier of three layers. Read only."""
    return shared_checkpoint("bert")


@pytest.fixture(scope="session")
def two_layers(shared_checkpoint: MakeCheckpoint) -> Path:
    """As ``tiny_bert``, with a first layer and a last and none between. Read only."""
    return shared_checkpoint("bert", num_hidden_layers=2)


@pytest.fixture(scope="session")
def one_layer(shared_checkpoint: MakeCheckpoint) -> Path:
    """The smallest of encoders: what takes long in a run is the exporter, layer by layer. Read only."""
    return shared_checkpoint("bert", num_hidden_layers=1)


@pytest.fixture(scope="session")
def tiny_distilbert(shared_checkpoint: MakeCheckpoint) -> Path:
    """A small random DistilBERT classifier. Read only."""
    return shared_checkpoint("distilbert")


@pytest.fixture(scope="session")
def dense_onnx(once: Once) -> Callable[[str], Path]:
    """A function ``(family)``: the file of ``random_model(family)``, exported once for the session. Read only."""

    def exported(family: str) -> Path:
        return export_once(once, random_model(family), list(padded_inputs(family)))

    return exported


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
def data_csv(rows: list[dict[str, Any]], once: Once) -> Path:
    """``rows`` as csv. Read only."""
    return once("data", lambda folder: write_rows(folder / "rows.csv", rows)) / "rows.csv"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any attempt to reach another machine fails the test."""
    import socket

    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"tried to reach the network: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
