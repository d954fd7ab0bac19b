"""Loading by name, sampling, and batches: every example comes once, padded and cut as promised."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import EXIT_ERROR, DataError
from compress.data.batches import Encoded, fixed_batch
from compress.data.load import load_data, sample_rows
from support.data import write_rows


def refusal(source: str | Path, split: Any = "train") -> str:
    with pytest.raises(DataError) as caught:
        load_data(str(source), split)
    assert caught.value.exit_code == EXIT_ERROR
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_leaves_no_trace(
    data_file: Path, rows: list[dict[str, Any]], no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(data_file.parent.rglob("*"))
    dataset = load_data(str(data_file), "train")
    assert len(dataset) == len(rows)
    assert dataset.column_names == ["text", "label"]
    assert dataset[:]["text"] == [row["text"] for row in rows]
    assert dataset.cache_files == []
    assert sorted(data_file.parent.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_directory_of_splits(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_rows(tmp_path / "train.csv", rows)
    write_rows(tmp_path / "dev.tsv", rows[:7])
    write_rows(tmp_path / "test.jsonl", rows[:3])
    (tmp_path / "README.md").write_text("about")
    assert len(load_data(str(tmp_path), "train")) == len(rows)
    assert len(load_data(str(tmp_path), "validation")) == 7
    (tmp_path / "dev.tsv").unlink()
    assert len(load_data(str(tmp_path), "validation")) == 3
    (tmp_path / "test.jsonl").unlink()
    message = refusal(tmp_path, "validation")
    assert "no validation data" in message and "train.csv" in message


def test_shards_in_a_data_folder(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "data").mkdir()
    for i in range(2):
        write_rows(tmp_path / "data" / f"train-0000{i}-of-00002.parquet", rows[i * 10 : (i + 1) * 10])
    assert load_data(str(tmp_path), "train")[:]["text"] == [row["text"] for row in rows[:20]]


def test_shards_that_differ(tmp_path: Path) -> None:
    write_rows(tmp_path / "train-0-of-2.parquet", [{"text": "a"}])
    write_rows(tmp_path / "train-1-of-2.parquet", [{"text": [1]}])
    assert "same columns" in refusal(tmp_path)


def test_ambiguous_directory(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_rows(tmp_path / "train.csv", rows)
    write_rows(tmp_path / "train.tsv", rows)
    message = refusal(tmp_path)
    assert "train.csv, train.tsv" in message


def test_empty_directory(tmp_path: Path) -> None:
    assert "no data files" in refusal(tmp_path)


@pytest.mark.parametrize(
    "source",
    ["", "./nothing.csv", "/nowhere/at", "nothing.csv", "a/b/c", "~/x", "~nobody-here/x", "dir\\x", "a b", "a\0b"],
)
def test_missing_file_asks_no_hub(source: str, no_network: None) -> None:
    message = refusal(source)
    assert f"'{source}' does not exist" in message and "csv" in message


def test_name_longer_than_any_file(no_network: None) -> None:
    assert "cannot read data" in refusal("x" * 300)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """A hub with one data set of the splits train and test; the list of what was asked for."""
    import datasets

    asked: list[tuple[Any, ...]] = []

    def names(*args: Any) -> list[str]:
        asked.append(args)
        if args[0] != "someone/reviews":
            raise datasets.exceptions.DatasetNotFoundError(f"no data set '{args[0]}'\nmore advice")
        return ["train", "test"]

    def load(*args: Any, split: str) -> Any:
        asked.append((*args, split))
        return datasets.Dataset.from_list(rows).select(range(len(rows) if split == "train" else 0))

    monkeypatch.setattr("compress.data.load.hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_data_set_of_the_hub(hub: list[tuple[Any, ...]], rows: list[dict[str, Any]]) -> None:
    assert len(load_data("someone/reviews:short", "train")) == len(rows)
    assert hub == [("someone/reviews", "short"), ("someone/reviews", "short", "train")]
    assert "the test split of hub data set 'someone/reviews' has no rows" in refusal("someone/reviews", "validation")
    message = refusal("someone/revues")
    assert "no data set 'someone/revues'" in message and "meant as a path" in message


def test_data_set_of_the_hub_without_the_split(hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *args: ["train", "extra"])
    assert "has no validation split; it has train, extra" in refusal("someone/reviews", "validation")


def test_missing_file_names_its_neighbours(tmp_path: Path, data_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_csv.name in refusal(data_csv.parent / "raws.csv")
    assert f"'{tmp_path}'" in refusal(tmp_path / "a" / "b.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_header_without_rows(tmp_path: Path, name: str, end: str) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    (tmp_path / name).write_text(f"text{separator}label{end}")
    message = refusal(tmp_path / name)
    assert "no rows" in message and "text, label" in message


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.csv", "\n\n")])
def test_no_rows_at_all(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert "no rows" in refusal(tmp_path / name)


def test_columns_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("good\tgood\nbad\tbad\n")
    message = refusal(tmp_path / "a.tsv")
    assert "more than one column 'good'" in message and "first line" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file(tmp_path: Path, data_csv: Path) -> None:
    file = Path(shutil.copy(data_csv, tmp_path))
    file.chmod(0)
    assert "cannot read" in refusal(file)


def test_device_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    assert "not a regular file" in refusal(tmp_path / "a.csv")


def test_sample_of_rows(data_csv: Path) -> None:
    dataset = load_data(str(data_csv), "train")
    numbered = dataset.add_column("number", list(range(len(dataset))))
    sample = sample_rows(numbered, 15, seed=3)[:]["number"]
    assert len(sample) == 15 == len(set(sample)) and sample == sorted(sample)
    assert sample == sample_rows(numbered, 15, seed=3)[:]["number"]
    assert sample != sample_rows(numbered, 15, seed=4)[:]["number"]
    assert sample_rows(numbered, None, seed=0) is numbered
    assert sample_rows(numbered, 10_000, seed=0) is numbered


def test_real_data_of_any_size(sst2: Path) -> None:
    train, dev = load_data(str(sst2), "train"), load_data(str(sst2), "validation")
    assert (len(train), len(dev)) == (67_349, 872)
    assert train.cache_files == []
    assert set(train[:]["label"]) == {"0", "1"}


@st.composite
def encodings(draw: st.DrawFn) -> Encoded:
    ids = draw(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=12))
    labels = np.array(draw(st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids))))
    return Encoded(
        features={"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]},  # type: ignore[dict-item]
        labels=labels if draw(st.booleans()) else None,
        padding={"input_ids": 0, "attention_mask": 0},
    )


@given(encodings(), st.integers(1, 5), st.booleans())
def test_batches_hold_every_example_once(encoded: Encoded, size: int, by_length: bool) -> None:
    batches = list(encoded.batches(size, by_length))
    order = np.concatenate([batch.indices for batch in batches])
    assert sorted(order.tolist()) == list(range(len(encoded)))
    if by_length:
        assert (np.diff(encoded.lengths[order]) <= 0).all()
    else:
        assert order.tolist() == list(range(len(encoded)))
    for batch in batches:
        longest = encoded.lengths[batch.indices].max()
        assert (batch.labels is None) == (encoded.labels is None)
        for name, tensor in batch.inputs.items():
            assert tensor.shape == (len(batch.indices), longest)
            for row, i in zip(tensor.tolist(), batch.indices, strict=True):
                kept = encoded.features[name][i].tolist()
                assert row == kept + [0] * (longest - len(kept))
        if batch.labels is not None and encoded.labels is not None:
            assert batch.labels.tolist() == encoded.labels[batch.indices].tolist()


@given(encodings(), st.integers(1, 4), st.integers(1, 12))
def test_fixed_batch_is_full_of_real_tokens(encoded: Encoded, size: int, length: int) -> None:
    batch = fixed_batch(encoded, size, length)
    assert {array.shape for array in batch.values()} == {(size, length)}
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert (batch["attention_mask"] == 1).all()
    stream = np.concatenate(encoded.features["input_ids"])
    assert batch["input_ids"].ravel().tolist() == np.resize(stream, size * length).tolist()


@given(encodings(), st.integers(0, 15), st.integers(0, 5))
def test_take_and_fingerprint(encoded: Encoded, n: int, seed: int) -> None:
    sample = encoded.take(n, seed)
    assert len(sample) == min(n, len(encoded))
    assert sample.fingerprint() == encoded.take(n, seed).fingerprint()
    assert encoded.select(range(len(encoded))).fingerprint() == encoded.fingerprint()
    if n < len(encoded):
        assert sample.fingerprint() != encoded.fingerprint()


def test_fingerprint_sees_every_change() -> None:
    def encoded(ids: list[list[int]], labels: list[int] | None = None) -> str:
        values = None if labels is None else np.array(labels)
        return Encoded({"input_ids": ids}, values, {"input_ids": 0}).fingerprint()  # type: ignore[dict-item]

    variants = [
        encoded([[1, 2], [3]]),
        encoded([[1], [2, 3]]),
        encoded([[3], [1, 2]]),
        encoded([[1, 2], [4]]),
        encoded([[1, 2], [3]], [0, 1]),
        encoded([[1, 2], [3]], [1, 0]),
    ]
    assert len(set(variants)) == len(variants)


def test_encoded_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="2 labels for 1 examples"):
        Encoded({"input_ids": [[1]]}, np.array([0, 1]), {"input_ids": 0})  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no padding value"):
        Encoded({"input_ids": [[1]]}, None, {})  # type: ignore[list-item]
    with pytest.raises(ValueError, match="not as long"):
        Encoded({"a": [[1]], "b": [[1, 2]]}, None, {"a": 0, "b": 0})  # type: ignore[list-item]


def test_no_examples() -> None:
    empty = Encoded({"input_ids": []}, None, {"input_ids": 0})
    assert (len(empty), empty.mean_length, list(empty.batches())) == (0, 0.0, [])
    with pytest.raises(DataError, match="no example"):
        fixed_batch(empty, 1, 8)
    with pytest.raises(ValueError, match="batch_size"):
        list(empty.batches(0))
