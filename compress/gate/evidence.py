"""What an artifact says of itself, checked: its files against the manifest, its records for sense.

Law (``tests/gate/test_evidence.py``): whatever the files hold, the result is ``Evidence`` or a ``CompressError``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.artifact.files import MODEL, OUTCOMES, VALIDATION
from compress.artifact.manifest import NAME, files_of, read_manifest
from compress.artifact.outcomes import OtherFormat, Outcomes
from compress.artifact.validation import READING, KeptFile, Validation
from compress.artifact.verify import refuse_damage
from compress.core.errors import ArtifactError, ConfigError
from compress.core.parsing import Missing, Unreadable, parse_json, printable, read_text
from compress.core.statistics import Interval

# What makes two latencies comparable.
_DEVICE = ("processor", "gpu", "compute_capability", "cores", "threads", "system", "runtime", "cuda_graphs")
_DEPLOYMENT = ("target", "batch_size", "seq_len")


@dataclass(frozen=True)
class Evidence:
    """An artifact as a gate sees it.

    Attributes:
        artifact: its directory.
        manifest: its manifest.
        sizes: bytes of every file that is there, by name.
        validation: None where it was never validated.
        outcomes: None where none are kept.
        unlisted: files that the manifest does not list.
        file: the model that its records are about.
    """

    artifact: Path
    manifest: Mapping[str, Any]
    sizes: Mapping[str, int]
    validation: Validation | None
    outcomes: Outcomes | None
    unlisted: tuple[str, ...]
    file: str = MODEL

    @property
    def device(self) -> str:
        """Where it was measured, in words."""
        described = {} if self.validation is None else self.validation.deployment.device
        name = described.get("gpu") or described.get("processor") or "an unknown device"
        return printable(f"{name}, {described.get('threads', '?')} threads")

    @property
    def data(self) -> Any:
        """Fingerprint of the evaluation data; None where nothing has it."""
        return self.outcomes.data if self.outcomes else _at(self.manifest, "data", "evaluation", "sha256")

    @property
    def dense(self) -> Any:
        """Fingerprint of the dense model's weights; None where the manifest has none."""
        return _at(self.manifest, "model", "sha256")

    def age_days(self, now: datetime.datetime) -> float | None:
        """How long ago it was validated, negative in the future; None where the date cannot be read."""
        if self.validation is None:
            return None
        try:
            then = datetime.datetime.fromisoformat(self.validation.date)
        except ValueError:
            return None
        if then.tzinfo is None:
            then = then.replace(tzinfo=datetime.timezone.utc)
        return (now - then).total_seconds() / 86400


def gather(artifact: str | Path) -> Evidence:
    """Read an artifact.

    Raises:
        ArtifactError: it is none, is damaged, or was written by a newer version.
    """
    root = Path(artifact)
    manifest = read_manifest(root)
    findings = refuse_damage(root)
    return Evidence(
        artifact=root,
        manifest=manifest,
        sizes={name: file.stat().st_size for name, file in files_of(root).items() if file.is_file()}
        | {NAME: (root / NAME).stat().st_size},
        validation=read_validation(root),
        outcomes=_read_outcomes(root),
        unlisted=tuple(finding.file for finding in findings if finding.problem == "extra"),
    )


def about(evidence: Evidence, file: str | None) -> Evidence:
    """The same artifact with the records of another of its model files.

    Args:
        evidence: of the artifact.
        file: model.onnx, or one beside it that `--keep` made; None is model.onnx.

    Raises:
        ConfigError: there is no record of such a file.
    """
    if file in (None, MODEL):
        return evidence
    kept = [] if evidence.validation is None else [one.file for one in evidence.validation.kept]
    found = None if evidence.validation is None else evidence.validation.about(str(file))
    if found is None:
        raise ConfigError(
            f"--file {file}: '{evidence.artifact}' has no record of such a file; it has {', '.join([MODEL, *kept])}"
        )
    # Examples one by one are on record of model.onnx alone.
    return replace(evidence, validation=found, outcomes=None, file=str(file))


def read_validation(artifact: Path) -> Validation | None:
    """``validation.json`` of an artifact; None where it has none.

    Raises:
        ArtifactError: it is damaged.
    """
    file = artifact / VALIDATION
    try:
        found = Validation.model_validate(parse_json(read_text(file)), context=READING)
    except Missing:
        return None
    except Unreadable as error:
        raise ArtifactError(f"'{file}' is damaged: {error}; run `compress validate`") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise ArtifactError(f"'{file}' is damaged: {where}: {first['msg']}; run `compress validate`") from None
    each: list[Validation | KeptFile] = [found, *found.kept]
    intervals = [(one.latency_ms.compressed, one.latency_ms.ci95) for one in each]
    intervals += [(one.speedup.value, one.speedup.ci95) for one in each]
    for value, bounds in intervals:
        if value is not None and (bounds is None or min(bounds) <= 0):
            raise ArtifactError(f"'{file}' is damaged: {value:g} has no interval; run `compress validate`")
    return found


def _read_outcomes(artifact: Path) -> Outcomes | None:
    file = artifact / OUTCOMES
    try:
        return Outcomes.from_json(parse_json(read_text(file)))
    except (Missing, OtherFormat):
        return None  # of another version: without it intervals are wider, and that is all
    except (Unreadable, ValueError) as error:
        raise ArtifactError(f"'{file}' is damaged: {error}; run `compress validate`") from None


def comparable(candidate: Evidence, baseline: Evidence) -> list[str]:
    """Differences of device and deployment between two validations.

    Args:
        candidate: an artifact.
        baseline: the one that it is compared with.

    Returns:
        A text per difference; empty where latencies can be compared.
    """
    if candidate.validation is None or baseline.validation is None:
        return []
    mine, theirs = candidate.validation.deployment, baseline.validation.deployment
    pairs = [(name, getattr(mine, name), getattr(theirs, name)) for name in _DEPLOYMENT]
    pairs += [(name, mine.device.get(name), theirs.device.get(name)) for name in _DEVICE]
    return [printable(f"{name.replace('_', ' ')} {ours}, not {other}") for name, ours, other in pairs if ours != other]


def interval(value: float, bounds: tuple[float, float]) -> Interval:
    """An interval of validation.json.

    Args:
        value: the estimate.
        bounds: its 95 % interval; one that does not hold the value is widened to it.
    """
    return Interval(value, min(value, *bounds), max(value, *bounds))


def _at(document: Any, *path: str) -> Any:
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document
