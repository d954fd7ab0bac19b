"""Tagging: words found again among tokens, spans counted as seqeval counts them, padding that adds nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError, ModelError
from compress.data.batches import Encoded
from compress.data.load import load_data
from compress.tasks import TokenClassification, task_of
from compress.tasks.token_classification import IGNORED, Words, f1_of_counts, read_lists
from support.models import random_model
from support.structures import padded_inputs

pytest.importorskip("seqeval", reason="the extra `tagging` is not installed")

TASK = TokenClassification()
NAMES = ("O", "B-food", "I-food", "B-person", "I-person")
CONFIG: Any = SimpleNamespace(
    id2label=dict(enumerate(NAMES)), num_labels=5, type_vocab_size=2, architectures=["BertForTokenClassification"]
)
SENTENCES = [["great", "food", ",", "friendly", "service"], ["the", "waiter"], ["charming"]]
TAGS = [["O", "B-food", "O", "O", "O"], ["O", "B-person"], ["O"]]


def dataset(**columns: list[Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def encode(tokenizer: Any, seq_len: int = 16, **columns: list[Any]) -> Encoded:
    data = dataset(**columns)
    return TASK.encode(data, tokenizer, TASK.columns(data, CONFIG), seq_len, CONFIG)


def tagged_logits(data: Encoded, tags: list[list[str]]) -> np.ndarray[Any, Any]:
    """Outputs that say these tags at the words' first tokens, and a span everywhere else."""
    logits = np.zeros((len(data), int(data.lengths.max()), len(NAMES)))
    logits[..., 3] = 1.0
    for row, places, own in zip(logits, data.targets.positions, tags, strict=True):
        for place, tag in zip(places, own, strict=True):
            if place >= 0:
                row[place] = np.eye(len(NAMES))[NAMES.index(tag)] * 5
    return logits


def test_words_are_found_again(tokenizer: Any) -> None:
    data = encode(tokenizer, tokens=SENTENCES, ner_tags=TAGS)
    for words, row, places in zip(SENTENCES, data.features["input_ids"], data.targets.positions, strict=True):
        ends = [*places[1:], len(row) - 1]
        found = [
            tokenizer.decode(row[a:b]).replace(" ", "").replace("##", "") for a, b in zip(places, ends, strict=True)
        ]
        assert found == words
    assert data.labels is not None and data.labels.shape == (3, 16)
    assert [(row != IGNORED).sum() for row in data.labels] == [5, 2, 1]


@given(st.lists(st.lists(st.text(min_size=1, max_size=6), max_size=6), min_size=1, max_size=3))
def test_any_words_have_their_own_tokens(tokenizer: Any, sentences: list[list[str]]) -> None:
    sentences = [[word.encode("utf-8", "replace").decode() for word in words] for words in sentences]
    data = TASK.encode(dataset(tokens=sentences), tokenizer, TASK.find_columns(dataset(tokens=sentences)), 12, CONFIG)
    for words, places, length in zip(sentences, data.targets.positions, data.lengths, strict=True):
        assert len(places) == len(words)
        seen = places[places >= 0]
        assert (seen < length).all() and (np.diff(seen) > 0).all()


@pytest.mark.parametrize(
    "tags", [TAGS, [[NAMES.index(t) for t in row] for row in TAGS], [" ".join(row) for row in TAGS]]
)
def test_tags_of_any_kind_of_column(tokenizer: Any, tags: list[Any]) -> None:
    data = encode(tokenizer, tokens=[" ".join(words) for words in SENTENCES], tags=tags)
    assert [row.tolist() for row in data.targets.tags] == [[NAMES.index(t) for t in row] for row in TAGS]


def test_lists_in_csv_fields_are_read() -> None:
    fields = ['["a b", "c"]', "d e", "[f", None, "['it', \"is\"]", "['a' 'b']", "[3 0]"]
    assert read_lists(dataset(tokens=fields), "tokens") == [
        ["a b", "c"], ["d", "e"], ["[f"], [], ["it", "is"], ["a", "b"], [3, 0],
    ]  # fmt: skip


