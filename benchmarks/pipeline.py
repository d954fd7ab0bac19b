"""Measures seconds per stage and peak memory of `compress run`, each run in a process of its own.

    python benchmarks/pipeline.py MODEL --data train.tsv --eval-data dev.tsv [--options='--effort fast'] [--parts]
        [--second all-mpnet-base-v2 --second-options='--data stsb --task sentence-similarity --macs 0.3 --seq-len 64']
        [--bert-base] [--threads 1,2] [--beside nothing,busy] [--output table.md]

Every model is run with every number of threads, beside nothing else and beside a busy process; by default once, with
all cores and beside nothing. A run with N threads may use N cores (its affinity mask, so whatever it starts has no
more). The busy process has the lowest priority (nice 19) and spins on the last of these cores, for as long as the run
takes. `--bert-base` adds a randomly initialised BERT-base (12 layers, 12 heads, 3072 filters) with 128 samples of
length 128: its accuracy means nothing, but its time and memory are those of a trained model.

Take a quiet machine: the table says how busy it was before each run. This is a benchmark, not a test: it asserts
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

NOTHING, BUSY = "nothing", "busy"
# What decides how fast small products are, as Linux names it.
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
# Ends by itself when its parent is gone: a benchmark that is killed leaves nothing behind.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


@dataclass(frozen=True)
class Job:
    """A run of `compress run`.

    Attributes:
        name: for the table.
        arguments: of the command.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What a run has to itself.

    Attributes:
        threads: number of its cores; None for all.
        beside: ``nothing``, or ``busy`` for a process of low priority on one of its cores.
    """

    threads: int | None
    beside: str

    @property
    def cores(self) -> list[int]:
        """Numbers of the run's cores; empty where the system binds no process to cores."""
        if not hasattr(os, "sched_getaffinity"):
            return []
        cores = sorted(os.sched_getaffinity(0))
        return cores[: self.threads]

    def said(self) -> str:
        """In words, for the table."""
        count = self.threads or len(self.cores) or os.cpu_count() or 1
        return f"{count} thread{'' if count == 1 else 's'}" + (", beside a busy process" if self.beside == BUSY else "")


@dataclass(frozen=True)
class Measured:
    """What one run took.

    Attributes:
        seconds: per stage.
        parts: of the stages, as `compress run --json` has them under ``spent``.
        peak_gb: resident memory.
        verdict: of the run.
        load: processes that wanted a core on average, in the minute before.
    """

    seconds: dict[str, float]
    parts: list[dict[str, Any]]
    peak_gb: float
    verdict: str
    load: float

    @property
    def whole(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @property
    def busy(self) -> float:
        """Cores that the run kept busy, on average."""
        stages = [part for part in self.parts if not part["part"]]
        return sum(part["seconds"] * part["cores"] for part in stages) / max(1e-9, self.whole)


def run(job: Job, setting: Setting) -> Measured:
    """Run `compress run` in a setting."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch, beside(setting):
        command = [sys.executable, "-m", "compress", "run", *job.arguments, "--json", "--output", f"{scratch}/out"]
        with open(f"{scratch}/stdout", "w+", encoding="utf-8") as stdout:
            process = start(command, setting.cores, threads=setting.threads, stdout=stdout)
            # wait4 gives the child's own peak; getrusage(RUSAGE_CHILDREN) would mix several children.
            _, _, usage = os.wait4(process.pid, 0)
            stdout.seek(0)
            said = stdout.read()
    try:
        document = json.loads(said)
    except ValueError:
        raise SystemExit(f"compress run ended without a result: {shlex.join(command)}") from None
    if "error" in document:
        raise SystemExit(f"compress run failed: {document['error']}")
    # Linux counts in kB, macOS in bytes.
    peak = usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    return Measured(document["seconds"], document["spent"]["parts"], peak, document["verdict"], load)


def start(
    command: Sequence[str], cores: Sequence[int], *, threads: int | None = None, nice: int = 0, stdout: Any = None
) -> subprocess.Popen[bytes]:
    """Start a process on some cores, or, where the system binds no process to cores, with a number of threads."""

    def prepare() -> None:
        if cores:
            os.sched_setaffinity(0, cores)
        os.nice(nice)

    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads and not cores else None
    return subprocess.Popen(
        command,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=environment,
        preexec_fn=prepare if cores or nice else None,
    )


@contextmanager
def beside(setting: Setting) -> Iterator[None]:
    """Keep a process spinning on the last core of a run, where the setting says so."""
    if setting.beside != BUSY:
        yield
        return
    process = start([sys.executable, "-c", SPIN], setting.cores[-1:], nice=19, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def table(measured: dict[str, Measured], parts: bool = False) -> str:
    """Rows are stages, whole, cores, memory and verdict; columns are runs.

    Args:
        measured: by the column's name.
        parts: whether stages have their parts below them.
    """
    runs = list(measured.values())
    # In the order of the run that has most of them: another may lack one.
    stages = list(
        dict.fromkeys(stage for one in sorted(runs, key=lambda one: -len(one.seconds)) for stage in one.seconds)
    )
    rows: list[tuple[str, list[str]]] = []
    for stage in stages:
        rows.append((stage, [f"{one.seconds[stage]:.1f}" if stage in one.seconds else "–" for one in runs]))
        rows += _parts(stage, runs) if parts else []
    rows.append(("**whole run**", [f"**{one.whole:.1f}**" for one in runs]))
    rows.append(("cores busy, average", [f"{one.busy:.2f}" for one in runs]))
    rows.append(("peak memory, GB", [f"{one.peak_gb:.2f}" for one in runs]))
    rows.append(("verdict", [one.verdict for one in runs]))
    rows.append(("load of the machine before", [f"{one.load:.1f}" for one in runs]))
    lines = [f"| stage, seconds | {' | '.join(measured)} |", f"|---|{'---|' * len(runs)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def _parts(stage: str, runs: Sequence[Measured]) -> list[tuple[str, list[str]]]:
    """Rows of a stage's parts."""
    found = [
        {tuple(part["part"]): part["seconds"] for part in one.parts if part["stage"] == stage and part["part"]}
        for one in runs
    ]
    places = list(dict.fromkeys(place for of in found for place in of))
    # What only some runs have goes behind what it is a part of, as in every run.
    rank = {place: number for number, place in enumerate(places)}
    places.sort(key=lambda place: [rank[place[: i + 1]] for i in range(len(place))])
    return [
        (f"{'· ' * len(place)}{place[-1]}", [f"{of[place]:.1f}" if place in of else "–" for of in found])
        for place in places
    ]


def machine() -> str:
    """Processor with the features that matter, cores, date, versions."""
    name, flags = platform.processor() or platform.machine(), set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        pass  # not Linux
    known = ", ".join(flag for flag in FLAGS if flag in flags) or "flags not known"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "onnxruntime"))
    return f"{name} ({known}), {cores} cores, {platform.system()} {platform.machine()}, {date.today()}, {versions}"


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


