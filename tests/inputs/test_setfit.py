"""Heads of SetFit folders are part of the model; their pickles are never run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from compress.core.errors import ConfigError, ModelError
from compress.inputs.checkpoint import load_checkpoint
from support.sentence_folders import TEXTS, sentence_folder, their_embeddings
from support.setfit_heads import own_head_class

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def encoder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_folder(tmp_path_factory.mktemp("setfit"), tokenizer, layers=(), longest=24)


@pytest.fixture
def folder(encoder: Path, tmp_path: Path) -> Folder:
    """A function that puts a head beside the encoder."""
    import shutil

    def make(head: Any, **settings: Any) -> Path:
        place = Path(shutil.copytree(encoder, tmp_path / "folder", dirs_exist_ok=True))
        joblib.dump(head, place / "model_head.pkl")
        (place / "config_setfit.json").write_text(json.dumps(settings))
        return place

    return make


def trained(encoder: Path, labels: list[Any], **options: Any) -> Any:
    return LogisticRegression(**options).fit(their_embeddings(encoder), labels)


def probabilities(folder: Path) -> Any:
    found = load_checkpoint(str(folder))
    rows = found.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return found.task.forward(found.model, dict(rows)).softmax(-1).numpy()


@pytest.mark.parametrize("labels", [[0, 1, 0, 0, 1], ["a", "b", "c", "a", "b"]], ids=["two", "three"])
@pytest.mark.parametrize("normalize", [False, True])
def test_probabilities_are_those_of_scikit_learn(
    encoder: Path, folder: Folder, labels: list[Any], normalize: bool
) -> None:
    head = trained(encoder, labels)
    place = folder(head, normalize_embeddings=normalize, labels=["bad", "good"] if len(set(labels)) == 2 else None)
    embeddings = their_embeddings(encoder, normalize_embeddings=normalize)
    np.testing.assert_allclose(probabilities(place), head.predict_proba(embeddings), atol=1e-5)
    found = load_checkpoint(str(place))
    assert found.task.name == "text-classification"
    names = {0: "bad", 1: "good"} if len(set(labels)) == 2 else {0: "a", 1: "b", 2: "c"}
    assert found.model.config.id2label == names


@pytest.fixture
def own_head(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of the name and the attributes of SetFit's own head."""

    return own_head_class(monkeypatch)


def test_own_head_of_setfit(encoder: Path, folder: Folder, own_head: type) -> None:
    head = own_head(3)
    logits = head.linear(torch.from_numpy(their_embeddings(encoder))) / (2.0 + 1e-5)
    found = probabilities(folder(head))
    np.testing.assert_allclose(found, logits.softmax(-1).detach().numpy(), atol=1e-5)


class Program:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_unknown_heads_are_refused_and_never_run(encoder: Path, folder: Folder, own_head: type, tmp_path: Path) -> None:
    def message(head: Any) -> str:
        with pytest.raises(ModelError) as caught:
            load_checkpoint(str(folder(head)))
        assert "--task sentence-similarity" in str(caught.value)
        return str(caught.value)

    ridge = RidgeClassifier().fit(their_embeddings(encoder), [0, 1, 0, 0, 1])
    assert "names sklearn.linear_model._ridge.RidgeClassifier" in message(ridge)
    assert "pathlib" in message(Program(tmp_path / "ran"))
    # In the middle of a classifier, and in an array of objects.
    hidden = trained(encoder, [0, 1, 0, 0, 1])
    hidden.intercept_ = np.array([Program(tmp_path / "ran")], dtype=object)
    assert "names an array of objects" in message(hidden)
    assert "several labels" in message(own_head(3, multitarget=True))
    assert "is not trained" in message(LogisticRegression())
    place = folder(LogisticRegression())
    (place / "model_head.pkl").write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    with pytest.raises(ModelError, match="is or names"):
        load_checkpoint(str(place))
    (place / "model_head.pkl").write_bytes(b"something")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(str(place))
    assert not (tmp_path / "ran").exists()


def test_other_faults(encoder: Path, folder: Folder) -> None:
    head = trained(encoder, [0, 1, 0, 0, 1])
    place = folder(head)
    with pytest.raises(ConfigError, match="--embedding pooled is for sentence-similarity"):
        load_checkpoint(str(place), embedding="pooled")
    alone = load_checkpoint(str(place), "sentence-similarity")
    assert any("the head of SetFit (model_head.pkl) is left out" in sentence for sentence in alone.said)
    head.coef_ = head.coef_[:, :7]
    with pytest.raises(ModelError, match="reads embeddings of 7 numbers, its encoder gives 24"):
        load_checkpoint(str(folder(head)))
