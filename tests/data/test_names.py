"""Published files are read without options: the columns of GLUE, by the header that each file has."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.errors import DataError
from compress.data import names
from compress.data.columns import choose_columns
from compress.data.load import load_data
from compress.data.names import SCORE_NAMES
from compress.tasks.question_answering import QuestionAnswering
from support.data import write_rows

MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label"
)


@pytest.mark.parametrize(
    ("file", "header", "text", "label"),
    [
        ("qqp.tsv", "id qid1 qid2 question1 question2 is_duplicate", ("question1", "question2"), "is_duplicate"),
        ("mnli.tsv", MNLI, ("sentence1", "sentence2"), "gold_label"),
        ("qnli.tsv", "index question sentence label", ("question", "sentence"), "label"),
        ("rte.tsv", "index sentence1 sentence2 label", ("sentence1", "sentence2"), "label"),
        ("sst2.tsv", "sentence label", ("sentence",), "label"),
        ("snli.csv", "premise hypothesis label", ("premise", "hypothesis"), "label"),
        ("sick.tsv", "pair_ID sentence_A sentence_B relatedness_score", ("sentence_A", "sentence_B"), None),
    ],
)
def test_headers_of_glue(tmp_path: Path, file: str, header: str, text: tuple[str, ...], label: str | None) -> None:
    separator = "\t" if file.endswith(".tsv") else ","
    fields = header.split(" ")
    row = separator.join("1" for _ in fields)
    (tmp_path / file).write_text(separator.join(fields) + "\n" + f"{row}\n" * 3)
    columns = choose_columns(load_data(str(tmp_path / file), "train", False), None, None)
    assert (columns.text, columns.label) == (text, label)


@pytest.mark.parametrize("file", ["msr_paraphrase_train.txt", "train.tsv"])
def test_mrpc(tmp_path: Path, file: str) -> None:
    content = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\t"He said\tno\n0\t3\t4\tsaid" he\tyes\n'
    (tmp_path / file).write_text(content, encoding="utf-8-sig")
    rows = load_data(str(tmp_path / file), "train", False)
    columns = choose_columns(rows, None, None)
    assert (columns.text, columns.label) == (("#1 String", "#2 String"), "Quality")
    assert rows["#1 String"][:] == ['"He said', 'said" he']


def test_cola_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("gj04\t1\t\tOur friends won't buy this.\nks08\t0\t*\tThey am \"here.\n")
    rows = load_data(str(tmp_path / "a.tsv"), "train", False)
    columns = choose_columns(rows, None, None)
    assert (columns.text, columns.label) == (("sentence",), "label")
    assert rows["label"][:] == ["1", "0"] and rows["sentence"][1:] == ['They am "here.']


def test_stsb(tmp_path: Path) -> None:
    header = [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ]
    (tmp_path / "a.tsv").write_text("\t".join(header) + "\n" + "\t".join("1" * len(header)) + "\n")
    columns = choose_columns(load_data(str(tmp_path / "a.tsv"), "train", False), None, None, SCORE_NAMES)
    assert (columns.text, columns.label) == (("sentence1", "sentence2"), "score")


def test_names_are_lower_case_and_distinct() -> None:
    for table in (value for key, value in vars(names).items() if key.endswith("_NAMES") and key != "PAIR_NAMES"):
        assert len(set(table)) == len(table) and all(name == name.lower() for name in table)


@pytest.mark.parametrize("name", ["text;label", "text|label", "text\tlabel"])
def test_lone_column_with_a_separator_in_its_name(tmp_path: Path, name: str) -> None:
    rows = load_data(str(write_rows(tmp_path / "a.parquet", [{name: "good;1"}] * 3)), "train")
    with pytest.raises(DataError, match=r"separator .* was not recognised"):
        choose_columns(rows, None, None)
    assert choose_columns(rows, name, None).text == (name,)


@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "film", "answer_start": 9}],
        {"text": ["film"], "answer_start": [9]},
        {"text": "film", "answer_start": 9},
        '[{"text": "film", "answer_start": 9}]',
        "{'text': ['film'], 'answer_start': [9]}",
        ["film"],
        "film",
    ],
    ids=str,
)
def test_answers_in_every_shape(answers: object) -> None:
    import datasets

    from compress.tasks.qa_columns import Answer, read_questions

    rows = datasets.Dataset.from_list([{"question": "what ?", "context": "the good film", "answers": answers}])
    columns = QuestionAnswering().find_columns(rows)
    assert next(read_questions(rows, columns))[2] == [Answer(9, 13)]
