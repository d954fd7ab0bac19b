"""Times two exported files against each other with onnxruntime alone: an independent check of ``validation.json``.

    python benchmarks/paired.py out-dense/model.onnx out/model.onnx [--seq-len 64] [--batch-size 1] [--threads 2]
        [--rounds 25] [--calls 60]

Each file runs in a process of its own; only the number of threads differs from onnxruntime's default options. The
processes take turns, and nothing of ``compress`` is imported. Two sessions in *one* process would disturb each other:
for tens of ms after a call the workers of one session spin on the cores that the other needs, which makes the faster
file look two times slower (``compress`` sets ``session.force_spinning_stop``). The dense file comes from
``compress export MODEL --output out-dense``.

This is a benchmark, not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WARM_UP = 5
# Long enough for the workers of the other process to stop spinning.
PAUSE_SECONDS = 0.15


def work(path: Path, batch_size: int, length: int, threads: int) -> None:
    """Times calls on demand: reads a line with their number, prints a line with their median milliseconds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {}
    for value in session.get_inputs():
        low, high = {"input_ids": (1000, 20_000), "attention_mask": (1, 2)}.get(value.name, (0, 1))
        feed[value.name] = rng.integers(low, high, (batch_size, length)).astype(np.int64)
    for line in sys.stdin:
        for _ in range(WARM_UP):
            session.run(None, feed)
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            session.run(None, feed)
            seconds.append(time.perf_counter() - start)
        print(1000 * float(np.median(seconds)), flush=True)


def ask(process: subprocess.Popen[str], calls: int) -> float:
    """Returns the median milliseconds of some calls in another process."""
    to, answers = process.stdin, process.stdout
    assert to is not None and answers is not None, "both are pipes"
    to.write(f"{calls}\n")
    to.flush()
    line = answers.readline()
    if not line:
        raise SystemExit(f"a process ended: {process.args!r}")
    return float(line)


def take_turns(processes: Sequence[subprocess.Popen[str]], rounds: int, calls: int) -> NDArray[np.float64]:
    """Returns median milliseconds, [rounds, processes]."""
    rows = []
    for _ in range(rounds):
        row = []
        for process in processes:
            row.append(ask(process, calls))
            time.sleep(PAUSE_SECONDS)
        rows.append(row)
    return np.array(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("compressed", type=Path)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=60, help="calls of one turn")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.dense, given.batch_size, given.seq_len, given.threads)
        return 0
    own = ["--seq-len", str(given.seq_len), "--batch-size", str(given.batch_size), "--threads", str(given.threads)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(path), str(path), "--work", *own],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in (given.dense, given.compressed)
    ]
    try:
        ms = take_turns(processes, given.rounds, given.calls)
    finally:
        for process in processes:
            process.kill()
    medians = np.median(ms, axis=0)
    # Rounds are resampled, not calls: the calls of one slow moment are not independent.
    rng = np.random.default_rng(0)
    resampled = [np.median(ms[rng.integers(0, len(ms), len(ms))], axis=0) for _ in range(2000)]
    low, high = np.percentile([dense / compressed for dense, compressed in resampled], [2.5, 97.5])
    print(
        f"{medians[0]:.2f} ms -> {medians[1]:.2f} ms: {medians[0] / medians[1]:.2f}x, 95 % {low:.2f} to {high:.2f} "
        f"({given.batch_size} x {given.seq_len}, {given.threads} threads, {given.rounds} rounds of {given.calls} "
        f"calls; onnxruntime {version('onnxruntime')}, {platform.machine()})"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
