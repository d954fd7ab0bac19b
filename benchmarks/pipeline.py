"""Measures seconds per stage and peak memory of `compress run`, each run in a process of its own.

    python benchmarks/pipeline.py MODEL --data train.tsv --eval-data dev.tsv [--bert-base] [--output table.md]

`--bert-base` adds a randomly initialised BERT-base (12 layers, 12 heads, 3072 filters) with 128 samples of length 128:
its accuracy means nothing, but its time and memory are those of a trained model. This is a benchmark, not a test: it
asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path


def run(arguments: list[str]) -> tuple[dict[str, float], float, str]:
    """Runs `compress run` and returns seconds per stage, peak resident memory in GB, and the verdict."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "compress", "run", *arguments, "--json", "--output", f"{scratch}/out"]
        with open(f"{scratch}/stdout", "w+", encoding="utf-8") as stdout:
            process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)
            # wait4 gives the child's own peak; getrusage(RUSAGE_CHILDREN) would mix several children.
            _, _, usage = os.wait4(process.pid, 0)
            stdout.seek(0)
            document = json.loads(stdout.read())
    if "error" in document:
        raise SystemExit(f"compress run failed: {document['error']}")
    return document["seconds"], usage.ru_maxrss / 1e6, document["verdict"]


def random_bert_base(directory: Path, vocabulary_from: str) -> None:
    """Saves a BERT-base with random weights and a real tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})
    BertForSequenceClassification(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(vocabulary_from).save_pretrained(directory)


def long_texts(path: Path, rows: int) -> None:
    """Writes texts of more than 128 tokens."""
    sentence = "the film was a long and winding story of people who never came home"
    words = sentence.split()
    lines = ["\t".join([" ".join(words[(i + j) % len(words)] for j in range(160)), str(i % 2)]) for i in range(rows)]
    path.write_text("sentence\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data")
    parser.add_argument("--seq-len", default="64")
    parser.add_argument("--speedup", default="1.7")
    parser.add_argument("--samples", default="2048")
    parser.add_argument("--bert-base", action="store_true")
    parser.add_argument("--output", type=Path, help="write the table here too")
    given = parser.parse_args()

    columns: dict[str, tuple[dict[str, float], float, str]] = {}
    evaluation = ["--eval-data", given.eval_data] if given.eval_data else []
    columns[f"{Path(given.model).name}, {given.samples} samples"] = run(
        [
            given.model,
            "--data",
            given.data,
            *evaluation,
            "--speedup",
            given.speedup,
            "--seq-len",
            given.seq_len,
            "--samples",
            given.samples,
        ]
    )
    if given.bert_base:
        with tempfile.TemporaryDirectory() as scratch:
            random_bert_base(Path(scratch, "bert-base"), given.model)
            long_texts(Path(scratch, "train.tsv"), 160)
            columns["BERT-base (random), 128 samples of 128 tokens"] = run(
                [
                    "--allow-chance",
                    f"{scratch}/bert-base",
                    "--data",
                    f"{scratch}/train.tsv",
                    "--speedup",
                    "2",
                    "--seq-len",
                    "128",
                    "--samples",
                    "128",
                ]
            )

    names = list(columns)
    lines = [f"| stage, seconds | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for stage in columns[names[0]][0]:
        lines.append(f"| {stage} | {' | '.join(f'{columns[n][0].get(stage, 0.0):.1f}' for n in names)} |")
    lines.append(f"| **all** | {' | '.join(f'**{sum(columns[n][0].values()):.1f}**' for n in names)} |")
    lines.append(f"| peak memory, GB | {' | '.join(f'{columns[n][1]:.2f}' for n in names)} |")
    lines.append(f"| verdict | {' | '.join(columns[n][2] for n in names)} |")
    from importlib.metadata import version

    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {date.today()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime")
    )
    table = "\n".join([*lines, "", machine]) + "\n"
    print(table)
    if given.output:
        given.output.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
