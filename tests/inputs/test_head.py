"""id2label numbers the outputs of the head from 0 without a gap, or the checkpoint is refused when it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.core.errors import EXIT_ERROR, ModelError
from compress.inputs.checkpoint import load_checkpoint
from support.models import MakeCheckpoint, random_model


def edited(source: Path, place: Path, **changes: Any) -> Path:
    """A copy with another configuration; ``...`` removes a key."""
    copy = Path(shutil.copytree(source, place / "edited"))
    file = copy / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return copy


def refusal(model: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_checkpoint(str(model), **options)
    assert caught.value.exit_code == EXIT_ERROR and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def taggers(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    config = random_model(
        "bert", len(tokenizer), id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    ).config
    folder = tmp_path_factory.mktemp("tagger") / "tagger"
    transformers.AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"0": "negative", "2": "positive"}, ["0, 2", "2 outputs, 0 to 1"]),
        ({"1": "negative", "2": "positive"}, ["1, 2", "2 outputs, 0 to 1"]),
        ({"-1": "negative", "0": "positive"}, ["-1, 0"]),
        ({"0": "a", "1": "b", "2": "c"}, ["0, 1, 2", "2 outputs"]),
        ({"0": "a"}, []),
        ({"0": "negative", "1": "positive", "01": "neutral"}, []),
    ],
)
@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
def test_numbers_that_are_not_those_of_the_head(
    shared_checkpoint: MakeCheckpoint, tmp_path: Path, family: str, names: dict[str, str], words: list[str]
) -> None:
    model = edited(shared_checkpoint(family), tmp_path, id2label=names, label2id=...)
    if set(map(int, names)) == {0, 1}:
        assert load_checkpoint(str(model)).model.config.num_labels == 2
        return
    message = refusal(model)
    assert all(word in message for word in words), message
    # With one class no image can be classified, whatever the head is.
    assert "id2label" in message or (family == "vit" and "at least two classes" in message)


def test_tags(taggers: Path, tmp_path: Path) -> None:
    gapped = {"0": "O", "1": "B-PER", "2": "I-PER", "4": "B-LOC", "5": "I-LOC"}
    message = refusal(edited(taggers, tmp_path, id2label=gapped, label2id=...))
    assert "0, 1, 2, 4, 5" in message and "5 outputs, 0 to 4" in message
    assert load_checkpoint(str(taggers)).task.name == "token-classification"


def test_no_names_at_all(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    names = {0: "a", 1: "b", 2: "c"}
    three = make_checkpoint("bert", id2label=names, label2id={name: i for i, name in names.items()})
    message = refusal(edited(three, tmp_path, id2label=..., label2id=...))
    assert "has no id2label, which means 2 classes" in message and "3 outputs, 0 to 2" in message


def test_label2id_that_contradicts(tiny_bert: Path, tmp_path: Path) -> None:
    message = refusal(edited(tiny_bert, tmp_path, label2id={"negative": 1, "positive": 0}))
    assert "class 'negative' is 0 in id2label and 1 in label2id" in message
    (tmp_path / "other").mkdir()
    assert load_checkpoint(str(edited(tiny_bert, tmp_path / "other", label2id={"LABEL_0": 0, "LABEL_1": 1})))


def test_a_number_for_each_text(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    one = make_checkpoint("bert", id2label={0: "score"}, label2id={"score": 0})
    assert load_checkpoint(str(one)).task.name == "text-regression"
    assert "1 output, 0" in refusal(edited(one, tmp_path, id2label=..., label2id=...))
