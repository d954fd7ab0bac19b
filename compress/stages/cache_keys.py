"""What every stored result of a run rests on: one function a step, its inputs and nothing else.

A result is used again where all of its inputs are equal. So an option that is named here redoes this step and those
that rest on it, and no other: a new budget leaves profile and calibration as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.manifest import versions
from compress.cache.entry import canonical
from compress.cache.memo import Step
from compress.core.importance import Importance
from compress.core.plan import Plan, Widths
from compress.export.lowering import Engine
from compress.inputs.load import Loaded
from compress.options.effort import EFFORT
from compress.options.run_config import RunConfig
from compress.profile.target import Precision, Target, describe_device
from compress.stages import cache_codecs

if TYPE_CHECKING:
    from compress.export.measure import LatencyComparison
    from compress.profile.take import Profile
    from compress.search.size_limit import Room
    from compress.stages.results import Evaluated, Exported, Repairs

Inputs = dict[str, Any]
# Their names, in the order of a run.
ORDER = ("dense", "form", "profile", "calibrate", "try-out", "check", "reconstruct", "export", "validate")


def export_dense(loaded: Loaded) -> Step[Path]:
    """The dense model as ONNX."""
    return _step("dense", {"model": _model(loaded), "inputs": list(loaded.input_names)}, cache_codecs.FILE, loaded)


def choose_form(
    config: RunConfig, loaded: Loaded, target: Target, precision: Precision, widths: Widths
) -> Step[Engine]:
    """The fastest form of a precision, by timing all there are."""
    inputs = {
        "deployment": _deployment(config, loaded, target),
        "precision": precision,
        "heads": list(widths.heads),
        "filters": list(widths.filters),
    }
    return _step("form", inputs, cache_codecs.ENGINE, loaded, precision)


def take_profile(config: RunConfig, loaded: Loaded, engine: Engine) -> Step[Profile]:
    """The latency table: of the model's sizes, not of its weights, nor of the data."""
    inputs = {
        "deployment": _deployment(config, loaded, loaded.target),
        "engine": engine.to_json(),
        "measured_seconds": EFFORT[config.effort].profile_seconds,
        "seed": config.seed,
    }
    return _step("profile", inputs, cache_codecs.PROFILE, loaded, engine.precision)


def calibrate(config: RunConfig, loaded: Loaded) -> Step[Importance]:
    """What every head and filter is worth."""
    return _step("calibrate", _calibration(config, loaded), cache_codecs.IMPORTANCE, loaded, config.method)


def try_out(
    config: RunConfig, loaded: Loaded, profile: Profile | None, share: float, room: Room | None
) -> Step[NDArray[np.float64]]:
    """Coefficients of the sublayers' losses, from structures tried out as a whole."""
    inputs = {
        "calibration": _calibration(config, loaded),
        "budget": [config.budget.kind, config.budget.value],
        "costs": None if profile is None else digest(asdict(profile.table)),
        "share": share,
        "room": None if room is None else asdict(room),
        "candidates": EFFORT[config.effort].candidates if config.search_seconds is None else None,
        "seconds": config.search_seconds,
    }
    return _step("try-out", inputs, cache_codecs.ARRAY, loaded, "" if profile is None else profile.precision)


def check(config: RunConfig, loaded: Loaded, engine: Engine, plan: Plan, profile: Profile) -> Step[LatencyComparison]:
    """A planned structure, timed. The profile that it was planned with tells one check from the next."""
    inputs = {
        "deployment": _deployment(config, loaded, loaded.target),
        "engine": engine.to_json(),
        "plan": digest(plan.to_json()),
        "profile": digest(profile.to_json()),
    }
    return _step("check", inputs, cache_codecs.TIMED, loaded, engine.precision)


def reconstruct(config: RunConfig, loaded: Loaded, plan: Plan) -> Step[tuple[Any, Repairs]]:
    """The pruned model, repaired."""
    return _step("reconstruct", _reconstruction(config, loaded, plan), cache_codecs.pruned(loaded, plan), loaded)


