"""What a report is made from: an artifact's files, or a sweep's, as plain values.

validation.json is read by its schema, section by section (``Sections``). Other documents have no schema here: ``Facts``
looks into them. Anybody may have written either: what is absent or damaged is None, and "not known" on the page. A file
that is not JSON at all is an error that names it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact.files import REPORT, SWEEP, TRADE_OFF, TRAINING, VALIDATION
from compress.artifact.manifest import NAME as MANIFEST
from compress.artifact.manifest import read_manifest
from compress.artifact.summary import How, Kind, Row, how_timed, row_of, rows
from compress.artifact.validation import Sections
from compress.artifact.verify import damage
from compress.core.errors import ArtifactError, CompressError
from compress.core.parsing import Unreadable, parse_json, read_text
from compress.core.plan import Plan
from compress.profile.latency_profile import Profile


@dataclass(frozen=True)
class Facts:
    """A JSON document, asked by keys; laws: no question raises, and a number is finite."""

    document: Any

    def at(self, *keys: str) -> Any:
        """What lies under a path of keys; None where there is nothing."""
        found = self.document
        for key in keys:
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return found

    def number(self, *keys: str) -> float | None:
        """The finite number under a path of keys; None for anything else."""
        return as_number(self.at(*keys))

    def text(self, *keys: str) -> str | None:
        """The text under a path of keys; None where it is empty or anything else."""
        found = self.at(*keys)
        return found if isinstance(found, str) and found else None

    def interval(self, *keys: str) -> tuple[float, float] | None:
        """The two numbers of the list under a path of keys; None for anything else."""
        found = self.at(*keys)
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != 2:
            return None
        low, high = map(as_number, found)
        return None if low is None or high is None else (low, high)

    def numbers(self, *keys: str) -> tuple[float, ...]:
        """The numbers of the list under a path of keys; empty where anything else is in it."""
        found = self.at(*keys)
        if not isinstance(found, Sequence) or isinstance(found, str):
            return ()
        values = tuple(map(as_number, found))
        return () if None in values else tuple(value for value in values if value is not None)

    def under(self, *keys: str) -> Facts:
        """Whatever lies under a path of keys, to be asked in turn."""
        return Facts(self.at(*keys))

    def each(self, *keys: str) -> Iterator[Facts]:
        """The objects of a list."""
        found = self.at(*keys)
        for entry in found if isinstance(found, Sequence) and not isinstance(found, str) else ():
            if isinstance(entry, Mapping):
                yield Facts(entry)

    def items(self, *keys: str) -> list[tuple[str, Any]]:
        """Names and values of an object, by name: files have them so, and a report is the same before and after."""
        found = self.at(*keys)
        return [(str(key), found[key]) for key in sorted(found, key=str)] if isinstance(found, Mapping) else []

    def __bool__(self) -> bool:
        return bool(self.document)


def as_number(value: Any) -> float | None:
    """A finite number; None for anything else (true and false are not numbers)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Logged:
    """A line of training.csv; None for what it does not say.

    Attributes:
        phase: its name.
        step: of the phase.
        loss, held_out: on training examples since the line before, and on examples held out.
        budget, cost: of the structure, in the budget's unit.
    """

    phase: str
    step: int
    loss: float | None
    held_out: float | None
    budget: float | None
    cost: float | None


