"""Sentence encoders: pooling as the checkpoint says, pairs by position, labels drawn around the dense embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from compress.core.errors import ConfigError, DataError, ModelError
from compress.data.batches import Encoded
from compress.data.columns import Columns
from compress.export.measure import predict
from compress.export.onnx import check_parity, export_onnx
from compress.export.runtime import open_session
from compress.export.session import Session
from compress.inputs.checkpoint import Checkpoint, load_checkpoint
from compress.inputs.sentence_encoder import find_sentence_folder, sentence_task
from compress.profile.target import Target
from compress.reconstruction.layerwise import positions_read
from compress.tasks import SentenceSimilarity, Task, TextClassification, task_of
from support.models import OF_IMAGES, TINY_SIZES, random_model
from support.once import Once
from support.structures import padded_inputs

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
TASK = SentenceSimilarity()


def base_model(family: str) -> Any:
    return random_model(family).base_model


@pytest.fixture(scope="module")
def encoder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder as sentence-transformers saves one; its pooler was never trained and is not in the file."""
    directory = tmp_path_factory.mktemp("models") / "tiny-encoder"
    model = base_model("bert")
    model.pooler = None
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return notes(directory, "Pooling", "Normalize", pooling_mode_mean_tokens=True)


def notes(directory: Path, *modules: str, **pooling: Any) -> Path:
    """Write what sentence-transformers notes beside a checkpoint."""
    directory.mkdir(exist_ok=True)
    if not (directory / "config.json").is_file():
        (directory / "config.json").write_text("{}")
    listed = [{"path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(modules)]
    listed.insert(0, {"path": "", "type": "sentence_transformers.models.Transformer"})
    (directory / "modules.json").write_text(json.dumps(listed))
    for i, kind in enumerate(modules):
        if kind == "Pooling":
            (directory / f"{i}_{kind}").mkdir(exist_ok=True)
            (directory / f"{i}_{kind}" / "config.json").write_text(json.dumps(pooling))
    return directory


def task_beside(directory: Path) -> SentenceSimilarity:
    """The task that the files of a folder ask for."""
    return sentence_task(find_sentence_folder(directory), None, None, None)[0]


def pairs(**columns: list[Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


@pytest.fixture(scope="module")
def checkpoint(encoder: Path) -> Checkpoint:
    return load_checkpoint(str(encoder), task="sentence-similarity")


def test_head_is_none(checkpoint: Checkpoint, tiny_bert: Path) -> None:
    assert checkpoint.task == TASK and load_checkpoint(str(checkpoint.directory)).task == TASK
    # The pooler is nobody's business, and equal in every run.
    assert all(not tensor.any() for name, tensor in checkpoint.model.state_dict().items() if "pooler" in name)
    with pytest.raises(ModelError, match="does not fit this checkpoint: its head is BertForSequenceClassification"):
        load_checkpoint(str(tiny_bert), task="sentence-similarity")


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (["Pooling", "Normalize"], {"pooling_mode_mean_tokens": True}, ("mean", True, "normalized")),
        (["Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls", False, "pooled")),
        (["Pooling"], {"pooling_mode": "mean"}, ("mean", False, "pooled")),
    ],
)
def test_pooling_is_read_from_the_checkpoint(
    tmp_path: Path, modules: list[str], pooling: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    task = task_beside(notes(tmp_path, *modules, **pooling))
    assert (task.pooling, task.normalize, task.embedding) == expected


def test_without_notes_the_mean_is_taken(tmp_path: Path) -> None:
    assert task_beside(tmp_path) == TASK


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (["Pooling"], {"pooling_mode": "median"}, "asks for pooling median; supported are cls, max, mean"),
        (["Pooling"], {"pooling_mode": ["median", "mean", "mode"]}, "asks for pooling median, mode; supported"),
        (["Pooling", "Conv"], {"pooling_mode_mean_tokens": True}, "has Conv, which is not supported"),
    ],
)
def test_other_poolings_are_refused(tmp_path: Path, modules: list[str], pooling: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        task_beside(notes(tmp_path, *modules, **pooling))


def test_damaged_notes(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ModelError, match="does not say how embeddings are made"):
        task_beside(tmp_path)


def test_pairs_refer_to_every_text_once(checkpoint: Checkpoint) -> None:
    data = pairs(sentence1=["a film", "food", "a film"], sentence2=["food", "food", "waiter"], score=["5.0", "1", "2"])
    columns = TASK.columns(data, checkpoint.model.config)
    assert (columns.text, columns.label) == (("sentence1", "sentence2"), "score")
    encoded = TASK.encode(data, checkpoint.tokenizer, columns, 16, checkpoint.model.config)
    assert len(encoded) == 3 and encoded.labels is None
    assert encoded.targets.first.tolist() == [0, 1, 0] and encoded.targets.second.tolist() == [1, 1, 2]
    assert encoded.targets.scores.tolist() == [5.0, 1.0, 2.0]
    other = TASK.encode(data.select([0, 1]), checkpoint.tokenizer, columns, 16, checkpoint.model.config)
    assert encoded.fingerprint() != other.fingerprint()
    # A sample serves calibration, which reads texts alone.
    assert encoded.take(2, 0).targets is None


def test_scores_that_cannot_be_used_are_said(checkpoint: Checkpoint) -> None:
    config = checkpoint.model.config
    single = TASK.columns(pairs(text=["a", "b"], score=[1.0, 2.0]), config)
    assert single.label is None and "scores are for pairs" in single.guesses[-1]
    empty = TASK.columns(pairs(sentence1=["a"], sentence2=["b"], score=[None]), config)
    assert empty.label is None and "has no numbers" in empty.guesses[-1]
    with pytest.raises(DataError, match="'high' in row 2, which is not a number"):
        TASK.columns(pairs(sentence1=["a", "a"], sentence2=["b", "b"], score=["1", "high"]), config)
    with pytest.raises(DataError, match="1 of 2 rows have no number"):
        TASK.columns(pairs(sentence1=["a", "a"], sentence2=["b", "b"], score=["1", ""]), config)


@pytest.mark.parametrize("task", [TASK, SentenceSimilarity(pooling="cls", normalize=False, embedding="pooled")])
def test_embeddings_do_not_depend_on_padding(task: SentenceSimilarity) -> None:
    model = base_model("bert")
    inputs = padded_inputs("bert")
    with torch.no_grad():
        together = task.forward(model, inputs)
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            alone = task.forward(model, {name: tensor[i : i + 1, :length] for name, tensor in inputs.items()})
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)
    assert bool((together.norm(dim=-1).sub(1).abs() < 1e-5).all()) == task.normalize


def exported(task: Task, model: Any, inputs: dict[str, torch.Tensor], directory: Path) -> Session:
    path = directory / "model.onnx"
    export_onnx(model, path, input_names=list(inputs), output_names=task.file_names, outputs=task.file_outputs)
    return open_session(path, CPU)


EMBEDDINGS = ("normalized", "pooled", "tokens")
# All of one family, and each of every other in turn: what is added to the file does not know the family.
FILES = [("bert", embedding) for embedding in EMBEDDINGS] + [
    (family, EMBEDDINGS[number % 3]) for number, family in enumerate(sorted({*TINY_SIZES} - {*OF_IMAGES, "bert"}))
]


@pytest.mark.parametrize(
    ("family", "embedding"),
    [pytest.param(*case, marks=[] if case[0] == "bert" else pytest.mark.slow) for case in FILES],
)
def test_file_gives_what_was_asked_for(family: str, embedding: str, tmp_path: Path) -> None:
    task, model, inputs = TASK.giving(embedding), base_model(family), padded_inputs(family)
    session = exported(task, model, inputs, tmp_path)
    answer = session.run({name: tensor.numpy() for name, tensor in inputs.items()})
    assert answer.shape == ((3, 9, 24) if embedding == "tokens" else (3, 24))
    lengths = np.linalg.norm(answer, axis=-1)
    assert bool(np.allclose(lengths, 1, atol=1e-5)) == (embedding == "normalized")
    # Whatever the file gives, the metric reads the same embeddings from it.
    assert check_parity(session, model, [inputs], task.forward, 1e-5, read=task.read_file) <= 1e-5


def _lowered(file: Path, how: str, feed: dict[str, Any]) -> Any:
    from compress.export.lowering import Engine, lower

    engine = {
        "standard": Engine(form="standard"),
        "packed": Engine(form="packed"),
        "offline": Engine(form="offline"),
        "fp16": Engine("fp16"),
        "int8": Engine("int8", "packed", "dynamic"),
        "static": Engine("int8", "plain", "static"),
    }[how]
    return lower(onnx.load(str(file)), engine, [feed] * 8)


@pytest.fixture(scope="module")
def embedding_file(once: Once) -> Path:
    """The file of ``base_model("bert")`` with pooled and normalised embeddings. Read only."""
    return once("embeddings", lambda folder: exported(TASK, base_model("bert"), padded_inputs("bert"), folder))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=[] if how in ("packed", "fp16") else pytest.mark.slow)
        for how in ("standard", "packed", "offline", "fp16", "int8", "static")
    ],
)
def test_files_of_embeddings_have_the_last_hidden_state_too(how: str, embedding_file: Path, tmp_path: Path) -> None:
    """Readers that pool themselves, such as sentence-transformers, take it by this name, as float32."""
    model, inputs = base_model("bert"), padded_inputs("bert")
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    path = tmp_path / "lowered.onnx"
    onnx.save(_lowered(embedding_file / "model.onnx", how, feed), str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    embedding, hidden = session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})
    assert hidden.dtype == embedding.dtype == np.float32
    mask = feed["attention_mask"][..., None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
    np.testing.assert_allclose(embedding, pooled, atol=1e-2 if how == "fp16" else 1e-5)
    ours = open_session(path, CPU).run(feed)
    np.testing.assert_allclose(ours, embedding, atol=1e-6)
    if how not in ("int8", "static"):
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state.numpy()
        np.testing.assert_allclose(hidden * mask, expected * mask, atol=3e-2 if how == "fp16" else 1e-4)


def test_predictions_are_read_from_files_of_tokens(tmp_path: Path) -> None:
    task, model, inputs = TASK.giving("tokens"), base_model("distilbert"), padded_inputs("distilbert")
    session = exported(task, model, inputs, tmp_path)
    lengths = inputs["attention_mask"].sum(1)
    rows: dict[str, Any] = {name: [t[i, :n].numpy() for i, n in enumerate(lengths)] for name, t in inputs.items()}
    data = Encoded(rows, labels=None, padding=dict.fromkeys(rows, 0))
    found = predict(session, data, batch_size=2, read=task.read_file, fill=task.fill)
    with torch.no_grad():
        np.testing.assert_allclose(found, task.forward(model, inputs).numpy(), atol=1e-5)


def test_only_sentence_encoders_have_embeddings() -> None:
    with pytest.raises(ConfigError, match="--embedding pooled is for sentence-similarity"):
        TextClassification().giving("pooled")


def some_embeddings(seed: int, n: int = 8) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(st.integers(0, 1000))
def test_divergence_of_unit_vectors_is_one_less_the_cosine(seed: int) -> None:
    ours, dense = some_embeddings(seed), some_embeddings(seed + 1)
    torch.testing.assert_close(TASK.divergence(ours, dense), 1 - (ours * dense).sum(-1), atol=1e-6, rtol=1e-4)
    assert not TASK.divergence(dense, dense).any()
    # Of others, it does not depend on their unit.
    torch.testing.assert_close(TASK.divergence(3 * ours, 3 * dense), TASK.divergence(ours, dense))


def test_drawn_labels_give_the_gauss_newton_matrix() -> None:
    """Averaged over draws, g gᵀ is JᵀJ, the curvature of half the squared error."""
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(5, 3, generator=generator)
    x = torch.randn(3, generator=generator, requires_grad=True)
    outputs = (jacobian @ x).expand(20_000, 5)
    labels = TASK.draw_labels(outputs.detach(), generator)
    # The gradient of one example's loss by x is (output - label) J.
    gradients = (outputs.detach() - labels) @ jacobian
    found = gradients.T @ gradients / len(gradients)
    torch.testing.assert_close(found, jacobian.T @ jacobian, atol=0.15, rtol=0.05)
    (summed,) = torch.autograd.grad(TASK.loss(outputs, labels).sum(), x)
    torch.testing.assert_close(summed, gradients.sum(0), atol=0.5, rtol=1e-3)


def test_metric_is_spearman_of_cosines(checkpoint: Checkpoint) -> None:
    data = pairs(sentence1=list("abcd"), sentence2=list("efga"), score=[1.0, 4.0, 2.0, 3.0])
    config = checkpoint.model.config
    encoded = TASK.encode(data, checkpoint.tokenizer, TASK.columns(data, config), 16, config)
    embeddings = some_embeddings(3, len(encoded)).numpy()
    alike = (embeddings[encoded.targets.first] * embeddings[encoded.targets.second]).sum(1)
    measured = TASK.evaluate(embeddings, encoded)
    assert measured.name == "spearman" and measured.value == pytest.approx(spearmanr(alike, [1, 4, 2, 3]).statistic)

    bare = TASK.encode(data, checkpoint.tokenizer, Columns(("sentence1", "sentence2"), None), 16, config)
    faithful = TASK.evaluate(embeddings, bare, embeddings)
    assert faithful.name == "cosine fidelity" and faithful.value == pytest.approx(1.0)
    other = some_embeddings(4, len(encoded)).numpy()
    assert TASK.evaluate(other, bare, embeddings).value == pytest.approx((other * embeddings).sum(1).mean())


def test_all_positions_are_read(checkpoint: Checkpoint) -> None:
    data = pairs(text=["a gripping film", "dull and slow", "cold food , rude waiter"])
    config = checkpoint.model.config
    encoded = TASK.encode(data, checkpoint.tokenizer, TASK.columns(data, config), 16, config)
    assert positions_read(checkpoint.encoder, TASK, encoded) is None
    first = positions_read(checkpoint.encoder, SentenceSimilarity(pooling="cls"), encoded)
    assert first is not None and first.tolist() == [0]
    # The last token lies elsewhere in every text.
    assert positions_read(checkpoint.encoder, SentenceSimilarity(pooling="lasttoken"), encoded) is None
    assert positions_read(checkpoint.encoder, SentenceSimilarity(pooling="max"), encoded) is None
    short = encoded.select([0] * 6 + [1] * 6)
    assert positions_read(checkpoint.encoder, SentenceSimilarity(pooling="lasttoken"), short) is None


def test_task_is_told_by_the_absent_head() -> None:
    from types import SimpleNamespace

    assert isinstance(task_of(SimpleNamespace(architectures=["DistilBertModel"])), SentenceSimilarity)
