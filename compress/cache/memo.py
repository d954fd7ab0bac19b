"""Memoises the results of stages: stores them for the next run, and uses those of earlier runs again.

Every run writes, only ``--resume`` reads. A run without it measures and computes everything itself: its figures are of
now, and a resumed run can be compared with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from compress.cache.entry import Damaged, Entry, key_of
from compress.cache.store import Store
from compress.core.errors import CompressError

T = TypeVar("T")

# A device may have changed since (other load, other clock, other libraries below ours): said from this age on.
OLD_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Codec(Generic[T]):
    """Writes a result into files and reads it again. What is read equals what was written.

    Attributes:
        write: writes a result into a directory.
        read: reads it from a directory, which stays as long as the run.
    """

    write: Callable[[T, Path], None]
    read: Callable[[Path], T]


@dataclass(frozen=True)
class Step(Generic[T]):
    """The address of one result of a stage: all that it depends on.

    Attributes:
        name: name of the stage, as `compress cache` shows it.
        inputs: plain JSON types; equal inputs give equal results, or equally good measurements.
        codec: how the result is stored.
        label: the model's name and the precision, for people.
        measured: whether the result is a measurement, which a change of the device makes wrong.
    """

    name: str
    inputs: Mapping[str, Any]
    codec: Codec[T]
    label: str = ""
    measured: bool = False


class NotStored(Exception):
    """A result is not stored, and it must not be made.

    Attributes:
        step: the address of the result.
    """

    def __init__(self, step: Step[Any]) -> None:
        super().__init__(step.name)
        self.step = step


@dataclass
class Memory:
    """The store, as one run uses it.

    Attributes:
        store: where results are.
        scratch: directory of the run, for files that are read.
        reading: whether results of earlier runs are used.
        making: whether results that are not stored are made; False for a dry run.
        reused: results used again: stage, label, when each was made, and the seconds that it took then.
        met: every result asked for, and its entry; None where it is not stored.
    """

    store: Store
    scratch: Path
    reading: bool = False
    making: bool = True
    reused: list[dict[str, Any]] = field(default_factory=list)
    met: list[tuple[Step[Any], Entry | None]] = field(default_factory=list)

    def result(self, step: Step[T], make: Callable[[], T], say: Callable[[str], None]) -> T:
        """Return the result of a step: an earlier run's, or a new one, which is stored.

        Args:
            step: the address of the result.
            make: makes the result.
            say: told which results are used again, and which cannot be.

        Raises:
            NotStored: the result is not stored, and nothing is made.
        """
        found = self._recalled(step, say) if self.reading else None
        self.met.append((step, found[0] if found else None))
        if found:
            return found[1]
        if not self.making:
            raise NotStored(step)
        start = time.perf_counter()
        value = make()
        seconds = time.perf_counter() - start
        reason = self.store.keep(
            step.name, step.inputs, lambda folder: step.codec.write(value, folder), label=step.label, seconds=seconds
        )
        if reason is not None:
            say(f"warning: the result of '{step.name}' is not stored for --resume: {reason}")
        return value

    def _recalled(self, step: Step[T], say: Callable[[str], None]) -> tuple[Entry, T] | None:
        folder = self.scratch / "remembered" / f"{step.name}-{key_of(step.name, step.inputs)}"
        try:
            entry = self.store.find(step.name, step.inputs, folder)
            if entry is None:
                return None
            value = step.codec.read(folder)
        except (Damaged, CompressError, ValueError) as error:
            then = "it is made again" if self.making else "it would be made again"
            say(f"warning: the stored result of '{step.name}' is damaged and not used: {error}; {then}")
            return None
        age = entry.age_seconds()
        self.reused.append(
            {"stage": step.name, "label": step.label, "made": entry.made, "seconds": entry.seconds},
        )
        old = step.measured and age > OLD_SECONDS
        say(
            f"{step.name}{f' ({step.label})' if step.label else ''}: stored {duration(age)} ago, took "
            f"{entry.seconds:.1f} s then, used again"
            + ("; the device may have changed since: without --resume it is measured anew" if old else "")
        )
        return entry, value


@dataclass(frozen=True)
class Foreseen:
    """One result that a run would need, of a dry run.

    Attributes:
        stage: name of the stage, as `compress cache` shows it.
        label: the model's name and the precision; empty where they depend on results that are not stored.
        stored: whether ``--resume`` would use it again.
        age_seconds: age of the stored result; None where there is none.
        last_seconds: seconds that it took when it was made; where it is not stored, seconds that the stage took last
            time; None where that is not known.
    """

    stage: str
    label: str
    stored: bool
    age_seconds: float | None
    last_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return asdict(self)


def duration(seconds: float) -> str:
    """Return seconds as a person says them: ``40 s``, ``12 min``, ``3.5 h``, ``9 days``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
