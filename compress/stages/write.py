"""The files of an artifact around the model: plan, profile, validation, configuration, card, manifest."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress._version import __version__
from compress.artifact.files import OUTCOMES, TRADE_OFF, TRAINING, compact, dump
from compress.artifact.manifest import SEAL, described, write_manifest
from compress.artifact.model import save_model
from compress.artifact.sbom import NAME as SBOM
from compress.artifact.sbom import sbom_text
from compress.artifact.sparse import card as sparse_card
from compress.artifact.sparse import is_sparse
from compress.artifact.validation import apart
from compress.core.errors import ConfigError
from compress.core.hashing import sha256_of
from compress.core.plan import Plan
from compress.export.ort_format import write_ort
from compress.export.tensorrt import keep_engine
from compress.options.run_config import RunConfig
from compress.profile.target import Target
from compress.report.sources import read_training
from compress.report.write import NAME as REPORT
from compress.report.write import renew_report, report_text
from compress.stages.context import Run
from compress.stages.dense_model import deployment_feed

if TYPE_CHECKING:
    from compress.stages.results import Finished


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
        done: the candidate that was chosen.
        trade_off: what other budgets would keep; empty writes none.
        origins: per option where its value came from; None where nobody knows.
    """
    config, loaded, stages = run.config, run.loaded, run.stages
    keep_engine(directory / "model.onnx", loaded.target)
    plan, profile, validation = done.proposal.plan, done.proposal.profile, done.validation
    if loaded.target.ort is not None:
        write_ort(directory / "model.onnx", directory / "engine", deployment_feed(config, loaded), loaded.target.ort)
    save_model(done.model, directory)
    # Both loaders look beside model.onnx: optimum for config.json, a tokenizer for its own files.
    loaded.checkpoint.model.config.save_pretrained(directory)
    loaded.checkpoint.tokenizer.save_pretrained(directory)
    (directory / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    if profile is not None:
        (directory / "profile.json").write_text(profile.to_json(), encoding="utf-8")
    if validation is not None:
        recorded, outcomes = apart(validation)
        (directory / "validation.json").write_text(dump(recorded), encoding="utf-8")
        if outcomes is not None:
            (directory / OUTCOMES).write_text(compact(outcomes), encoding="utf-8")
    if trade_off:
        (directory / TRADE_OFF).write_text(dump(list(trade_off)), encoding="utf-8")
    (directory / "README.md").write_text(card(config, plan, validation), encoding="utf-8")
    facts = described(
        {
            **inputs_of(run, origins),
            "export": asdict(done.exported.report),
            "engine": done.exported.engine.to_json(),
            "reconstruction": asdict(done.repairs),
            "device": None if validation is None else validation["deployment"]["device"],
            "seconds": stages.seconds,
            "reused": [] if stages.memory is None else stages.memory.reused,
        }
    )
    model_sha256 = sha256_of(directory / "model.onnx")
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
        "task": {"name": loaded.checkpoint.task.name, **loaded.checkpoint.task.settings()},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def renew_validation(
    directory: Path,
    manifest: Mapping[str, Any],
    validation: Mapping[str, Any],
    config: RunConfig,
    plan: Plan,
    target: Target,
) -> None:
    """Replace validation.json, card and report, and their hashes in the manifest; what it says of other files stays.

    The engine of a target that is here is made where the artifact has none yet.
    """
    engine = {file.relative_to(directory).as_posix() for file in keep_engine(directory / "model.onnx", target)}
    recorded, outcomes = apart(validation)
    texts = {"validation.json": dump(recorded), "README.md": card(config, plan, validation)}
    if outcomes is not None:
        texts[OUTCOMES] = compact(outcomes)
    for name, text in texts.items():
        temporary = directory / f".{name}.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(directory / name)
    facts = {k: v for k, v in manifest.items() if k not in ("format", "versions", "command", "files", SEAL)}
    write_manifest(
        directory, {**facts, "device": validation["deployment"]["device"]}, manifest["files"], engine | set(texts)
    )
    renew_report(directory)


def _predicted(plan: Plan) -> list[str]:
    """Rows of the card where nothing was timed."""
    if plan.predicted_ms is None or plan.dense_ms is None:
        return ["| latency, ms | not measured | not measured |"]
    how = "**estimated** from a data sheet" if plan.estimated else "predicted, not timed"
    return [
        f"| latency, ms, {how} | {plan.dense_ms:.3f} | {plan.predicted_ms:.3f} |",
        f"| speed-up, {how} | 1 | {plan.dense_ms / plan.predicted_ms:.2f} |",
    ]


def card(config: RunConfig, plan: Plan, validation: Mapping[str, Any] | None) -> str:
    """The artifact's README.md: what it is, what was measured, how to use it."""
    name = Path(config.model).name
    if validation is not None and is_sparse(validation):
        return sparse_card(name, validation)
    lines = [
        f"# {name}, compressed",
        "",
        f"Made by compress {__version__} from `{name}`: budget {plan.budget}, method `{plan.method}`, target "
        f"`{config.target}`, batch {config.batch_size}, length {config.seq_len}.",
        "",
    ]
    if validation is not None:
        latency, metric, size = validation["latency_ms"], validation["metric"], validation["size_bytes"]
        device = validation["deployment"]["device"]
        timed = latency["compressed"] is not None
        lines += ["| | dense | compressed |", "|---|---|---|"]
        if timed:
            lines += [
                f"| latency, ms (median) | {latency['dense']:.2f} | {latency['compressed']:.2f} |",
                f"| speed-up | 1 | {validation['speedup']['value']:.2f} |",
            ]
        else:
            lines += _predicted(plan)
        lines += [
            f"| {metric['name']}, {metric['examples']} examples | {metric['dense']:.4f} | {metric['compressed']:.4f} |",
            f"| model.onnx, MB | {size['dense'] / 1e6:.1f} | {size['compressed'] / 1e6:.1f} |",
            f"| encoder MACs | 1 | {plan.macs_fraction:.3f} |",
            f"| precision | fp32 | {validation['deployment']['precision']} |",
            "",
            f"{'Measured' if timed else 'All but the latencies measured'} on {device['processor']}, "
            f"{device['threads']} threads, {validation['date'][:10]}"
            f"{', dense and compressed interleaved' if timed else ''}. Verdict: **{validation['verdict']}** "
            f"({validation['reason']}).",
            "",
        ]
    if validation is not None and (trained := validation.get("fine_pruned")):
        lines += [
            f"Fine-pruned by the recipe `{trained['recipe']}`: {trained['before']['name']} "
            f"{trained['before']['compressed']:.4f} before it, {validation['metric']['compressed']:.4f} after it "
            "(`training.csv` has the curves).",
            "",
        ]
    kept = () if validation is None else validation["deployment"]["engine"]["left_out"]
    if kept:
        lines += [f"Kept in fp32: {', '.join(f'`{name}`' for name in kept)}.", ""]
    lines += [
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
