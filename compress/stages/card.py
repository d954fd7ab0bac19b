"""README.md of an artifact: what it is, what was measured, how to load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress._version import __version__
from compress.artifact import cuda_loader, summary
from compress.artifact.consumers import ORT_CLASSES
from compress.artifact.files import HEAD, MODEL
from compress.artifact.model import WEIGHTS
from compress.artifact.sparse import card as sparse_card
from compress.core.errors import TargetError
from compress.export import aotinductor_record
from compress.export.aotinductor_record import PACKAGE, record_path
from compress.export.lowering import IN_GRAPH
from compress.export.tensorrt_file import RtxRecord, context_path, engine_path, library_of, read_record
from compress.profile.target import load_target
from compress.tasks import TASKS

if TYPE_CHECKING:
    from compress.artifact.validation import Validation
    from compress.core.plan import Plan
    from compress.options.run_config import RunConfig


def card(config: RunConfig, plan: Plan, validation: Validation | None, task: Mapping[str, Any], directory: Path) -> str:
    """The artifact's README.md: what it is, what was measured, how to use it.

    Args:
        config: resolved options.
        plan: what was kept.
        validation: what was measured; None where nothing was.
        task: its name and settings, as the manifest has them.
        directory: the artifact; which files it has decides what loads it.
    """
    name = Path(config.model).name
    if validation is not None and validation.unstructured is not None:
        return sparse_card(name, validation)
    lines = [
        f"# {name}, compressed",
        "",
        f"Made by compress {__version__} from `{name}`: budget {plan.budget}, method `{plan.method}`, target "
        f"`{config.target}`, batch {config.batch_size}, length {config.seq_len}.",
        "",
    ]
    if validation is not None:
        lines += [*_measured(plan, validation), *_beside(plan, validation)]
    prompt = task.get("prompt", "")
    lines += [
        *([f"Measured with the prompt {prompt!r} before every text: put it there in use too.", ""] if prompt else []),
        *_use(str(task.get("name", "")), plan, directory),
        *_engine(directory),
        *_cuda(config, directory),
        *_package(directory),
        "What was kept:",
        "",
        "```",
        plan.explain(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _use(task: str, plan: Plan, directory: Path) -> list[str]:
    """How to load the artifact, and what loads it not."""
    lines = ["```python", "import onnxruntime", 'session = onnxruntime.InferenceSession("model.onnx")', ""]
    if (directory / "modules.json").is_file():
        lines += ["from sentence_transformers import SentenceTransformer"]
        lines += ['encoder = SentenceTransformer(".", backend="onnx")', ""]
    if task in ORT_CLASSES:
        lines += [f"from optimum.onnxruntime import {ORT_CLASSES[task]}"]
        lines += [f'model = {ORT_CLASSES[task]}.from_pretrained(".")', ""]
    lines += ["import compress", 'model = compress.load(".")  # an ordinary transformers model, for PyTorch']
    dense, padded = plan.structure.widths == plan.shape.dense, (directory / WEIGHTS).is_file()
    if task in TASKS and (dense or padded) and not (directory / HEAD).is_file():
        kind = TASKS[task].auto_class_name
        place, note = (".", "  # padded with zeros, equal answers") if padded else ("pytorch", "")
        lines += ["", f"from transformers import {kind}", f'model = {kind}.from_pretrained("{place}"){note}']
    lines += ["```", ""]
    if not padded and not dense:
        lines += [
            "The layers of the checkpoint in `pytorch/` have different numbers of heads and filters, which no",
            "configuration of transformers can say: `from_pretrained` does not load it, `compress.load` does.",
            "`--pytorch padded` writes one that `from_pretrained` loads, with zeros where units are missing.",
            "",
        ]
    return lines


def _engine(directory: Path) -> list[str]:
    """What the engine of TensorRT-RTX is, where there is one, and what loads it."""
    model = directory / MODEL
    if library_of(model) != RtxRecord.library:
        return []
    record = read_record(model, RtxRecord)
    return [
        f"`engine/{engine_path(model).name}` is an engine of {record.said}. It runs with that release on such GPUs. "
        f"`engine/{context_path(model).name}` gives it to ONNX Runtime's provider for TensorRT-RTX.",
        "",
    ]


def _cuda(config: RunConfig, directory: Path) -> list[str]:
    """How to run the file as a CUDA graph, for targets in ONNX Runtime's CUDA provider."""
    try:
        runtime = load_target(config.target).runtime
    except TargetError:  # a file that is not here any more
        return []
    model = directory / MODEL
    if runtime != "onnxruntime-cuda" or not model.is_file():
        return []
    return cuda_loader.card_of(model, config.batch_size, config.seq_len)


