"""Seconds of a run by stage and part: its spans, summed by their place.

Laws: what is within something takes no longer than that, and a part's count is how often it ran. A span with the name
of the one around it, as often as that (a stage, and the result of it that is stored), is one with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from compress.core.cores import usable_cores
from compress.core.trace import Span

# Notes of a span whose result an earlier run had stored: seconds that it took then.
STORED = "stored_seconds"

Place = tuple[str, ...]


@dataclass
class _Sum:
    count: int = 0
    taken_ns: int = 0
    worked_ns: int = 0
    stored: int = 0
    stored_seconds: float = 0.0

    def add(self, one: _Sum) -> None:
        """All of it."""
        self.count += one.count
        self.taken_ns += one.taken_ns
        self.worked_ns += one.worked_ns
        self.add_stored(one)

    def add_stored(self, one: _Sum) -> None:
        """What of it was stored."""
        self.stored += one.stored
        self.stored_seconds += one.stored_seconds


@dataclass
class TimeSpent:
    """Sums of spans, by place."""

    _sums: dict[Place, _Sum] = field(default_factory=dict)

    def add(self, spans: Sequence[Span]) -> None:
        """Add the spans of a stage, each with those around it."""
        # Parents begin first, and are listed before what is within them.
        for one in sorted(spans, key=lambda one: (one.start_ns, len(one.path))):
            then = one.notes.get(STORED)
            stored = (0, 0.0) if then is None else (1, float(then))
            found = _Sum(1, one.ended_ns - one.start_ns, one.worked_ns, *stored)
            self._sums.setdefault(one.path, _Sum()).add(found)

    def document(self) -> dict[str, Any]:
        """Plain JSON types.

        Returns:
            ``cores`` that the process may use, and ``parts`` in order, each behind what it is a part of: ``stage``,
            ``part`` (names from the outermost to its own; empty for the stage itself), ``count``, ``seconds``,
            ``cores`` kept busy on average, and where results were stored: ``stored``, how many, and
            ``stored_seconds``, what they took when they were made.
        """
        return {"cores": usable_cores(), "parts": [_entry(place, of) for place, of in self._merged()]}

    def _merged(self) -> list[tuple[Place, _Sum]]:
        merged: dict[Place, _Sum] = {}
        for place, one in self._sums.items():
            under = self._without_repeats(place)
            if len(under) < len(self._without_repeats(place[:-1])) + 1:
                merged[under].add_stored(one)
            else:
                merged.setdefault(under, _Sum()).add(one)
        rank = {place: number for number, place in enumerate(merged)}
        return sorted(merged.items(), key=lambda entry: [rank[entry[0][: i + 1]] for i in range(len(entry[0]))])

    def _without_repeats(self, place: Place) -> Place:
        """A place without those that are one with their parents."""
        return tuple(name for end, name in enumerate(place, 1) if not self._repeats(place[:end]))

    def _repeats(self, place: Place) -> bool:
        return len(place) > 1 and place[-1] == place[-2] and self._sums[place].count == self._sums[place[:-1]].count


def _entry(place: Place, of: _Sum) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "stage": place[0],
        "part": list(place[1:]),
        "count": of.count,
        "seconds": round(of.taken_ns / 1e9, 3),
        "cores": round(of.worked_ns / max(1, of.taken_ns), 2),
    }
    if of.stored:
        entry |= {"stored": of.stored, STORED: round(of.stored_seconds, 3)}
    return entry
