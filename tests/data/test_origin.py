"""Messages name row and file of the user's file, also after rows were held back, drawn, or left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import DataError
from compress.data.load import is_one_part, load_data, sample_rows
from compress.data.origin import notes_of, place, select_rows
from compress.inputs.load import train_and_validation
from compress.tasks import TASKS
from compress.tasks.qa_columns import choose_answer_columns, read_questions
from support.data import write_rows


@given(st.integers(0, 20))
def test_place_after_holding_back_and_sampling(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    file = tmp_path_factory.getbasetemp() / "numbered.csv"
    file.write_text("text,number\n" + "".join(f'"a\n{i}",{i}\n\n' for i in range(60)))
    train, held, _ = train_and_validation(str(file), None, seed)
    assert held is not None
    for rows in (train, held, sample_rows(train, 9, seed), select_rows(sample_rows(train, 9, seed), [3, 1])):
        for i, number in enumerate(rows["number"][:]):
            # Each row takes two lines, and an empty one follows.
            assert place(rows, i) == f"row {int(number) + 1} (line {2 + 3 * int(number)}) of 'numbered.csv'"


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', "row 2 (line 3)"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n', "row 2"),
        ("a.json", '[{"text": "a"}, {"text": "b"}]', "row 2"),
        ("a.csv", "text\na\nb\n", "row 2 (line 3)"),
        ("a.csv", "sep=;\ntext;n\na;1\nb;1\n", "row 2 (line 4)"),
        ("a.tsv", 'text\tn\n"a\t1\nb\t1\n', "row 2 (line 3)"),
        ("a.txt", "a\n\n\nb\n", "row 2 (line 4)"),
        ("a.conll", "# 1\na O\nx O\n\nb O\n", "row 2 (line 5)"),
    ],
)
def test_place_of_each_format(tmp_path: Path, name: str, content: str, where: str) -> None:
    (tmp_path / name).write_text(content)
    assert place(load_data(str(tmp_path / name), "train"), 1) == f"{where} of '{name}'"


def test_place_in_shards(tmp_path: Path) -> None:
    for i in range(2):
        write_rows(tmp_path / f"train-0{i}-of-02.parquet", [{"text": str(n)} for n in range(3)])
    rows = load_data(str(tmp_path), "train")
    assert [place(rows, i) for i in (0, 5)] == [
        "row 1 of 'train-00-of-02.parquet'",
        "row 3 of 'train-01-of-02.parquet'",
    ]


def test_wrong_answer_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    """Older copies of SQuAD have places that are off by one."""
    context = "the good film in paris is great"
    rows: list[dict[str, Any]] = [
        {"question": f"what {i} ?", "context": context, "answers": {"text": ["film"], "answer_start": [9]}}
        for i in range(90)
    ]
    rows[5]["answers"]["answer_start"] = [10]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    messages = []
    for seed in range(3):
        for part in train_and_validation(str(tmp_path / "d.jsonl"), None, seed)[:2]:
            assert part is not None
            try:
                list(read_questions(part, choose_answer_columns(part, None, None)))
            except DataError as error:
                messages.append(str(error))
    assert len(messages) == 3
    assert all("row 6 of 'd.jsonl', column 'answers'" in message for message in messages)


def test_number_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,score\n" + "".join(f"t,{i if i != 41 else 'high'}\n" for i in range(80)))
    for part in train_and_validation(str(tmp_path / "d.csv"), None, 0)[:2]:
        assert part is not None
        if "high" in part["score"][:]:
            with pytest.raises(DataError, match=r"'high' in row 42 \(line 43\) of 'd.csv'"):
                TASKS["text-regression"].columns(part, None)


def test_rows_without_agreement_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = ["sentence1\tsentence2\tgold_label", *(f"a\tb\t{'-' if i == 9 else 'neutral'}" for i in range(60))]
    (tmp_path / "snli.tsv").write_text("\n".join(lines) + "\n")
    rows = load_data(str(tmp_path / "snli.tsv"), "train")
    assert len(rows) == 59 and set(rows["gold_label"][:]) == {"neutral"}
    assert notes_of(rows) == ("1 of 60 rows are left out: their gold_label is '-', as the annotators did not agree",)
    assert place(rows, 9) == "row 11 (line 12) of 'snli.tsv'"


def test_folders_of_save_to_disk(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    import datasets

    one = datasets.Dataset.from_list(rows)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=one, test=one.select(range(5))).save_to_disk(str(tmp_path / "several"))
    assert load_data(str(tmp_path / "one"), "train")["text"][:] == [row["text"] for row in rows]
    assert is_one_part(str(tmp_path / "one")) and not is_one_part(str(tmp_path / "several"))
    train, held, _ = train_and_validation(str(tmp_path / "one"), None, 0)
    assert held is not None and len(train) + len(held) == len(rows)
    train, held, _ = train_and_validation(str(tmp_path / "several"), None, 0)
    assert held is not None and (len(train), len(held)) == (len(rows), 5)
    assert place(held, 2) == f"row 3 of '{tmp_path / 'several' / 'test'}'"
    datasets.DatasetDict(train=one).save_to_disk(str(tmp_path / "lone"))
    with pytest.raises(DataError, match=r"has no split named validation.*it has train"):
        train_and_validation(str(tmp_path / "lone"), None, 0)
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(DataError, match=r"cannot be read.*save it again"):
        load_data(str(tmp_path / "one"), "train")
    (tmp_path / "lone" / "dataset_dict.json").write_text("{}")
    with pytest.raises(DataError, match="does not list the splits"):
        load_data(str(tmp_path / "lone"), "train")