def _package(directory: Path) -> list[str]:
    """What AOTInductor's package is, where there is one, and how to call it."""
    package = directory / PACKAGE
    if not record_path(package).is_file():
        return []
    record = aotinductor_record.read_record(package)
    return [
        f"`{PACKAGE.as_posix()}` is compiled by {record.said}. It runs with that release on such a "
        f"{'processor' if record.compute_capability is None else 'GPU'}, without the code of the model:",
        "",
        "```python",
        "import torch",
        f'model = torch._inductor.aoti_load_package("{PACKAGE.as_posix()}")',
        f"{', '.join(record.outputs)}{',' if len(record.outputs) == 1 else ''} = model({', '.join(record.inputs)})",
        "```",
        "",
        "The package checks nothing. Tensors of a call have shape [batch, sequence], as a tokenizer gives them with "
        '`return_tensors="pt"`.'
        if "input_ids" in record.inputs
        else "The package checks nothing. The tensor of a call has shape [batch, channels, height, width].",
        "",
    ]


def _measured(plan: Plan, validation: Validation) -> list[str]:
    """The card's table, what it was measured on, and the verdict."""
    metric, deployment = validation.metric, validation.deployment
    timed = summary.how_timed(validation, plan) == "measured"
    lines = [
        "| | dense | compressed |",
        "|---|---|---|",
        *_table(plan, validation),
        f"| precision | fp32 | {deployment.precision} |",
        "",
        f"{'Measured' if timed else 'All but the latencies measured'} on {deployment.device['processor']}, "
        f"{deployment.device['threads']} threads, {validation.date[:10]}"
        f"{', dense and compressed interleaved' if timed else ''}. Verdict: **{validation.verdict}** "
        f"({validation.reason}).",
        "",
    ]
    alone = "" if validation.unpruned is None else validation.unpruned.sentence
    lines += [f"{alone}.", ""] if alone else []
    trained = validation.fine_pruned
    if trained is not None:
        lines += [
            f"Fine-pruned by the recipe `{trained.recipe}`: {trained.before.name} {trained.before.compressed:.4f} "
            f"before it, {metric.compressed:.4f} after it (`training.csv` has the curves).",
            "",
        ]
    if deployment.engine is not None and deployment.engine.scheme in IN_GRAPH:
        lines += [_SEVEN_BITS if deployment.engine.reduce_range else _EIGHT_BITS, ""]
    engine = deployment.engine
    if engine is not None:
        for kept, how in ((engine.left_out, engine.rest), (engine.float32_nodes, "fp32")):
            lines += [f"Kept in {how}: {', '.join(f'`{name}`' for name in kept)}.", ""] if kept else []
    return lines


def _beside(plan: Plan, validation: Validation) -> list[str]:
    """The table of files beside model.onnx; empty where there are none."""
    if not validation.kept:
        return []
    name = validation.metric.name
    lines = [
        "The same model in other number formats, measured likewise:",
        "",
        f"| file | precision | latency, ms | speed-up | {name} | MB | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for kept in validation.kept:
        ms, speedup = summary.timing_of(kept)
        lines.append(
            f"| {kept.file} | {kept.precision} | {ms} | {speedup} | {kept.metric.compressed:.4f} | "
            f"{kept.size_bytes.compressed / 1e6:.1f} | {kept.verdict} |"
        )
    return [*lines, ""]


_EIGHT_BITS = (
    "Weights have 8 bits. x86 processors without VNNI add products in 16 bits, which can saturate: answers then differ "
    "there. Make the artifact on such a processor for weights of 7 bits."
)
_SEVEN_BITS = "Weights have 7 bits, so that products do not saturate on x86 processors without VNNI."
_HOW = {"estimated": "**estimated** from a data sheet", "predicted": "predicted, not timed"}


def _table(plan: Plan, validation: Validation) -> Iterator[str]:
    """Rows of the card's table."""
    for row in summary.rows(validation, plan):
        dense, ours = row.dense or 0.0, row.compressed
        how = _HOW.get(row.how or "")
        if row.kind == "latency" and (ours is None or row.dense is None):
            yield "| latency, ms | not measured | not measured |"
        elif ours is None:
            continue
        elif row.kind == "latency":
            yield (
                f"| latency, ms, {how} | {dense:.3f} | {ours:.3f} |"
                if how
                else (f"| latency, ms (median) | {dense:.2f} | {ours:.2f} |")
            )
        elif row.kind == "speedup":
            yield f"| speed-up{f', {how}' if how else ''} | 1 | {ours:.2f} |"
        elif row.kind == "latency unpruned":
            yield f"| latency, ms, dense in {row.name} too{f', {how}' if how else ''} | {dense:.3g} | {ours:.3g} |"
        elif row.kind == "speedup unpruned":
            yield f"| speed-up over dense {row.name}: what pruning adds | 1 | {ours:.2f} |"
        elif row.kind == "metric":
            yield f"| {row.name}, {validation.metric.examples} examples | {dense:.4f} | {ours:.4f} |"
        elif row.kind == "size":
            yield f"| model.onnx, MB | {dense / 1e6:.1f} | {ours / 1e6:.1f} |"
        elif row.kind == "macs":
            yield f"| encoder MACs | 1 | {ours:.3f} |"
        elif row.kind == "drift":
            yield f"| largest difference of answers by batch, order and padding | | {ours:.2g} |"
