"""Profiles of several batch sizes and lengths in one file, and interpolation between lengths.

A file with one batch size and length is an ordinary profile (``profile/latency_profile.py``, format 1). A file with
several is a list of profiles, format 2. Both are read here.

Between two lengths, every entry of the table is interpolated linearly. Attention grows with the square of the length,
so the true latency is at most the interpolated one: the estimate errs on the slow side, and a budget is met rather than
missed. Interpolated profiles are called so wherever they are used. There is no extrapolation beyond the measured
lengths, and no interpolation between batch sizes.
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
from compress.profile.latency_profile import Profile, read_profile_file, write_profile_file
from compress.profile.latency_table import LatencyTable
from compress.profile.target import Target

SEVERAL = 2


@dataclass(frozen=True)
class Profiles:
    """Profiles of one encoder on one target, of several batch sizes and lengths.

    Attributes:
        taken: at least one profile; each batch size and length once.
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
        """Batch size and length of each profile."""
        return tuple((profile.batch_size, profile.seq_len) for profile in self.taken)

    def __str__(self) -> str:
        return ", ".join(f"batch size {batch} at length {length}" for batch, length in sorted(self.shapes))

    def at(
        self, shape: EncoderShape, batch_size: int, seq_len: int, target: Target, precision: str | None = None
    ) -> Profile:
        """The profile of a deployment, interpolated between the two nearest lengths if necessary.

        Args:
            shape: the dense encoder.
            batch_size: examples per call.
            seq_len: tokens per example.
            target: the deployment's target.
            precision: number format; None accepts the profile's.

        Returns:
            The profile of this batch size and length.

        Raises:
            ProfileError: the profiles are of another case, the message names what differs; or there is no profile of
                this batch size, or none with a smaller and none with a larger length.
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
        # Other differences come first, since no other length would help with them.
        nearest.matches(shape, nearest.batch_size, nearest.seq_len, target, precision)
        if not (below and above):
            why = "lengths are interpolated, not extrapolated" if same else "batch sizes are not interpolated"
            raise ProfileError(
                f"the profile has no batch size {batch_size} at length {seq_len}, and {why}; it has {self}. Take one "
                f"with `compress profile MODEL --target {nearest.target} --batch-size {batch_size} --seq-len {seq_len}`"
            )
        return interpolate(below[-1], above[0], seq_len)

    def to_json(self) -> str:
        """The profiles as JSON with sorted keys, ending in a newline: one as itself, several as a list."""
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
            raise ProfileError(
                f"this is not a profile of compress: {error}; take one with `compress profile`"
            ) from None
        if not isinstance(raw, dict) or raw.get("format") != SEVERAL or isinstance(raw["format"], bool):
            return cls((Profile.from_json(text),))
        listed = raw.get("profiles")
        if set(raw) != {"format", "profiles"} or not isinstance(listed, list) or not listed:
            raise ProfileError("the profile is damaged: it should list profiles; take it again with `compress profile`")
        return cls(tuple(Profile.from_json(json.dumps(one)) for one in listed))

    @classmethod
    def read(cls, path: str | Path) -> Profiles:
        """Read a profile file, or the ``profile.json`` of an artifact directory.

        Raises:
            ProfileError: see ``from_json``; or the file cannot be read.
        """
        return read_profile_file(path, cls.from_json)

    def write(self, path: str | Path) -> None:
        """Write the profiles as JSON.

        Raises:
            ProfileError: the file cannot be written.
        """
        write_profile_file(path, self.to_json())


def interpolate(below: Profile, above: Profile, seq_len: int) -> Profile:
    """Interpolate the profile at a length between two others.

    Law (``tests/profile/test_profiles.py``): at either length the table is that profile's, and between them all
    entries lie between those of the two.

    Args:
        below: profile at a smaller length.
        above: profile at a larger length, of the same encoder, target, precision and batch size.
        seq_len: the length between the two.

    Returns:
        A profile that is marked as interpolated.
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