def test_bad_tags(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="labels that the model does not know: 'B-drink'"):
        encode(tokenizer, tokens=SENTENCES, tags=[["O", "B-drink", "O", "O", "O"], ["O", "O"], ["O"]])
    with pytest.raises(DataError, match="row 2 has 2 words in column 'tokens' and 1 tags in column 'tags'"):
        encode(tokenizer, tokens=SENTENCES, tags=[TAGS[0], ["O"], ["O"]])
    with pytest.raises(DataError, match="1 words have no tag"):
        encode(tokenizer, tokens=SENTENCES, tags=[TAGS[0], ["O", ""], ["O"]])
    with pytest.raises(DataError, match="expected a list of words or tags"):
        encode(tokenizer, tokens=[1, 2], tags=["O", "O"])
    with pytest.raises(DataError, match="takes one column of words, not the pair premise and hypothesis"):
        TASK.columns(dataset(premise=["a"], hypothesis=["b"]), CONFIG)


def test_conll_file(tokenizer: Any, tmp_path: Path) -> None:
    lines = []
    for words, tags in zip(SENTENCES, TAGS, strict=True):
        lines += [*(f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)), "\t"]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    rows = load_data(str(tmp_path / "train.txt"), "train")
    assert rows["tokens"][:] == SENTENCES and rows["tags"][:] == TAGS
    (tmp_path / "train.conll").write_text("-DOCSTART- -X- O\n\nEU NNP B-NP B-ORG\nsaid VB O O\n", encoding="utf-8")
    rows = load_data(str(tmp_path / "train.conll"), "train")
    assert (rows["tokens"][:], rows["tags"][:]) == ([["EU", "said"]], [["B-ORG", "O"]])
    (tmp_path / "broken.txt").write_text("a\tO\nb\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2 of .* has a word without a tag: 'b'"):
        load_data(str(tmp_path / "broken.txt"), "train")
    (tmp_path / "texts.txt").write_text("a film\n\nanother one\n", encoding="utf-8")
    assert load_data(str(tmp_path / "texts.txt"), "train")["text"][:] == ["a film", "another one"]


@given(
    st.lists(st.lists(st.sampled_from(range(5)), min_size=4, max_size=4), min_size=2, max_size=2), st.integers(0, 99)
)
def test_f1_is_that_of_seqeval(tags: list[list[int]], seed: int) -> None:
    from seqeval.metrics import f1_score

    truth = [np.random.default_rng(seed + i).integers(0, 5, 4) for i in range(2)]
    data = Encoded(
        {"input_ids": [np.ones(4)] * 2},
        labels=None,
        padding={"input_ids": 0},
        targets=Words([np.arange(4)] * 2, truth, NAMES),
    )
    measured = TASK.evaluate(np.eye(5)[np.array(tags)], data)
    named = [[[NAMES[tag] for tag in row] for row in rows] for rows in (truth, tags)]
    assert measured.name == "span F1"
    if any(tag != "O" for rows in named for row in rows for tag in row):
        assert measured.value == pytest.approx(f1_score(*named, zero_division=0))
    else:
        assert measured.value == 1.0 == f1_of_counts(np.zeros((1, 3)))


@given(
    st.lists(st.lists(st.sampled_from(range(5)), min_size=4, max_size=4), min_size=3, max_size=3), st.integers(0, 99)
)
def test_slices_are_the_types_of_spans(tags: list[list[int]], seed: int) -> None:
    truth = [np.random.default_rng(seed + i).integers(0, 5, 4) for i in range(3)]
    words = Words([np.arange(4)] * 3, truth, NAMES)
    data = Encoded({"input_ids": [np.ones(4)] * 3}, labels=None, padding={"input_ids": 0}, targets=words)
    logits = np.eye(5)[np.array(tags)]
    slices, whole = TASK.slices(logits, data, {}), TASK.evaluate(logits, data)
    present = {NAMES[tag][2:] for row in truth for tag in row if NAMES[tag] != "O"}
    assert [part.name for part in slices] == sorted(present)
    # Every true span is in one slice; predicted spans of types that the truth lacks are in none.
    assert sum(part.count for part in slices) == whole.scores[:, 2].sum()
    assert sum(part.measured.scores[:, 0].sum() for part in slices) == whole.scores[:, 0].sum()
    assert all(part.measured.scores.shape == whole.scores.shape for part in slices)


