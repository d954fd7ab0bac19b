"""Compares the same encoder in all engines: latency against the dense float32 model, and accuracy.

    python benchmarks/engines.py minilm-sst2 --data train.tsv --eval-data dev.tsv --ours out [--lengths 64,128]
        [--batches 1,8] [--seconds 20] [--output table.md]
    python benchmarks/engines.py --bert-base [--lengths 128,384] [--batches 1] [--seconds 20] [--output table.md]

``--ours`` names an artifact of ``compress run --precision auto``; its file is timed at every length and batch size.
``--bert-base`` times a randomly initialised BERT-base; ours then keeps half of its heads and filters, in int8, and only
its time means anything. OpenVINO and nncf take part if they are installed (extra ``openvino``). Ratios are of medians
of interleaved calls, with a bootstrap interval that resamples rounds.

This is a benchmark, not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.cores import usable_cores
from compress.core.errors import CompressError
from compress.core.plan import Plan, Widths
from compress.core.progress import Silent
from compress.core.statistics import ratio_interval
from compress.data.batches import fixed_batch
from compress.export import graph
from compress.export.lowering import lower, variants
from compress.export.measure import choose_fastest
from compress.export.narrowing import narrow
from compress.export.onnx import export_onnx
from compress.export.runtime import open_session
from compress.export.session import Session
from compress.inputs.load import Loaded, load
from compress.options.run_config import make_config
from compress.profile.target import Target, load_target
from compress.profile.timing import Schedule, sample_calls
from compress.stages.export import samples_of
from compress.stages.int8_accuracy import answers_of

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Contestant:
    """A file in an engine.

    Attributes:
        name: its name in the table.
        path: the file.
        target: the target whose runtime opens the file.
    """

    name: str
    path: Path
    target: Target

    def open(self) -> Session:
        return open_session(self.path, self.target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data")
    parser.add_argument("--eval-data")
    parser.add_argument("--ours", action="append", default=[], help="artifact of `compress run`; may be repeated")
    parser.add_argument("--bert-base", action="store_true")
    parser.add_argument("--lengths", default=None)
    parser.add_argument("--batches", default="1")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of timing per length and batch size")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if bool(given.model) == given.bert_base:
        parser.error("name a model, or give --bert-base")
    lengths = [int(n) for n in (given.lengths or ("128,384" if given.bert_base else "64,128")).split(",")]
    batches = [int(n) for n in given.batches.split(",")]
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        made = _bert_base(Path(folder)) if given.bert_base else _real(given, Path(folder), max(lengths))
        contestants, feeds, accuracy = made
        lines = _table(contestants, feeds, accuracy, lengths, batches, given.seconds)
    text = "\n".join([*lines, "", _machine()]) + "\n"
    print(text, end="")
    if given.output:
        given.output.write_text(text, encoding="utf-8")
    return 0


def _real(given: argparse.Namespace, folder: Path, length: int) -> tuple[list[Contestant], Any, dict[str, str]]:
    """Returns the dense variants of a checkpoint and its artifacts, with their accuracy."""
    config = make_config(
        {"model": given.model, "data": given.data, "eval_data": given.eval_data, "seq_len": length, "samples": 512}
    )
    loaded = load(config, Silent())
    task = loaded.checkpoint.task
    dense = folder / "dense.onnx"
    export_onnx(
        loaded.checkpoint.model,
        dense,
        input_names=loaded.input_names,
        output_names=task.file_names,
        outputs=task.file_outputs,
    )

    def feed(batch: int, tokens: int) -> Feed:
        found: Feed = fixed_batch(loaded.calibration, batch, tokens)
        return found

    contestants = _dense_variants(dense, folder, feed(1, min(64, length)), samples_of(loaded))
    for number, place in enumerate(given.ours):
        plan = Plan.read(place)
        name = f"ours {number + 1}: {plan.macs_fraction:.0%} of the MACs, {_precision(Path(place))}"
        contestants.append(Contestant(name, Path(place) / "model.onnx", load_target("cpu")))
    accuracy = {contestant.name: _accuracy(contestant, loaded) for contestant in contestants}
    return contestants, feed, accuracy


def _bert_base(folder: Path) -> tuple[list[Contestant], Any, dict[str, str]]:
    """Returns the dense variants of a random BERT-base, and half of it in int8."""
    from transformers import BertConfig, BertForSequenceClassification

    from compress.models.encoder import encoder_of

    model = BertForSequenceClassification(BertConfig()).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    dense = folder / "dense.onnx"
    export_onnx(model, dense, input_names=names)
    random = np.random.default_rng(0)

    def feed(batch: int, tokens: int) -> Feed:
        ids = random.integers(1000, 20000, size=(batch, tokens))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    contestants = _dense_variants(dense, folder, feed(1, 128), [feed(4, 64) for _ in range(8)])
    encoder = encoder_of(model)
    shape = encoder.shape
    half = Widths((shape.heads // 2,) * shape.layers, (shape.filters // 2,) * shape.layers)
    import onnx

    path = folder / "half.onnx"
    target = load_target("cpu")
    narrowed = narrow(onnx.load(str(dense)), encoder, half)
    graph.save(lower(narrowed, variants(target, "int8")[0], timing_only=True), path, graph.EXTERNAL_DATA_ABOVE_BYTES)
    contestants.append(Contestant("ours: 50% of the MACs, int8 (time only)", path, target))
    return contestants, feed, {}


def _dense_variants(dense: Path, folder: Path, feed: Feed, samples: Sequence[Feed]) -> list[Contestant]:
    """Returns the dense model in every engine; the first is the baseline, in its fastest form."""
    from onnxruntime.quantization import quantize_dynamic

    cpu = load_target("cpu")
    forms: dict[str, Path] = {}
    for engine in variants(cpu, "fp32"):
        forms[engine.form] = folder / f"{engine.form}.onnx"
        if engine.form == "plain":
            forms[engine.form] = dense
        else:
            import onnx

            graph.save(lower(onnx.load(str(dense)), engine), forms[engine.form], graph.EXTERNAL_DATA_ABOVE_BYTES)
    sessions = {form: open_session(path, cpu) for form, path in forms.items()}
    fastest = choose_fastest(sessions, feed, seconds=4.0)
    for session in sessions.values():
        session.close()
    found = [Contestant(f"dense, ONNX Runtime fp32 ({fastest})", forms[fastest], cpu)]
    path = folder / "defaults.onnx"
    quantize_dynamic(str(dense), str(path), extra_options={"DefaultTensorType": 1})
    found.append(Contestant("dense, onnxruntime.quantization defaults", path, cpu))
    import onnx

    for engine in variants(cpu, "int8"):
        path = folder / f"int8-{engine.scheme}-{engine.form}.onnx"
        graph.save(lower(onnx.load(str(dense)), engine, samples), path, graph.EXTERNAL_DATA_ABOVE_BYTES)
        found.append(Contestant(f"dense, our {engine.name}", path, cpu))
    return found + _openvino(dense, folder, samples)


def _openvino(dense: Path, folder: Path, samples: Sequence[Feed]) -> list[Contestant]:
    from compress.export.openvino import convert, save

    target = load_target("cpu-openvino")
    found = []
    try:
        for name, data in (("fp32", None), ("nncf int8", samples)):
            path = folder / name.replace(" ", "-") / "model.xml"
            save(convert(dense, target, data), path)
            found.append(Contestant(f"dense, OpenVINO {name}", path, target))
    except CompressError as error:
        print(f"without OpenVINO: {error}", file=sys.stderr)
    return found


def _table(
    contestants: Sequence[Contestant],
    feeds: Any,
    accuracy: Mapping[str, str],
    lengths: Sequence[int],
    batches: Sequence[int],
    seconds: float,
) -> list[str]:
    """Returns a Markdown table of speed-ups over the first contestant, one column per batch size and length."""
    cells: dict[str, list[str]] = {contestant.name: [] for contestant in contestants}
    columns = []
    for length in lengths:
        for batch in batches:
            columns.append(f"{batch} x {length}")
            feed = feeds(batch, length)
            sessions = [contestant.open() for contestant in contestants]
            taken = sample_calls([partial(session.run, feed) for session in sessions], Schedule(12, seconds))
            for session in sessions:
                session.close()
            for i, contestant in enumerate(contestants):
                ratio = ratio_interval(taken.ms[:, 0], taken.ms[:, i])
                median = float(np.median(taken.ms[:, i]))
                cells[contestant.name].append(
                    f"{median:.2f} ms" if i == 0 else f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
                )
    head = ["engine", *(["accuracy"] if accuracy else []), *columns, "MB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for contestant in contestants:
        size = graph.size_bytes(contestant.path)
        if contestant.path.suffix == ".xml":
            size += contestant.path.with_suffix(".bin").stat().st_size
        row = [contestant.name, *([accuracy[contestant.name]] if accuracy else []), *cells[contestant.name]]
        lines.append(f"| {' | '.join([*row, f'{size / 1e6:.1f}'])} |")
    return lines


def _accuracy(contestant: Contestant, loaded: Loaded) -> str:
    session = contestant.open()
    try:
        answers = answers_of(session, loaded, loaded.evaluation, 1)
    finally:
        session.close()
    return f"{100 * loaded.checkpoint.task.evaluate(answers, loaded.evaluation, answers).value:.2f} %"


def _precision(artifact: Path) -> str:
    import json

    found: str = json.loads((artifact / "validation.json").read_text())["deployment"]["precision"]
    return found


def _machine() -> str:
    versions = []
    for package in ("onnxruntime", "openvino", "nncf", "torch", "transformers"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{usable_cores()} cores, {platform.machine()}, {date.today()}, {', '.join(versions)}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
