"""Profile: a latency table with its provenance, stored as JSON.

Law (``tests/profile/test_latency_profile.py``): ``Profile.from_json(p.to_json()) == p``; a damaged text raises
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
class CurvePoint:
    """Raw measurement of one width, from a uniform structure, before the table is fitted.

    Attributes:
        kind: ``attention`` or ``ffn``.
        width: heads or filters, the same in every layer; the other kind had about half its dense width.
        ms: milliseconds of one sublayer: (latency - latency with this kind removed) / layers.
        total_ms: end-to-end latency.
        spread: standard error of ``total_ms``, as a fraction of it.
        samples: number of timings; a disturbed one counts for less than one.
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
    """Predicted and measured latency of a random structure that the table was not fitted to.

    Attributes:
        heads, filters: widths of the structure, in layer order.
        predicted_ms: the table's prediction.
        measured_ms: latency on the device.
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
    """Latency of an encoder's sublayers on a target.

    Attributes:
        table: latency table that searches use.
        attention_fit, ffn_fit: piecewise-linear fits of the table's two curves (Kwon et al. 2022).
        shape: the dense encoder.
        batch_size, seq_len: examples per call and tokens per example.
        precision: number format of the timed models.
        target: name of the target.
        device: the hardware and software of the measurement (``describe_device``).
        source: ``measured``, or ``estimated`` from a data sheet.
        date: ISO 8601, UTC.
        seconds: duration of the measurement.
        points: raw measurements behind the curves; empty if estimated.
        check: predicted and measured latency of random structures; empty if estimated.
        baseline_ms: latency of the dense float32 model on the same scale, the baseline of speed-ups; None if the table
            itself is of float32.
        engine: number format and form of the timed models, in words.
        interpolated: the two measured lengths that this profile is interpolated between (``profile/profiles.py``); None
            if it was measured or estimated at its own length.
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
    points: tuple[CurvePoint, ...] = ()
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
        """``measured`` or ``estimated``, and whether it is interpolated between lengths; for plans and messages."""
        return self.source if self.interpolated is None else f"{self.source}, interpolated"

    @property
    def median_error(self) -> float | None:
        """Median of the absolute errors of ``check``; None without checks."""
        errors = sorted(abs(check.error) for check in self.check)
        if not errors:
            return None
        middle = len(errors) // 2
        return errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2

    def with_table(self, table: LatencyTable) -> Profile:
        """A copy with another table and new fits of its curves."""
        return replace(
            self,
            table=table,
            attention_fit=fit_piecewise(table.heads, table.attention_ms),
            ffn_fit=fit_piecewise(table.filters, table.ffn_ms),
        )

    def matches(
        self, shape: EncoderShape, batch_size: int, seq_len: int, target: Target, precision: str | None = None
    ) -> None:
        """Check that the profile is of this encoder, batch size, length, target and precision.

        Args:
            shape: the dense encoder.
            batch_size: examples per call of the deployment.
            seq_len: tokens per example of the deployment.
            target: the deployment's target.
            precision: number format; None accepts the profile's.

        Raises:
            ProfileError: something differs; the message names what.
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
            ProfileError: the text is not a profile, has another format version, is damaged, or contradicts itself.
        """
        try:
            raw: Any = parse_json(text)
        except Unreadable as error:
            raise ProfileError(
                f"this is not a profile of compress: {error}; take one with `compress profile`"
            ) from None
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
        return read_profile_file(path, cls.from_json)

    def write(self, path: str | Path) -> None:
        """Write the profile as JSON.

        Raises:
            ProfileError: the file cannot be written.
        """
        write_profile_file(path, self.to_json())


def read_profile_file(path: str | Path, parse: Callable[[str], Parsed]) -> Parsed:
    """Read and parse a profile file, or the ``profile.json`` of an artifact directory.

    Args:
        path: the file or the directory.
        parse: reads the text; the file's name is added to its errors.

    Returns:
        The parsed value.

    Raises:
        ProfileError: the file cannot be read or parsed.
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


def write_profile_file(path: str | Path, text: str) -> None:
    """Write a profile file.

    Args:
        path: of the file.
        text: its content.

    Raises:
        ProfileError: the file cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"cannot write profile '{path}': {error}") from None


_ADAPTER: TypeAdapter[Profile] = TypeAdapter(Profile)


def recalibrate(profile: Profile, widths: Widths, measured_ms: float, dense_ms: float | None = None) -> Profile:
    """Correct a profile by one structure's measured latency (see ``LatencyTable.recalibrated``).

    Args:
        profile: its prediction was wrong.
        widths: the measured structure.
        measured_ms: latency of the structure.
        dense_ms: the dense model's latency, measured beside it. None keeps the profile's; this is right for a speed-up,
            with the measured ratio times ``table.dense_ms`` as ``measured_ms``.

    Returns:
        The corrected profile.

    Raises:
        ProfileError: a measurement is not a positive number.
    """
    return profile.with_table(profile.table.recalibrated(widths, measured_ms, dense_ms))