def test_words_cut_off_cost_recall(tokenizer: Any) -> None:
    sentence, tags = [["the", *["charming"] * 20, "waiter"]], [["O", *["O"] * 20, "B-person"]]
    whole = encode(tokenizer, 64, tokens=sentence, tags=tags)
    cut = encode(tokenizer, 12, tokens=sentence, tags=tags)
    assert cut.targets.positions[0][-1] == -1 and whole.targets.positions[0][-1] > 0
    assert TASK.evaluate(tagged_logits(whole, tags), whole).value == 1.0
    assert TASK.evaluate(tagged_logits(cut, tags), cut).value == 0.0


def test_fidelity_and_accuracy(tokenizer: Any) -> None:
    bare = encode(tokenizer, tokens=SENTENCES)
    dense = tagged_logits(bare, TAGS)
    assert TASK.evaluate(dense, bare, dense).name == "fidelity" and TASK.evaluate(dense, bare, dense).value == 1.0
    assert TASK.evaluate(tagged_logits(bare, [["O"] * len(row) for row in TAGS]), bare, dense).value == 0.0
    # Tags that mark no spans, such as parts of speech, are compared word by word.
    words = Words([np.arange(2)] * 2, [np.array([0, 1]), np.array([1, 1])], ("NOUN", "VERB"))
    data = Encoded({"input_ids": [np.ones(2)] * 2}, labels=None, padding={"input_ids": 0}, targets=words)
    measured = TASK.evaluate(np.eye(2)[np.array([[0, 1], [0, 1]])], data)
    assert (measured.name, measured.value) == ("accuracy", 0.75)
    assert TASK.slices(np.eye(2)[np.array([[0, 1], [0, 1]])], data, {}) == []


def test_padding_adds_nothing() -> None:
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_config(random_model("bert").config).eval()
    inputs = padded_inputs("bert")
    with torch.no_grad():
        together, other = TASK.forward(model, inputs), torch.randn(3, 9, 2)
        masked = other * inputs["attention_mask"].unsqueeze(-1)
        for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            alone = TASK.forward(model, {name: tensor[i : i + 1, :length] for name, tensor in inputs.items()})
            torch.testing.assert_close(
                TASK.divergence(alone, other[i : i + 1, :length])[0], TASK.divergence(together, masked)[i]
            )
            labels = torch.full((1, 16), IGNORED)
            labels[0, : length // 2] = 1
            torch.testing.assert_close(
                TASK.loss(alone, labels)[0], TASK.loss(together, labels.expand(3, 16))[i], rtol=1e-4, atol=1e-5
            )
    assert TASK.draw_labels(together).shape == (3, 9)
    assert not TASK.divergence(together, together).any()


def test_loss_is_the_sum_over_labelled_tokens() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, IGNORED, 4, IGNORED], [IGNORED, 0, IGNORED, IGNORED]])
    log = logits.log_softmax(-1)
    torch.testing.assert_close(TASK.loss(logits, labels), torch.stack([-log[0, 0, 1] - log[0, 2, 4], -log[1, 1, 0]]))


def test_head() -> None:
    assert isinstance(task_of(CONFIG), TokenClassification)
    with pytest.raises(ModelError, match="knows 1 tag"):
        task_of(SimpleNamespace(architectures=["BertForTokenClassification"], num_labels=1))
    data = dataset(tokens=SENTENCES, tags=TAGS)
    assert TASK.new_head(data, TASK.find_columns(data)) == ["O", "B-food", "B-person"]


def test_one_word_per_row_has_no_sentences() -> None:
    rows = dataset(tokens=[["word"]] * 30, tags=[["O"]] * 30)
    with pytest.raises(DataError, match=r"one word and one tag .*sentences have no ends"):
        TASK.columns(rows, CONFIG)
