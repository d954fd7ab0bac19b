"""Profiles of several batch sizes and lengths in one file, and what lies between two lengths.

A file with one shape is an ordinary profile (``profile/latency_profile.py``, format 1); one with several is a list of
them, format 2. Both are read here, and older files of one shape as ever.

Between two lengths that were taken, every entry of the table is interpolated linearly. Attention grows with the square
of the length, so what lies between is at most what this says: the estimate errs on the slow side, and a budget planned
with it is met rather than missed. It is called interpolated wherever it is used. Beyond the lengths that were taken,
and between batch sizes, nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.core.errors import ProfileError
from compress.core.parsing import Unreadable, parse_json
from compress.core.plan import EncoderShape
from compress.profile.latency_profile import Profile, read_as, write_text
from compress.profile.latency_table import LatencyTable
from compress.profile.target import Target

SEVERAL = 2


@dataclass(frozen=True)
class Profiles:
    """Profiles of one encoder on one target, of several batch sizes and lengths.

    Attributes:
        taken: at least one; no batch size and length twice.
    """

    taken: tuple[Profile, ...]

    def __post_init__(self) -> None:
        if not self.taken:
            raise ProfileError("a profile file needs at least one profile")
        first = self.taken[0]
        for other in self.taken[1:]:
            for what in ("shape", "target", "precision", "source"):
                mine, theirs = getattr(first, what), getattr(other, what)
                if mine != theirs:
                    raise ProfileError(f"the profiles of a file differ in their {what}: {mine} and {theirs}")
        if len(set(self.shapes)) != len(self.taken):
            raise ProfileError(f"a profile file has a batch size and length twice: {self}")

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Batch size and length of each."""
        return tuple((profile.batch_size, profile.seq_len) for profile in self.taken)

    def __str__(self) -> str:
        return ", ".join(f"batch size {batch} at length {length}" for batch, length in sorted(self.shapes))

    def at(
        self, shape: EncoderShape, batch_size: int, seq_len: int, target: Target, precision: str | None = None
    ) -> Profile:
        """The profile of a deployment: taken there, or between the two lengths next to it.

        Args:
            shape, batch_size, seq_len, target: of the deployment.
            precision: number format; None accepts the profile's.

        Raises:
            ProfileError: it was taken for another case, the message names what differs; or only other batch sizes, or
                lengths that do not lie around the wanted one.
        """
        exact = [profile for profile in self.taken if (profile.batch_size, profile.seq_len) == (batch_size, seq_len)]
        if exact or len(self.taken) == 1:
            found = (exact or list(self.taken))[0]
            found.matches(shape, batch_size, seq_len, target, precision)
            return found
        same = sorted((p for p in self.taken if p.batch_size == batch_size), key=lambda profile: profile.seq_len)
        below = [profile for profile in same if profile.seq_len < seq_len]
        above = [profile for profile in same if profile.seq_len > seq_len]
        nearest = (below or above or list(self.taken))[-1]
        # What else differs is said first: no length would mend it.
        nearest.matches(shape, nearest.batch_size, nearest.seq_len, target, precision)
        if not (below and above):
            why = "lengths are interpolated, not extrapolated" if same else "batch sizes are not interpolated"
            raise ProfileError(
                f"the profile has no batch size {batch_size} at length {seq_len}, and {why}; it has {self}. Take one "
                f"with `compress profile MODEL --target {nearest.target} --batch-size {batch_size} --seq-len {seq_len}`"
            )
        return interpolated(below[-1], above[0], seq_len)

    def to_json(self) -> str:
        """One profile as such; several as a list, JSON with sorted keys, ending in a newline."""
        if len(self.taken) == 1:
            return self.taken[0].to_json()
        document = {"format": SEVERAL, "profiles": [json.loads(profile.to_json()) for profile in self.taken]}
        return json.dumps(document, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Profiles:
        """Read what ``to_json`` wrote, or a profile of any earlier version.

        Raises:
            ProfileError: see ``Profile.from_json``.
        """
        try:
            raw: Any = parse_json(text)
        except Unreadable as error:
            raise ProfileError(f"this is not a profile of compress: {error}") from None
        if not isinstance(raw, dict) or raw.get("format") != SEVERAL or isinstance(raw["format"], bool):
            return cls((Profile.from_json(text),))
        listed = raw.get("profiles")
        if set(raw) != {"format", "profiles"} or not isinstance(listed, list) or not listed:
            raise ProfileError("the profile is damaged: it should list profiles; take it again with `compress profile`")
        return cls(tuple(Profile.from_json(json.dumps(one)) for one in listed))

    @classmethod
    def read(cls, path: str | Path) -> Profiles:
        """``from_json`` of a file, see ``record.read_as``."""
        return read_as(path, cls.from_json)

    def write(self, path: str | Path) -> None:
        """``to_json`` into a file, see ``record.write_text``."""
        write_text(path, self.to_json())


def interpolated(below: Profile, above: Profile, seq_len: int) -> Profile:
    """The profile at a length between two.

    Law: at either length it is that profile's table, and in between it lies between the two
    (``tests/profile/test_profiles.py``).

    Args:
        below, above: of one encoder, target, precision and batch size.
        seq_len: between theirs.
    """
    share = (seq_len - below.seq_len) / (above.seq_len - below.seq_len)

    def between(low: float, high: float) -> float:
        return (1 - share) * low + share * high

    heads, filters = (_union(getattr(below.table, k), getattr(above.table, k)) for k in ("heads", "filters"))
    table = LatencyTable(
        layers=below.table.layers,
        heads=heads,
        attention_ms=_curve([between(below.table.attention_at(n), above.table.attention_at(n)) for n in heads]),
        filters=filters,
        ffn_ms=_curve([between(below.table.ffn_at(n), above.table.ffn_at(n)) for n in filters]),
        fixed_ms=between(below.table.fixed_ms, above.table.fixed_ms),
    )
    baseline = None
    if below.baseline_ms is not None and above.baseline_ms is not None:
        baseline = between(below.baseline_ms, above.baseline_ms)
    engines = dict.fromkeys((below.engine, above.engine))
    return replace(
        below.with_table(table),
        seq_len=seq_len,
        interpolated=(below.seq_len, above.seq_len),
        baseline_ms=baseline,
        engine=" or ".join(engines),
        seconds=0.0,
        points=(),
        check=(),
    )


def _union(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({*one, *other}))


def _curve(values: list[float]) -> tuple[float, ...]:
    # Rounding could make neighbours of equal cost fall.
    found = list(values)
    for i in range(1, len(found)):
        found[i] = max(found[i - 1], found[i])
    return tuple(found)
