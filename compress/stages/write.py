"""The files of an artifact around the model: plan, profile, validation, configuration, card, manifest."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress._version import __version__
from compress.artifact import summary
from compress.artifact.files import CARD, MODEL, OUTCOMES, PLAN, PROFILE, TRADE_OFF, TRAINING, VALIDATION, compact, dump
from compress.artifact.manifest import SEAL, described, write_manifest
from compress.artifact.model import save_model
from compress.artifact.sbom import NAME as SBOM
from compress.artifact.sbom import sbom_text
from compress.artifact.sentence_files import write_sentence_files
from compress.artifact.sparse import card as sparse_card
from compress.artifact.tokenizer_files import save_tokenizer
from compress.artifact.validation import Validation
from compress.core.errors import ConfigError
from compress.core.hashing import sha256_of
from compress.core.plan import Plan
from compress.export.lowering import IN_GRAPH
from compress.export.ort_format import write_ort
from compress.export.tensorrt import keep_engine
from compress.inputs.tokenizer_settings import longest_text
from compress.options.run_config import RunConfig
from compress.profile.target import Target
from compress.report.sources import read_training
from compress.report.write import NAME as REPORT
from compress.report.write import renew_report, report_text
from compress.stages.context import Run
from compress.stages.dense_model import deployment_feed
from compress.tasks import SentenceSimilarity

if TYPE_CHECKING:
    from compress.stages.results import Evaluated, Finished


def write_artifact(
    directory: Path,
    run: Run,
    done: Finished,
    trade_off: Sequence[Mapping[str, float]],
    origins: Mapping[str, str] | None = None,
) -> None:
    """Write everything beside the ONNX file, the manifest last.

    Args:
        directory: with the ONNX file in it.
        run: options, inputs and seconds.
        done: the model, its plan, and what was measured on it.
        trade_off: what other budgets would keep; empty writes none.
        origins: per option where its value came from; None where nobody knows.
    """
    config, loaded, stages = run.config, run.loaded, run.stages
    keep_engine(directory / MODEL, loaded.target)
    plan, profile, validation = done.proposal.plan, done.proposal.profile, done.validation
    if loaded.target.ort is not None:
        write_ort(directory / MODEL, directory / "engine", deployment_feed(config, loaded), loaded.target.ort)
    save_model(done.model, directory)
    # Both loaders look beside model.onnx: optimum for config.json, a tokenizer for its own files.
    loaded.checkpoint.model.config.save_pretrained(directory)
    save_tokenizer(loaded.checkpoint.tokenizer, directory, config.seq_len)
    task = loaded.checkpoint.task
    if isinstance(task, SentenceSimilarity):
        longest = min(float(config.seq_len), longest_text(loaded.checkpoint.tokenizer))
        write_sentence_files(directory, task, loaded.shape.hidden_size, int(longest))
    (directory / PLAN).write_text(plan.to_json(), encoding="utf-8")
    if profile is not None:
        (directory / PROFILE).write_text(profile.to_json(), encoding="utf-8")
    if validation is not None:
        (directory / VALIDATION).write_text(dump(validation.to_json()), encoding="utf-8")
    if done.outcomes is not None:
        (directory / OUTCOMES).write_text(compact(done.outcomes.to_json()), encoding="utf-8")
    if trade_off:
        (directory / TRADE_OFF).write_text(dump(list(trade_off)), encoding="utf-8")
    prompt = task.prompt if isinstance(task, SentenceSimilarity) else ""
    (directory / CARD).write_text(card(config, plan, validation, prompt), encoding="utf-8")
    facts = described(
        {
            **inputs_of(run, origins),
            "export": asdict(done.exported.report),
            "engine": done.exported.engine.to_json(),
            "reconstruction": asdict(done.repairs),
            "device": None if validation is None else validation.deployment.device,
            "seconds": stages.seconds,
            "reused": [] if stages.memory is None else stages.memory.reused,
        }
    )
    model_sha256 = sha256_of(directory / MODEL)
    try:
        (directory / SBOM).write_text(sbom_text(facts, model_sha256), encoding="utf-8")
    except ConfigError as error:
        # A broken installation is no reason to lose a run.
        stages.info(f"warning: no {SBOM}: {error}")
    report = report_text(
        plan=plan,
        profile=profile,
        validation=validation,
        # The report names the model's hash; its own comes into the manifest once it is written.
        manifest={**facts, "files": {"model.onnx": {"sha256": model_sha256}}},
        trade_off=trade_off,
        training=read_training(directory / TRAINING) if (directory / TRAINING).is_file() else (),
    )
    (directory / REPORT).write_text(report, encoding="utf-8")
    write_manifest(directory, facts)


def inputs_of(run: Run, origins: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Inputs of a run, for the manifest: configuration, model, data, seed, date.

    Args:
        run: options and inputs.
        origins: per option where its value came from; None where nobody knows.
    """
    config, loaded = run.config, run.loaded
    return {
        "configuration": config.model_dump(mode="json"),
        **({"origins": dict(origins)} if origins else {}),
        "model": {"name": config.model, "sha256": loaded.checkpoint.fingerprint},
        "data": {
            "calibration": {"examples": len(loaded.calibration), "sha256": loaded.calibration.fingerprint()},
            "evaluation": {"examples": len(loaded.evaluation), "sha256": loaded.evaluation.fingerprint()},
        },
        "seed": config.seed,
        **loaded.compute.facts(),
        "task": {"name": loaded.checkpoint.task.name, **loaded.checkpoint.task.settings()},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def renew_validation(
    directory: Path,
    manifest: Mapping[str, Any],
    found: Evaluated,
    config: RunConfig,
    plan: Plan,
    target: Target,
) -> None:
    """Replace validation.json, card and report, and their hashes in the manifest; what it says of other files stays.

    The engine of a target that is here is made where the artifact has none yet.

    Args:
        directory: the artifact.
        manifest: its manifest.
        found: what was measured now.
        config: options that it was measured with.
        plan: what the artifact keeps.
        target: what it was measured on.
    """
    engine = {file.relative_to(directory).as_posix() for file in keep_engine(directory / MODEL, target)}
    validation = found.validation
    texts = {
        VALIDATION: dump(validation.to_json()),
        CARD: card(config, plan, validation, manifest.get("task", {}).get("prompt", "")),
        OUTCOMES: compact(found.outcomes.to_json()),
    }
    for name, text in texts.items():
        temporary = directory / f".{name}.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(directory / name)
    facts = {k: v for k, v in manifest.items() if k not in ("format", "versions", "command", "files", SEAL)}
    facts = {**facts, "device": validation.deployment.device}
    write_manifest(directory, facts, manifest["files"], engine | set(texts))
    renew_report(directory)


def card(config: RunConfig, plan: Plan, validation: Validation | None, prompt: str = "") -> str:
    """The artifact's README.md: what it is, what was measured, how to use it.

    Args:
        config: resolved options.
        plan: what was kept.
        validation: what was measured; None where nothing was.
        prompt: text that every text begins with.
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
        lines += _measured(plan, validation)
    lines += [
        *([f"Measured with the prompt {prompt!r} before every text: put it there in use too.", ""] if prompt else []),
        "```python",
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx")',
        "",
        "import compress",
        'model = compress.load(".")  # an ordinary transformers model, for PyTorch',
        "```",
        "",
        "What was kept:",
        "",
        "```",
        plan.explain(),
        "```",
    ]
    return "\n".join(lines) + "\n"


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
    trained = validation.fine_pruned
    if trained is not None:
        lines += [
            f"Fine-pruned by the recipe `{trained.recipe}`: {trained.before.name} {trained.before.compressed:.4f} "
            f"before it, {metric.compressed:.4f} after it (`training.csv` has the curves).",
            "",
        ]
    if deployment.engine is not None and deployment.engine.scheme in IN_GRAPH:
        lines += [_SEVEN_BITS if deployment.engine.reduce_range else _EIGHT_BITS, ""]
    kept = () if deployment.engine is None else deployment.engine.left_out
    if kept:
        lines += [f"Kept in fp32: {', '.join(f'`{name}`' for name in kept)}.", ""]
    return lines


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
        elif row.kind == "metric":
            yield f"| {row.name}, {validation.metric.examples} examples | {dense:.4f} | {ours:.4f} |"
        elif row.kind == "size":
            yield f"| model.onnx, MB | {dense / 1e6:.1f} | {ours / 1e6:.1f} |"
        elif row.kind == "macs":
            yield f"| encoder MACs | 1 | {ours:.3f} |"
        elif row.kind == "drift":
            yield f"| largest difference of answers by batch, order and padding | | {ours:.2g} |"
