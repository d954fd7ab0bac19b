"""Compares the same encoder in all engines: latency against the dense float32 model, and accuracy.

    python benchmarks/engines.py minilm-sst2 --data train.tsv --eval-data dev.tsv --ours out
        [--shapes 1x64,8x64,1x128,32x128] [--seconds 60] [--without torch.compile] [--output table.md]
    python benchmarks/engines.py --bert-base [--shapes 1x128,1x384] [--seconds 60] [--output table.md]

The dense model and ours run in ONNX Runtime and OpenVINO, in float32 and int8, and in PyTorch, eager and compiled; the
dense one also as AOTInductor compiles it.
``--ours`` names an artifact of ``compress run`` and may be repeated, once for each number format and target; its file,
its engine for OpenVINO and its PyTorch model are timed. ``--bert-base`` times a randomly initialised BERT-base; ours
then keeps half of its heads and filters, in int8, and only its time means anything. OpenVINO and nncf take part if they
are installed (extra ``openvino``).

Every model runs in a process of its own, and the processes take turns (``turns.py``). Ratios are of medians, with a
bootstrap interval that resamples rounds. With ``--widest 0.1`` a shape is timed again, up to three times, while an
interval is wider than 10 % of its ratio. This is a benchmark, not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from turns import Feed, Turn, take_turns

from compress.core.cores import usable_cores
from compress.core.errors import CompressError
from compress.core.plan import Plan, Widths
from compress.core.progress import Silent
from compress.core.statistics import ratio_interval
from compress.data.batches import fixed_batch
from compress.export import graph
from compress.export.aotinductor import keep_package
from compress.export.lowering import lower, variants
from compress.export.measure import choose_fastest
from compress.export.narrowing import narrow
from compress.export.onnx import export_onnx
from compress.export.runtime import open_session
from compress.inputs.load import Loaded, load
from compress.options.run_config import make_config
from compress.profile.target import Target, load_target
from compress.stages.export import interface_of, samples_of
from compress.stages.int8_accuracy import answers_of

AOTINDUCTOR = "dense, AOTInductor fp32"


@dataclass(frozen=True)
class Contestant:
    """A model in an engine.

    Attributes:
        name: its name in the table.
        path: the file; in PyTorch the directory of a checkpoint or an artifact.
        target: the target whose runtime opens the file.
        kind: see ``turns.py``.
    """

    name: str
    path: Path
    target: Target
    kind: str = "session"

    def start(self) -> Turn:
        return Turn(self.kind, self.path, self.target.name)

    @property
    def size_bytes(self) -> int:
        if self.path.is_dir():
            return sum(file.stat().st_size for file in self.path.rglob("*.safetensors"))
        weights = self.path.with_suffix(".bin")
        own = graph.size_bytes(self.path)
        return own + (weights.stat().st_size if self.path.suffix == ".xml" and weights.is_file() else 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data")
    parser.add_argument("--eval-data")
    parser.add_argument("--task")
    parser.add_argument("--ours", action="append", default=[], help="artifact of `compress run`; may be repeated")
    parser.add_argument("--bert-base", action="store_true")
    parser.add_argument("--shapes", default=None, help="batch sizes and lengths (default: 1x64,8x64,1x128,32x128)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of timing per shape, all engines together")
    parser.add_argument("--widest", type=float, default=math.inf, help="time again while an interval is wider, as 0.1")
    parser.add_argument("--without", action="append", default=[], help="leave out engines with this in their name")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if bool(given.model) == given.bert_base:
        parser.error("name a model, or give --bert-base")
    shapes = _shapes(given.shapes or ("1x128,1x384" if given.bert_base else "1x64,8x64,1x128,32x128"))
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        longest = max(length for _, length in shapes)
        contestants, feeds, loaded = (
            _bert_base(Path(folder)) if given.bert_base else _real(given, Path(folder), longest)
        )
        first, *others = contestants
        contestants = [first, *(one for one in others if not any(word in one.name for word in given.without))]
        metrics = {one.name: _metric(one, loaded) for one in contestants} if loaded else {}
        times = {shape: _timed(contestants, feeds(*shape), Path(folder), given) for shape in shapes}
        lines = _table(contestants, metrics, times)
    text = "\n".join([*lines, "", _machine()]) + "\n"
    print(text, end="")
    if given.output:
        given.output.write_text(text, encoding="utf-8")
    return 0


def _shapes(text: str) -> list[tuple[int, int]]:
    found = [part.split("x") for part in text.split(",")]
    return [(int(batch), int(length)) for batch, length in found]


def _real(given: argparse.Namespace, folder: Path, length: int) -> tuple[list[Contestant], Any, Loaded]:
    """Returns the dense variants of a checkpoint and its artifacts, and what makes feeds."""
    config = make_config(
        {
            "model": given.model,
            "data": given.data,
            "eval_data": given.eval_data,
            "task": given.task,
            "seq_len": length,
            "samples": 512,
        }
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
    contestants += _pytorch("dense", Path(given.model))
    if not any(word in AOTINDUCTOR for word in given.without):  # it compiles for minutes
        contestants.append(_aotinductor(loaded, folder))
    for number, place in enumerate(map(Path, given.ours), 1):
        contestants += _ours(f"ours {number}", place)
    return contestants, feed, loaded


def _ours(name: str, place: Path) -> list[Contestant]:
    """Returns an artifact in every engine that it has a model for."""
    name = f"{name}: {Plan.read(place).macs_fraction:.0%} of the MACs"
    cpu, other, precision = load_target("cpu"), load_target("cpu-openvino"), _precision(place)
    engine, file = place / "engine" / "model.xml", place / "model.onnx"
    # Beside an engine for OpenVINO, model.onnx is in float32.
    found = [Contestant(f"{name}, ONNX Runtime {'fp32' if engine.is_file() else precision}", file, cpu)]
    if engine.is_file():
        found.append(Contestant(f"{name}, OpenVINO {precision}", engine, other))
    if (engine.is_file() or precision == "fp32") and find_spec("openvino"):
        found.append(Contestant(f"{name}, OpenVINO fp32", file, other))
    # The same twice where the engine is in float32.
    return [*{one.name: one for one in found}.values(), *_pytorch(name, place)]


def _aotinductor(loaded: Loaded, folder: Path) -> Contestant:
    target, path = load_target("cpu-aotinductor"), folder / "dense.pt2"
    keep_package(loaded.checkpoint.model, path, interface_of(loaded), target, "fp32")
    return Contestant(AOTINDUCTOR, path, target)


def _pytorch(name: str, place: Path) -> list[Contestant]:
    cpu = load_target("cpu")
    return [
        Contestant(f"{name}, PyTorch fp32", place, cpu, "eager"),
        Contestant(f"{name}, torch.compile fp32", place, cpu, "compiled"),
    ]


def _bert_base(folder: Path) -> tuple[list[Contestant], Any, None]:
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
    return contestants, feed, None


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


def _timed(
    contestants: Sequence[Contestant], feed: Feed, folder: Path, given: argparse.Namespace
) -> NDArray[np.float64]:
    """Returns median milliseconds of each turn, [rounds, contestants]."""
    file = folder / "feed.npz"
    arrays: dict[str, Any] = dict(feed)
    np.savez(file, **arrays)
    turns = [contestant.start() for contestant in contestants]
    try:
        ms = take_turns(turns, file, given.seconds)
        for _ in range(2):
            intervals = [ratio_interval(ms[:, 0], ms[:, i]) for i in range(1, len(turns))]
            if all(found.high - found.low <= given.widest * found.value for found in intervals):
                break
            ms = np.concatenate([ms, take_turns(turns, file, given.seconds)])
    finally:
        for turn in turns:
            turn.close()
    return ms


def _table(
    contestants: Sequence[Contestant],
    metrics: Mapping[str, str],
    times: Mapping[tuple[int, int], NDArray[np.float64]],
) -> list[str]:
    """Returns a Markdown table of speed-ups over the first contestant, one column per batch size and length."""
    columns = [f"{batch} x {length}" for batch, length in times]
    head = ["engine", *(["metric"] if metrics else []), *columns, "MB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for i, contestant in enumerate(contestants):
        cells = [metrics[contestant.name]] if metrics else []
        for ms in times.values():
            ratio = ratio_interval(ms[:, 0], ms[:, i])
            told = f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
            cells.append(told if i else f"{float(np.median(ms[:, 0])):.2f} ms")
        lines.append(f"| {' | '.join([contestant.name, *cells, f'{contestant.size_bytes / 1e6:.1f}'])} |")
    return lines


def _metric(contestant: Contestant, loaded: Loaded) -> str:
    if contestant.kind != "session":
        return "as fp32"  # exports are compared with PyTorch
    session = open_session(contestant.path, contestant.target)
    try:
        answers = answers_of(session, loaded, loaded.evaluation, 1)
    finally:
        session.close()
    metric = loaded.checkpoint.task.evaluate(answers, loaded.evaluation, answers)
    return f"{metric.name} {metric.value:.4f}"


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
