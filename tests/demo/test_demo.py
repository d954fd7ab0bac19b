"""The demo's parts that need no minutes: what it reads, its batches, and a cache that is never trusted blindly."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError, ModelError
from compress.core.locks import only_one
from compress.core.progress import Silent
from compress.demo import demo


def test_the_sentences_are_all_there() -> None:
    for file, rows in (("train.csv", 2382), ("test.csv", 600)):
        texts, labels = demo.read_sentences(demo.DATA / file)
        assert len(texts) == len(labels) == rows
        assert set(labels) == {0, 1} and all(texts)
    with pytest.raises(DataError, match=r"absent\.csv"):
        demo.read_sentences(Path("absent.csv"))


@given(lengths=st.lists(st.integers(1, 60), max_size=300), size=st.integers(1, 40), seed=st.integers(0, 99))
def test_batches_have_every_sentence_once(lengths: list[int], size: int, seed: int) -> None:
    batches = list(demo.batches_by_length(lengths, size, random.Random(seed)))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)


class Trainer:
    """In place of the fine-tuning: counts, writes a file, or stops halfway."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self, source: Path, destination: Path, recipe: demo.FineTuneRecipe, progress: object) -> float:
        self.calls += 1
        (destination / "model.safetensors").write_text(f"weights of seed {recipe.seed}")
        if self.error:
            raise self.error
        return 0.9


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Trainer:
    fake = Trainer()
    monkeypatch.delenv("COMPRESS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "encoder_directory", lambda: tmp_path)
    monkeypatch.setattr(demo, "_train", fake)
    return fake


def test_a_checkpoint_is_made_once_per_recipe(trainer: Trainer, tmp_path: Path) -> None:
    first = demo.fine_tuned(Silent())
    assert demo.fine_tuned(Silent()) == first and trainer.calls == 1
    assert first.is_relative_to(tmp_path / "compress" / "demo")
    assert demo.fine_tuned(Silent(), demo.FineTuneRecipe(seed=1)) != first and trainer.calls == 2


def test_checkpoints_are_where_stored_results_are(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "own"))
    assert demo.fine_tuned(Silent()).is_relative_to(tmp_path / "own" / "demo")


@pytest.mark.parametrize("file", ["model.safetensors", demo.RECORD])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_checkpoint_is_made_again(trainer: Trainer, file: str, damage: str) -> None:
    checkpoint = demo.fine_tuned(Silent())
    if damage == "change":
        (checkpoint / file).write_text("[]")
    else:
        (checkpoint / file).unlink()
    assert demo.fine_tuned(Silent()) == checkpoint and trainer.calls == 2
    assert (checkpoint / "model.safetensors").read_text() == "weights of seed 0"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")], ids=repr)
def test_an_interrupted_fine_tuning_leaves_nothing(trainer: Trainer, tmp_path: Path, error: BaseException) -> None:
    trainer.error = error
    with pytest.raises(type(error)):
        demo.fine_tuned(Silent())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_demos_at_once_fine_tune_once(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compress.core.waiting.SAY_AFTER", 0.05)
    began, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> float:
        began.set()
        assert go_on.wait(60)
        return trainer(*arguments)

    monkeypatch.setattr(demo, "_train", slow)
    found: list[Path] = []
    first, second = (threading.Thread(target=lambda: found.append(demo.fine_tuned(Silent()))) for _ in range(2))
    first.start()
    assert began.wait(60)
    second.start()
    time.sleep(0.5)
    go_on.set()
    first.join()
    second.join()
    assert len(set(found)) == 1 and len(found) == 2 and trainer.calls == 1
    assert capsys.readouterr().err.startswith("waiting for the demo's checkpoint, for at most 1800 s: process ")

    monkeypatch.setattr(demo, "FINE_TUNE_SECONDS", 0.0)
    held = pytest.raises(ModelError, match="the demo's checkpoint is being made by process")
    with only_one(found[0].with_name(f".{found[0].name}.lock")), held:
        demo.fine_tuned(Silent())


def test_other_weights_than_expected_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "fake_encoder"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(demo, "PACKAGE", "fake_encoder")
    with pytest.raises(ModelError, match="incomplete"):
        demo.encoder_directory()
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="SHA-256"):
        demo.encoder_directory()
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package_here")
    with pytest.raises(ModelError, match=r"\[demo\]"):
        demo.encoder_directory()


def test_the_default_output_is_always_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("demo", "demo-2", "demo-3"):
        path = demo._free_output()
        assert path == Path("artifacts") / expected
        path.mkdir(parents=True)
