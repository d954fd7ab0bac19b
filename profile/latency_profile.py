"""A profile: the latency table with its provenance, written as JSON that works anywhere afterwards.

Law (``tests/profile/test_latency_profile.py``): ``Profile.from_json(p.to_json()) == p``; a damaged text is a
ProfileError.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compress.core.errors import PlanError, ProfileError
from compress.core.parsing import Missing, Unreadable, parse_json, read_text
from compress.core.plan import EncoderShape, Widths
from compress.profile.latency_table import LatencyTable, PiecewiseLinear, fit_piecewise
from compress.profile.target import Target

FORMAT_VERSION = 1
Parsed = TypeVar("Parsed")

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Point:
    """What a uniform structure said about one width, before it was reconciled with everything else.

    Attributes:
        kind: ``attention`` or ``ffn``.
        width: heads or filters, the same in every layer; the other kind was at about half its dense width.
        ms: (latency - latency with this kind removed) / layers: milliseconds of one sublayer.
        total_ms: end-to-end latency.
        spread: standard error of ``total_ms``, as a fraction of it.
        samples: timings it rests on; a disturbed one counts for less than one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: Literal["attention", "ffn"]
    width: int
    ms: float
    total_ms: float
    spread: float
    samples: float


@dataclass(frozen=True)
class Check:
    """A random structure that the table was not fitted to.

    Attributes:
        heads, filters: its widths, in layer order.
        predicted_ms: by the table.
        measured_ms: on the device.
        error: predicted / measured - 1.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    heads: tuple[int, ...]
    filters: tuple[int, ...]
    predicted_ms: float
    measured_ms: float
    error: float


@dataclass(frozen=True)
class Profile:
    """How long an encoder's sublayers take on a target.

    Attributes:
        table: what searches use.
        attention_fit, ffn_fit: the paper's piecewise-linear form of the table's two curves.
        shape: the dense encoder.
        batch_size, seq_len: examples per call and tokens per example.
        precision: number format of the timed models.
        target: name of the target.
        device: what it was taken on (``describe_device``).
        source: ``measured``, or ``estimated`` from a data sheet.
        date: when, ISO 8601, UTC.
        seconds: how long it took.
        points: raw measurements behind the curves; empty where estimated.
        check: predicted against measured on random structures; empty where estimated.
        baseline_ms: latency of the dense float32 model on the same scale, which speed-ups are against; None where the
            table itself is of float32.
        engine: how the timed models were brought onto the runtime, in words.
        interpolated: the two lengths that were taken, where this one lies between them (``profile/profiles.py``); None
        where it
            was taken itself.
        format: version of this layout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    table: LatencyTable
    attention_fit: PiecewiseLinear
    ffn_fit: PiecewiseLinear
    shape: EncoderShape
    batch_size: int
    seq_len: int
    precision: str
    target: str
    device: dict[str, str | int]
    source: Literal["measured", "estimated"]
    date: str
    seconds: float = 0.0
    points: tuple[Point, ...] = ()
    check: tuple[Check, ...] = ()
    baseline_ms: float | None = None
    engine: str = "fp32"
    interpolated: tuple[int, int] | None = None
    format: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        dense = (self.table.layers, self.table.heads[-1], self.table.filters[-1])
        if dense != (self.shape.layers, self.shape.heads, self.shape.filters):
            raise ValueError(
                f"the table ends at {dense} layers, heads and filters, the encoder has others: {self.shape}"
            )
        self.shape.check()
        if min(self.batch_size, self.seq_len) < 1:
            raise ValueError(f"batch size and length must be positive, got {self.batch_size} x {self.seq_len}")

    @property
    def dense_ms(self) -> float:
        """Milliseconds of the dense float32 model."""
        return self.table.dense_ms if self.baseline_ms is None else self.baseline_ms

    @property
    def origin(self) -> str:
        """For plans and people: ``measured`` or ``estimated``, and whether it is interpolated between lengths."""
        return self.source if self.interpolated is None else f"{self.source}, interpolated"

    @property
    def median_error(self) -> float | None:
        """Median of the absolute errors of ``check``; None where nothing was checked."""
        errors = sorted(abs(check.error) for check in self.check)
        if not errors:
            return None
        middle = len(errors) // 2
        return errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2

    def with_table(self, table: LatencyTable) -> Profile:
        """The same profile around another table, its fits made again."""
        return replace(
            self,
            table=table,
            attention_fit=fit_piecewise(table.heads, table.attention_ms),
            ffn_fit=fit_piecewise(table.filters, table.ffn_ms),
        )

    def matches(
        self, shape: EncoderShape, batch_size: int, seq_len: int, target: Target, precision: str | None = None
    ) -> None:
        """Raise ProfileError, naming what differs, unless the profile is of this encoder, batch, length and target.

        Args:
            shape, batch_size, seq_len, target: of the deployment.
            precision: number format; None accepts the profile's.
        """
        differences = [
            f"{what} {mine}, not {theirs}"
            for what, mine, theirs in (
                *((name.replace("_", " "), value, getattr(shape, name)) for name, value in asdict(self.shape).items()),
                ("batch size", self.batch_size, batch_size),
                ("length", self.seq_len, seq_len),
                ("target", self.target, target.name),
                ("precision", self.precision, precision or self.precision),
            )
            if mine != theirs
        ]
        if differences:
            raise ProfileError(
                f"the profile was taken for another case: {'; '.join(differences)}. Take one with `compress profile`"
            )

    def to_json(self) -> str:
        """The profile as JSON with sorted keys, ending in a newline."""
        return json.dumps(asdict(self), sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Read what ``to_json`` wrote.

        Raises:
            ProfileError: the text is no profile, is of another format version, is damaged, or contradicts itself.
        """
        try:
            raw: Any = parse_json(text)
        except Unreadable as error:
            raise ProfileError(f"this is not a profile of compress: {error}") from None
        if not isinstance(raw, dict) or "format" not in raw:
            raise ProfileError("this is not a profile of compress: it does not say its format; see `compress profile`")
        if raw["format"] != FORMAT_VERSION or isinstance(raw["format"], bool):
            raise ProfileError(
                f"the profile has format {raw['format']!r}, this version of compress reads format "
                f"{FORMAT_VERSION}; install the version that took it, or take it again with `compress profile`"
            )
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            problem = f"{'.'.join(map(str, first['loc'])) or 'profile'}: {first['msg']}"
        except (PlanError, OverflowError) as error:  # sizes that no encoder has
            problem = str(error)
        raise ProfileError(f"the profile is damaged: {problem}; take it again with `compress profile`") from None

    @classmethod
    def read(cls, path: str | Path) -> Profile:
        """Read a profile file, or the ``profile.json`` of an artifact directory.

        Raises:
            ProfileError: see ``from_json``; or the file cannot be read.
        """
        return read_as(path, cls.from_json)

    def write(self, path: str | Path) -> None:
        """Write the profile as JSON.

        Raises:
            ProfileError: the file cannot be written.
        """
        write_text(path, self.to_json())


def read_as(path: str | Path, parse: Callable[[str], Parsed]) -> Parsed:
    """What a profile file holds, or the ``profile.json`` of an artifact directory.

    Args:
        path: of either.
        parse: from its text; errors get the file's name.

    Raises:
        ProfileError: it cannot be read, or parsed.
    """
    file = Path(path)
    file = file / "profile.json" if file.is_dir() else file
    try:
        return parse(read_text(file))
    except Missing:
        raise ProfileError(f"there is no profile '{file}'; take one with `compress profile`") from None
    except Unreadable as error:
        raise ProfileError(f"cannot read profile '{file}': {error}") from None
    except ProfileError as error:
        raise ProfileError(f"'{file}': {error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a profile file.

    Raises:
        ProfileError: it cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"cannot write profile '{path}': {error}") from None


_ADAPTER: TypeAdapter[Profile] = TypeAdapter(Profile)


def recalibrate(profile: Profile, widths: Widths, measured_ms: float, dense_ms: float | None = None) -> Profile:
    """The profile, corrected by one structure's measured latency (see ``LatencyTable.recalibrated``).

    Args:
        profile: what mispredicted.
        widths: the structure.
        measured_ms: its latency.
        dense_ms: the dense model's latency, measured beside it. None keeps the profile's: right for a speed-up, where
            ``measured_ms`` is the measured ratio times ``table.dense_ms``.
    """
    return profile.with_table(profile.table.recalibrated(widths, measured_ms, dense_ms))
