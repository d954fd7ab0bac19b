"""The files of an artifact around the model: plan, profile, validation, configuration, card, manifest."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.files import (
    CARD,
    HEAD,
    MODEL,
    OUTCOMES,
    PLAN,
    PROFILE,
    TRADE_OFF,
    TRAINING,
    VALIDATION,
    compact,
    dump,
)
from compress.artifact.manifest import SEAL, described, write_manifest
from compress.artifact.model import save_model, save_padded
from compress.artifact.sbom import NAME as SBOM
from compress.artifact.sbom import sbom_text
from compress.artifact.sentence_files import write_head, write_sentence_files
from compress.artifact.tokenizer_files import save_tokenizer
from compress.core.errors import ConfigError, PlanError
from compress.core.hashing import sha256_of
from compress.core.plan import Plan
from compress.export.ort_format import write_ort
from compress.export.runtime import keep_engine
from compress.inputs.tokenizer_settings import longest_text
from compress.options.run_config import RunConfig
from compress.profile.target import Target
from compress.report.sources import read_training
from compress.report.write import NAME as REPORT
from compress.report.write import renew_report, report_text
from compress.stages.card import card
from compress.stages.context import Run
from compress.stages.dense_model import deployment_feed
from compress.tasks import SentenceSimilarity
from compress.tasks.classified_embedding import ClassifiedEmbedding

if TYPE_CHECKING:
    from compress.stages.results import Evaluated, Finished, Kept


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
    engine = keep_engine(directory / MODEL, loaded.target)
    if engine.said:
        stages.info(f"engine: {engine.said}")
    plan, profile, validation = done.proposal.plan, done.proposal.profile, done.validation
    if loaded.target.ort is not None:
        write_ort(directory / MODEL, directory / "engine", deployment_feed(config, loaded), loaded.target.ort)
    save_model(done.model, directory)
    # Both loaders look beside model.onnx: optimum for config.json, a tokenizer for its own files.
    loaded.checkpoint.model.config.save_pretrained(directory)
    if config.pytorch == "padded":
        try:
            save_padded(done.model, plan.structure, directory)
        except PlanError as error:
            stages.info(f"warning: no padded checkpoint: {error}")
    save_tokenizer(loaded.checkpoint.tokenizer, directory, config.seq_len)
    task = loaded.checkpoint.task
    encoder = task.encoder if isinstance(task, ClassifiedEmbedding) else task
    if isinstance(encoder, SentenceSimilarity):
        longest = min(float(config.seq_len), longest_text(loaded.checkpoint.tokenizer))
        write_sentence_files(directory, encoder, loaded.shape.hidden_size, int(longest))
    if isinstance(task, ClassifiedEmbedding):
        write_head(directory / HEAD, task.head)
    (directory / PLAN).write_text(plan.to_json(), encoding="utf-8")
    if profile is not None:
        (directory / PROFILE).write_text(profile.to_json(), encoding="utf-8")
    if validation is not None:
        (directory / VALIDATION).write_text(dump(validation.to_json()), encoding="utf-8")
    if done.outcomes is not None:
        (directory / OUTCOMES).write_text(compact(done.outcomes.to_json()), encoding="utf-8")
    if trade_off:
        (directory / TRADE_OFF).write_text(dump(list(trade_off)), encoding="utf-8")
    facts = described(
        {
            **inputs_of(run, origins),
            "export": asdict(done.exported.report),
            "engine": done.exported.engine.to_json(),
            **({"kept": {one.name: _made(one) for one in done.kept}} if done.kept else {}),
            "reconstruction": asdict(done.repairs),
            "device": None if validation is None else validation.deployment.device,
            "seconds": stages.seconds,
            "spent": stages.spent.document(),
            "reused": [] if stages.memory is None else stages.memory.reused,
        }
    )
    (directory / CARD).write_text(card(config, plan, validation, facts["task"], directory), encoding="utf-8")
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


def _made(kept: Kept) -> dict[str, Any]:
    return {"engine": kept.exported.engine.to_json(), "export": asdict(kept.exported.report)}


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
            "further": {"examples": len(loaded.further), "sha256": loaded.further.fingerprint()},
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
    engine = {file.relative_to(directory).as_posix() for file in keep_engine(directory / MODEL, target).files}
    validation = found.validation
    texts = {
        VALIDATION: dump(validation.to_json()),
        CARD: card(config, plan, validation, manifest.get("task") or {}, directory),
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