def jobs(given: argparse.Namespace, scratch: Path) -> list[Job]:
    """The runs that were asked for, each for every setting."""
    data = ["--data", given.data, *(["--eval-data", given.eval_data] if given.eval_data else [])]
    usual = [*data, "--speedup", given.speedup, "--seq-len", given.seq_len, "--samples", given.samples]
    budget = {"--speedup", "--latency-ms", "--macs"}
    first = shlex.split(given.options)
    if budget & {option.split("=")[0] for option in first}:
        usual = [*data, "--seq-len", given.seq_len, "--samples", given.samples]
    found = [Job(Path(given.model).name, (given.model, *usual, *first))]
    if given.second:
        options = shlex.split(given.second_options) or [*usual, *first]
        name = Path(given.second).name
        found.append(Job(f"{name} (second)" if name == found[0].name else name, (given.second, *options)))
    if given.bert_base:
        random_bert_base(scratch / "bert-base", given.model)
        long_texts(scratch / "train.tsv", 160)
        small = shlex.split("--speedup 2 --seq-len 128 --samples 128 --allow-chance")
        arguments = (f"{scratch}/bert-base", "--data", f"{scratch}/train.tsv", *small)
        found.append(Job("BERT-base (random), 128 samples of 128 tokens", arguments))
    return found


def settings(given: argparse.Namespace) -> list[Setting]:
    """What was asked for of threads and neighbours."""
    counts: list[int | None] = [int(count) for count in given.threads.split(",")] if given.threads else [None]
    cores = len(Setting(None, NOTHING).cores) or os.cpu_count() or 1
    neighbours = given.beside.split(",")
    if any(count is not None and not 1 <= count <= cores for count in counts):
        raise SystemExit(f"--threads {given.threads}: this process may use 1 to {cores} cores")
    if not set(neighbours) <= {NOTHING, BUSY}:
        raise SystemExit(f"--beside {given.beside}: give {NOTHING}, {BUSY} or both, with a comma between them")
    return [Setting(count, neighbour) for count in counts for neighbour in neighbours]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data")
    parser.add_argument("--seq-len", default="64")
    parser.add_argument("--speedup", default="1.7", help="budget; another one may be among --options")
    parser.add_argument("--samples", default="2048")
    parser.add_argument("--options", default="", help="further options of compress run, as one text")
    parser.add_argument("--second", metavar="MODEL", help="another model, after the first")
    parser.add_argument("--second-options", default="", help="all of its options, as one text; default: the first's")
    parser.add_argument("--bert-base", action="store_true")
    parser.add_argument("--threads", metavar="N,N", help="cores of a run; default: all")
    parser.add_argument("--beside", default=NOTHING, metavar=f"{NOTHING},{BUSY}", help="what else runs")
    parser.add_argument("--parts", action="store_true", help="stages with their parts")
    parser.add_argument("--output", type=Path, help="write the table here too")
    given = parser.parse_args(arguments)

    measured: dict[str, Measured] = {}
    asked = settings(given)
    with tempfile.TemporaryDirectory() as scratch:
        for job in jobs(given, Path(scratch)):
            for setting in asked:
                name = f"{job.name}, {setting.said()}"
                measured[name] = run(job, setting)
                print(f"{name}: {measured[name].whole:.1f} s", file=sys.stderr, flush=True)
    text = f"{table(measured, given.parts)}\n\n{machine()}\n"
    print(text)
    if given.output:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