@dataclass(frozen=True)
class Sources:
    """What is known of one artifact.

    Attributes:
        plan: what was kept.
        profile: where latencies come from; None where the artifact has none.
        validation: what was measured; a section that is absent or damaged is None.
        manifest: provenance.
        trade_off: (milliseconds, importance kept, MACs kept) at other budgets, ascending.
        model_sha256: of the exported file; None where it is not known.
        training: what the log of a training says; empty without one.
        name: of the directory.
        left_out: in words, what could not be read, or is not as it was written.
    """

    plan: Plan
    profile: Profile | None
    validation: Sections
    manifest: Facts
    trade_off: tuple[tuple[float, float, float], ...] = ()
    model_sha256: str | None = None
    training: tuple[Logged, ...] = ()
    name: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def how(self) -> How | None:
        """How latencies are known; None where they are not."""
        return how_timed(self.validation, self.plan)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The result table."""
        return rows(self.validation, self.plan)

    def row(self, kind: Kind) -> Row:
        """The row of a quantity; one that knows nothing where there is none."""
        return row_of(self.rows, kind)


def read_sources(directory: Path, *, forgiving: bool = False) -> Sources:
    """An artifact as its files tell it.

    Args:
        directory: the artifact.
        forgiving: whether a damaged profile or trade-off is left out, and said, instead of an error.

    Raises:
        ArtifactError: the directory is not an artifact, or one of its files is damaged.
        PlanError, ProfileError: plan or profile is damaged.
    """
    # The report itself is what is being made.
    said = damage(directory, besides={REPORT})
    left_out = [] if said is None else [f"This artifact {said}."]

    def part(name: str, read: Callable[[Path], Any]) -> Any:
        file = directory / name
        if not file.is_file():
            return None
        try:
            return read(file)
        except CompressError as error:
            if not forgiving:
                raise
            left_out.append(f"{name} is left out of this report: {error}.")
            return None

    manifest, plan = read_manifest(directory), Plan.read(directory)
    profile, curve = part("profile.json", Profile.read), part(TRADE_OFF, read_json)
    return make_sources(
        plan=plan,
        profile=profile,
        validation=read_json(directory / VALIDATION) if (directory / VALIDATION).is_file() else None,
        manifest=manifest,
        trade_off=curve,
        training=part(TRAINING, read_training) or (),
        name=directory.resolve().name,
        left_out=tuple(left_out),
    )


def make_sources(
    *,
    plan: Plan,
    profile: Profile | None,
    validation: Any,
    manifest: Any,
    trade_off: Any = None,
    training: Sequence[Logged] = (),
    name: str = "",
    left_out: tuple[str, ...] = (),
) -> Sources:
    """Sources of a report from values at hand, before they are files.

    Args:
        plan: what was kept.
        profile: where latencies come from; None without one.
        validation: what validation.json holds, as a model or as JSON; None where nothing was measured.
        manifest: what manifest.json holds; of the files only that of ``model.onnx`` is needed.
        trade_off: what tradeoff.json holds; None without.
        training: lines of training.csv; empty without training.
        name: of the directory.
        left_out: in words, what could not be read.
    """
    known = Facts(manifest)
    points = []
    for point in Facts({"points": trade_off}).each("points"):
        values = tuple(point.number(key) for key in ("latency_ms", "importance_kept", "macs_fraction"))
        points.append(tuple(value for value in values if value is not None))
    return Sources(
        plan=plan,
        profile=profile,
        validation=Sections.of(validation),
        manifest=known,
        trade_off=tuple(sorted((p[0], p[1], p[2]) for p in points if len(p) == 3)),
        model_sha256=known.text("files", "model.onnx", "sha256"),
        training=tuple(training),
        name=name,
        left_out=left_out,
    )


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises:
        ArtifactError: it cannot be read, is too large, or is not JSON.
    """
    try:
        return parse_json(read_text(file))
    except Unreadable as error:
        raise ArtifactError(f"cannot read '{file}': {error}; make the artifact again") from None


def read_training(file: Path) -> tuple[Logged, ...]:
    """The log of a training; anything in it that is not a number is None.

    Raises:
        ArtifactError: it cannot be read, or is not such a log.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(file), newline="")))
    except (Unreadable, csv.Error) as error:
        raise ArtifactError(f"cannot read '{file}': {error}; make the artifact again") from None
    found = []
    for row in rows:
        step, numbers = _parsed(row.get("step")), {name: _parsed(row.get(name)) for name in _LOGGED}
        if not row.get("phase") or step is None:
            raise ArtifactError(
                f"'{file}' is not a log of a training: a line has no phase or step; make the artifact again"
            )
        found.append(Logged(str(row["phase"]), int(step), **numbers))
    return tuple(found)


_LOGGED = ("loss", "held_out", "budget", "cost")


# Larger values are not losses, and would leave no room for others in a picture.
_MOST = 1e30


def _parsed(text: Any) -> float | None:
    try:
        number = as_number(float(text))
    except (TypeError, ValueError):
        return None
    return None if number is None or abs(number) > _MOST else number


def is_sweep(directory: Path) -> bool:
    """Whether a directory is what `compress sweep` wrote."""
    return (directory / SWEEP).is_file() and not (directory / MANIFEST).exists()
