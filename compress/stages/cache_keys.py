"""Inputs that several stages depend on, as plain JSON types: model, deployment, calibration."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from compress.cache.entry import canonical
from compress.profile.device import describe_device

if TYPE_CHECKING:
    from compress.profile.target import Target
    from compress.stages.context import Run
    from compress.stages.stage import Inputs


def model_inputs(run: Run) -> Inputs:
    """The dense model: weights, sizes, task."""
    checkpoint = run.loaded.checkpoint
    return {"weights": checkpoint.fingerprint, **sizes_inputs(run), **checkpoint.task.settings()}


def sizes_inputs(run: Run) -> Inputs:
    """A graph of the model, whatever its weights."""
    checkpoint = run.loaded.checkpoint
    # Where it was loaded from and by which release does not matter; the latter is among the versions.
    described = {
        name: value
        for name, value in checkpoint.model.config.to_dict().items()
        if name not in ("_name_or_path", "transformers_version")
    }
    return {
        "class": type(checkpoint.model).__name__,
        "task": checkpoint.task.name,
        "configuration": digest(json.dumps(described, sort_keys=True, default=str)),
    }


def deployment_inputs(run: Run) -> Inputs:
    """Where and how latencies hold: sizes, batch, length, target, device."""
    return {
        "sizes": sizes_inputs(run),
        "inputs": list(run.loaded.input_names),
        "batch_size": run.config.batch_size,
        "seq_len": run.config.seq_len,
        "target": target_inputs(run.loaded.target),
        "device": device_inputs(run.loaded.target),
    }


def target_inputs(target: Target) -> Inputs:
    """A target's file without its description."""
    return target.model_dump(mode="json", exclude={"description"})


def device_inputs(target: Target) -> Inputs:
    """The device's description without the clock of a GPU, which is another one every second."""
    return {name: value for name, value in describe_device(target).items() if name != "gpu_clock_mhz"}


def calibration_inputs(run: Run) -> Inputs:
    """Model, examples and method of a calibration."""
    return {
        "model": model_inputs(run),
        "data": run.loaded.calibration.fingerprint(),
        "method": run.config.method,
        "label_free": run.config.label_free,
        "seed": run.config.seed,
        **run.loaded.compute.inputs(),
    }


def digest(document: Any) -> str:
    """SHA-256 (hex) of plain JSON types."""
    return hashlib.sha256(canonical(document)).hexdigest()
