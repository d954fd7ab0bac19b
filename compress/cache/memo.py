"""What a run remembers: results of its stages, kept for the next run, and those of earlier runs used again.

One rule: every run writes, ``--resume`` reads. A run without it measures and computes everything itself, so that what
it says was found now; and it is what a resumed one can be compared with.
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
    """How a result becomes files, and files a result. What is read equals what was written.

    Attributes:
        write: a result into a directory.
        read: from a directory that stays for as long as the run.
    """

    write: Callable[[T, Path], None]
    read: Callable[[Path], T]


@dataclass(frozen=True)
class Step(Generic[T]):
    """One result of a stage: what it rests on, and nothing else.

    Attributes:
        name: of the stage, as `compress cache` shows it.
        inputs: plain JSON types; equal inputs, equal result (or, for what is measured, one as good).
        codec: how it is stored.
        label: what of, for people.
        measured: whether the result was true of the device when it was made, and may not be now.
    """

    name: str
    inputs: Mapping[str, Any]
    codec: Codec[T]
    label: str = ""
    measured: bool = False


class NotStored(Exception):
    """A result is not there, and none may be made.

    Attributes:
        step: whose.
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
        making: whether results that are not there are made; False asks what would be.
        reused: what was used: stage, label, when it was made, and the seconds that it took then.
        met: every result asked for, and its entry; None where it is not there.
    """

    store: Store
    scratch: Path
    reading: bool = False
    making: bool = True
    reused: list[dict[str, Any]] = field(default_factory=list)
    met: list[tuple[Step[Any], Entry | None]] = field(default_factory=list)

    def result(self, step: Step[T], make: Callable[[], T], say: Callable[[str], None]) -> T:
        """The result of a step: an earlier run's, or made now and kept.

        Args:
            step: what is asked for.
            make: makes it.
            say: told what was used, and what could not be.

        Raises:
            NotStored: it is not there, and nothing is made.
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
    """One result of the run that is asked about.

    Attributes:
        stage: as `compress cache` names it.
        label: what of; empty where that depends on results that are not there.
        stored: whether ``--resume`` would use it again.
        age_seconds: of the stored result; None where there is none.
        last_seconds: that it took when it was made, or where it is not stored, that the stage took last time; None
            where that is not known.
    """

    stage: str
    label: str
    stored: bool
    age_seconds: float | None
    last_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``9 days``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