def export(config: RunConfig, loaded: Loaded, engine: Engine, plan: Plan) -> Step[Exported]:
    """The file of the artifact."""
    return _step("export", _export(config, loaded, engine, plan), cache_codecs.EXPORTED, loaded, engine.precision)


def validate(config: RunConfig, loaded: Loaded, exported: Exported, plan: Plan, profile: Profile) -> Step[Evaluated]:
    """What was measured on the file."""
    inputs = {
        "export": _export(config, loaded, exported.engine, plan),
        "deployment": _deployment(config, loaded, loaded.target),
        "plan": digest(plan.to_json()),
        "profile": digest(profile.to_json()),
        "size_mb": config.size_mb,
    }
    return _step("validate", inputs, cache_codecs.EVALUATED, loaded, exported.engine.precision)


def _step(name: str, inputs: Inputs, codec: Any, loaded: Loaded, of: str = "") -> Step[Any]:
    label = f"{loaded.checkpoint.name}, {of}" if of else loaded.checkpoint.name
    return Step(name, {**inputs, "software": _software()}, codec, label)


def _model(loaded: Loaded) -> Inputs:
    checkpoint = loaded.checkpoint
    return {"weights": checkpoint.fingerprint, **_sizes(loaded), **checkpoint.task.settings()}


def _sizes(loaded: Loaded) -> Inputs:
    """What a graph of the model looks like, whatever its weights."""
    config = loaded.checkpoint.model.config.to_dict()
    # Where it was loaded from and by which release does not matter; the latter is among the versions.
    described = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    return {
        "class": type(loaded.checkpoint.model).__name__,
        "task": loaded.checkpoint.task.name,
        "configuration": digest(json.dumps(described, sort_keys=True, default=str)),
    }


def _deployment(config: RunConfig, loaded: Loaded, target: Target) -> Inputs:
    """Where and how latencies hold."""
    return {
        "sizes": _sizes(loaded),
        "inputs": list(loaded.input_names),
        "batch_size": config.batch_size,
        "seq_len": config.seq_len,
        "target": target.model_dump(mode="json", exclude={"description"}),
        "device": _device(target),
    }


def _device(target: Target) -> Inputs:
    """Its description without the clock of a GPU, which is another one every second."""
    return {name: value for name, value in describe_device(target).items() if name != "gpu_clock_mhz"}


def _calibration(config: RunConfig, loaded: Loaded) -> Inputs:
    return {
        "model": _model(loaded),
        "data": loaded.calibration.fingerprint(),
        "method": config.method,
        "label_free": config.label_free,
        "seed": config.seed,
    }


def _reconstruction(config: RunConfig, loaded: Loaded, plan: Plan) -> Inputs:
    effort = EFFORT[config.effort]
    return {
        "calibration": _calibration(config, loaded),
        "structure": digest(asdict(plan.structure)),
        "epochs": effort.epochs,
        "most_flops": effort.most_flops,
    }


def _export(config: RunConfig, loaded: Loaded, engine: Engine, plan: Plan) -> Inputs:
    return {
        "model": _reconstruction(config, loaded, plan),
        "engine": {**engine.to_json(), "left_out": None},
        "evaluation": loaded.evaluation.fingerprint(),
        "int8_drop": config.int8_drop,
        "batch_size": config.batch_size,
        "target": loaded.target.model_dump(mode="json", exclude={"description"}),
        "device": _device(loaded.target),
    }


def digest(document: Any) -> str:
    """SHA-256 (hex) of plain JSON types."""
    return hashlib.sha256(canonical(document)).hexdigest()


@lru_cache(maxsize=1)
def _software() -> Mapping[str, str]:
    """Versions that decide results, and a digest of this package's own code: a changed line is another version."""
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    # Some of its folders are links, in an editable installation.
    folders = [Path(folder) for folder, _, _ in os.walk(package, followlinks=True)]
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        code.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return {**versions(), "code": code.hexdigest()}
