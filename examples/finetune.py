"""Fine-tunes a small encoder on any task, in minutes on two cores, and saves an ordinary checkpoint.

    python examples/finetune.py --task token-classification --data tweets.txt --output checkpoint
    python examples/finetune.py --task question-answering --data train.csv --eval-data dev.csv --output checkpoint
    python examples/finetune.py --task text-regression --data ../shared/data/stsb --output checkpoint

Without --model the encoder is all-MiniLM-L6-v2, from the package of the extra `demo`. Embeddings are frozen. Without
--eval-data, a fifth of a single file is held back; `compress run` holds back the same rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compress.cli.progress import progress_for
from compress.core.errors import CompressError
from compress.core.progress import Progress
from compress.data.origin import notes_of
from compress.demo.demo import encoder_directory
from compress.demo.fine_tune import FineTuneRecipe, fine_tune
from compress.inputs.load import train_and_validation
from compress.tasks import TASKS, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--data", required=True, help="labelled rows, as `compress run --data` takes them")
    parser.add_argument("--eval-data", help="rows to report the metric on")
    parser.add_argument("--output", required=True, type=Path, help="directory of the new checkpoint")
    parser.add_argument("--model", type=Path, help="directory of another encoder")
    parser.add_argument("--text-column")
    parser.add_argument("--label-column")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="for the new head, dropout, order, and rows held back")
    given = parser.parse_args()
    try:
        run(given, progress_for(sys.stderr))
    except CompressError as error:
        raise SystemExit(f"error: {error}") from None


def run(given: argparse.Namespace, progress: Progress) -> None:
    task = TASKS[given.task]
    if given.output.exists():
        raise SystemExit(f"error: '{given.output}' exists; choose another --output")
    rows, held, note = train_and_validation(given.data, given.eval_data, given.seed, words=task.reads_words)
    for sentence in filter(None, dict.fromkeys((note, *notes_of(rows), *notes_of(held)))):
        progress.info(sentence)
    model, tokenizer = fine_tune(
        given.model or encoder_directory(),
        task,
        rows,
        seq_len=given.seq_len,
        text_column=given.text_column,
        label_column=given.label_column,
        recipe=FineTuneRecipe(given.learning_rate, given.epochs, given.batch_size, given.seed),
        progress=progress,
    )
    model.save_pretrained(given.output, safe_serialization=True)
    tokenizer.save_pretrained(given.output)
    columns = task.columns(held, model.config, given.text_column, given.label_column)
    data = task.encode(held, tokenizer, columns, given.seq_len, model.config)
    measured = task.evaluate(outputs_of(model, task, data), data)
    for one in (measured, *measured.also):
        print(f"{one.name} on {len(one.scores)} examples: {one.value:.4f}")
    print(f"checkpoint: {given.output}")


if __name__ == "__main__":
    main()
