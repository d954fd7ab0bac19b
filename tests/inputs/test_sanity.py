"""A run reads labels once for all data, and ends before any work where the dense model is at chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress import cli
from compress.core.errors import EXIT_ERROR, DataError
from compress.core.progress import Silent
from compress.inputs.checkpoint import load_checkpoint
from compress.inputs.load import Loaded, load, load_training
from compress.options.run_config import RunConfig
from compress.tasks.answers import outputs_of
from support.data import TEXTS, write_rows
from support.models import MakeCheckpoint

WORDS = sorted({word for text, _ in TEXTS for word in text.split()})


class Told(Silent):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture(scope="module")
def stars(make_checkpoint: MakeCheckpoint) -> tuple[Path, list[tuple[str, int]]]:
    """A classifier with the class names 1 to 5, and texts with the classes that it predicts."""
    names = {i: str(i + 1) for i in range(5)}
    model = make_checkpoint("bert", id2label=names, label2id={name: i for i, name in names.items()})
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=int(n))) for n in rng.integers(3, 9, size=400)]
    checkpoint = load_checkpoint(str(model))
    from datasets import Dataset

    rows = Dataset.from_dict({"text": texts})
    config = checkpoint.model.config
    columns = checkpoint.task.columns(rows, config)
    encoded = checkpoint.task.encode(rows, checkpoint.tokenizer, columns, 24, config)
    logits = outputs_of(checkpoint.model, checkpoint.task, encoded)
    # Every class is predicted about equally often.
    network: Any = checkpoint.model
    network.classifier.bias -= network.classifier.bias.new_tensor(logits.mean(0)) / 1
    scale = network.classifier.bias.new_tensor(1 / logits.std(0))
    network.classifier.weight *= scale[:, None]
    network.classifier.bias *= scale
    network.save_pretrained(model)
    predicted = outputs_of(network, checkpoint.task, encoded).argmax(-1)
    assert len(set(predicted.tolist())) == 5
    return model, list(zip(texts, predicted.tolist(), strict=True))


def rows_of(pairs: list[tuple[str, Any]], shift: int = 0) -> list[dict[str, Any]]:
    return [{"text": text, "label": label + shift} for text, label in pairs]


def loaded(model: Path, progress: Told, **options: Any) -> Loaded:
    given = {"seq_len": 24, "samples": 64, "macs": 0.5, **options}
    return load(
        RunConfig(model=str(model), **{k: str(v) if isinstance(v, Path) else v for k, v in given.items()}), progress
    )


def accuracy(found: Loaded) -> float:
    task = found.checkpoint.task
    return task.evaluate(outputs_of(found.checkpoint.model, task, found.evaluation), found.evaluation).value


def test_a_class_that_one_split_lacks_changes_nothing(
    stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path
) -> None:
    model, pairs = stars
    train = write_rows(tmp_path / "train.csv", rows_of(pairs[:300]))
    dev = write_rows(tmp_path / "dev.csv", rows_of(pairs[300:]))
    lacking = write_rows(tmp_path / "lacking.csv", rows_of([pair for pair in pairs[300:] if pair[1] != 0]))
    for file in (dev, lacking):
        told = Told()
        assert accuracy(loaded(model, told, data=train, eval_data=file)) == 1.0
        assert "labels are read as class numbers: the model has 0 = 1" in told.text
        # The other way round, too: it is the calibration data that lacks a class.
        assert accuracy(loaded(model, Told(), data=file, eval_data=train)) == 1.0


def test_a_rare_class_of_a_lone_file(stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    model, pairs = stars
    others = [pair for pair in pairs if pair[1] != 0]
    rare = next(pair for pair in pairs if pair[1] == 0)
    for place in (0, 40, 90, 150):
        lone = write_rows(tmp_path / f"{place}.csv", rows_of([*others[:place], rare, *others[place:]]))
        assert accuracy(loaded(model, Told(), data=lone)) == 1.0


def test_training_reads_labels_as_calibration_does(stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    model, pairs = stars
    train = write_rows(tmp_path / "train.csv", rows_of([pair for pair in pairs[:300] if pair[1] != 0]))
    dev = write_rows(tmp_path / "dev.csv", rows_of(pairs[300:]))
    options = {"data": str(train), "eval_data": str(dev), "seq_len": 24, "samples": 64, "macs": 0.5}
    for recipe in (None, "quick"):
        config = RunConfig(model=str(model), fine_prune=recipe, **options)
        found = load(config, Silent())
        assert (found.rows is None) == (recipe is None)
        labels = load_training(config, found, None, None).labels
        assert labels is not None and labels.tolist() == [label for _, label in pairs[:300] if label != 0]


def test_both_readings_fit_and_disagree(stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    model, pairs = stars
    file = write_rows(tmp_path / "rows.csv", rows_of([pair for pair in pairs if pair[1] != 0]))
    with pytest.raises(DataError, match="can be the class of that name") as caught:
        loaded(model, Told(), data=file, eval_data=file)
    assert caught.value.exit_code == EXIT_ERROR


def test_labels_of_another_order_are_at_chance(stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    model, pairs = stars
    turned = [(text, (label + 1) % 5) for text, label in pairs]
    for count in (40, 400):
        file = write_rows(tmp_path / f"{count}.csv", rows_of(turned[:count]))
        with pytest.raises(DataError) as caught:
            loaded(model, Told(), data=file, eval_data=file)
        assert all(word in str(caught.value) for word in ("accuracy 0.000", "id2label", "tokenizer", "--allow-chance"))
    told = Told()
    loaded(model, told, data=file, eval_data=file, allow_chance=True)
    assert "not above chance" in told.text and told.text.count("warning") == 1
    # Without labels in the evaluation data, those of the calibration data are judged.
    bare = write_rows(tmp_path / "bare.csv", [{"text": text} for text, _ in pairs])
    with pytest.raises(DataError, match="calibration data: accuracy"):
        loaded(model, Told(), data=file, eval_data=bare)
    told = Told()
    loaded(model, told, data=file, eval_data=bare, label_free=True)
    assert "evaluation data has no labels" in told.text


def test_at_chance_the_command_ends_before_any_work(
    stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pairs = stars
    file = write_rows(tmp_path / "rows.csv", rows_of([(text, (label + 2) % 5) for text, label in pairs]))
    out = tmp_path / "out"
    options = ["--data", str(file), "--eval-data", str(file), "--macs", "0.5", "--seq-len", "24", "--output", str(out)]
    assert cli.main(["run", str(model), *options]) == EXIT_ERROR
    said = capsys.readouterr().err
    assert "It is not above chance" in said and "Traceback" not in said and "export" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]


def test_a_weak_model_is_said(stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    model, pairs = stars
    rng = np.random.default_rng(0)
    weak = [(text, label if rng.random() < 0.15 else int(rng.integers(5))) for text, label in pairs]
    file, told = write_rows(tmp_path / "rows.csv", rows_of(weak)), Told()
    loaded(model, told, data=file, eval_data=file)
    assert "far below a fine-tuned model" in told.text


def test_columns_that_differ_are_refused(stars: tuple[Path, list[tuple[str, int]]], tmp_path: Path) -> None:
    model, pairs = stars
    train = write_rows(tmp_path / "train.csv", rows_of(pairs))
    other = write_rows(tmp_path / "dev.csv", [{"sentence": text, "label": label} for text, label in pairs])
    with pytest.raises(DataError, match="'text' in the calibration data, 'sentence' in the evaluation data"):
        loaded(model, Told(), data=train, eval_data=other)
