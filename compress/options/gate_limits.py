"""What a gate can limit, and how a limit is written: ``20``, ``"20 MB"``, ``"60 % of dense"``, ``"1 % of baseline"``.

A limit in a wrong unit is refused instead of being read as something else. Law (``tests/options/test_gate_limits.py``):
what ``parse`` takes, ``str`` gives back in a form that ``parse`` takes for the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compress.core.errors import ConfigError, did_you_mean
from compress.options.help import GATE_HELP, flag

Reference = Literal["dense", "baseline"]
Direction = Literal["at most", "at least"]


@dataclass(frozen=True)
class Kind:
    """What can be limited.

    Attributes:
        name: as in ``compress.toml``; with hyphens on the command line.
        title: as in a table.
        direction: whether the limit is the most or the least that is allowed.
        unit: what a bare number is in, and the unit that may be written behind it; empty where it has none.
        low, high: bare numbers outside of these are of another unit.
        hint: what to write instead.
        of: references that a percentage may be of, the default first where ``bare``.
        bare: whether a percentage without a reference is of the first one; otherwise it has to be said.
        per_file: whether it may be limited for a file by name.
        weighs: whether a smaller model would meet it, so that it helps to know what weighs.
    """

    name: str
    title: str
    direction: Direction
    unit: str
    low: float
    high: float
    hint: str
    of: tuple[Reference, ...] = ("dense", "baseline")
    bare: bool = True
    per_file: bool = False
    weighs: bool = True


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("max_size_mb", "size", "at most", "MB", 0.0, 1e6, "megabytes (10^6 bytes): 20 kB is 0.02"),
        Kind(
            "max_file_size_mb",
            "size of each file",
            "at most",
            "MB",
            0.0,
            1e6,
            "megabytes (10^6 bytes): 20 kB is 0.02",
            of=("baseline",),
            per_file=True,
        ),
        Kind("max_latency_ms", "latency", "at most", "ms", 0.0, 1e6, "milliseconds: 800 us is 0.8, 2 s is 2000"),
        Kind("min_speedup", "speed-up", "at least", "x", 0.0, 1e4, "a factor: 2 is twice as fast", ("baseline",)),
        Kind(
            "min_accuracy",
            "metric",
            "at least",
            "",
            -1.0,
            1.0,
            "a fraction: 90.5 points are 0.905",
            bare=False,
            weighs=False,
        ),
        Kind(
            "max_drop", "drop of the metric", "at most", "", -1.0, 1.0, "a fraction: 1.5 points are 0.015", weighs=False
        ),
        Kind("max_macs", "MACs", "at most", "", 0.0, 1.0, "a fraction of the dense model's: a half is 0.5"),
        Kind(
            "max_parity",
            "difference from PyTorch",
            "at most",
            "",
            0.0,
            1e6,
            "a largest absolute difference",
            (),
            weighs=False,
        ),
    )
}
MAX_AGE_DAYS = 30.0
_SETTINGS = ("max_age_days", "device")
# A share of the dense model or baseline beyond this has forgotten a decimal point.
_MOST_PERCENT = 1000.0

_NUMBER = r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_WRITTEN = re.compile(
    rf"\s*{_NUMBER}\s*(?P<unit>%|[^\W\d_]*)\s*(?:(?:of|against)\s+(?:the\s+)?(?P<of>dense|baseline)(?:\s+model)?)?\s*"
)


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        kind: what is limited.
        value: in the kind's unit, or per cent.
        percent: whether it is a percentage of the reference's value.
        of: the reference; None where an absolute value needs none.
        file: name of the file it is for; None for all.
        origin: where it was written.
    """

    kind: Kind
    value: float
    percent: bool = False
    of: Reference | None = None
    file: str | None = None
    origin: str = "command line"

    def __str__(self) -> str:
        unit = "%" if self.percent else self.kind.unit
        number = f"{self.value:.15g}"
        against = "" if self.of is None else f"{'of' if self.percent else 'against'} {self.of}"
        return " ".join(part for part in (number, unit, against) if part)


@dataclass(frozen=True)
class Gate:
    """Everything a gate is told.

    Attributes:
        limits: in the order of ``KINDS``.
        max_age_days: a recorded latency older than this settles nothing.
        device: text that the name of the device must have in it; None takes any.
    """

    limits: tuple[Limit, ...] = ()
    max_age_days: float = MAX_AGE_DAYS
    device: str | None = None


def read_gate(table: Any, origin: str) -> Gate:
    """A ``[gate]`` table, or the options of the command line.

    Args:
        table: values by name; None counts as not given. A limit is a number, a text, or a list of them;
            ``max_file_size_mb`` may be a table of them by file name.
        origin: where it comes from, for messages.

    Raises:
        ConfigError: an unknown name, a wrong unit, a value that makes no sense.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"[gate] in {origin} must be a table of limits, got {table!r}")
    for name in table:
        if name not in KINDS and name not in _SETTINGS:
            hyphens = str(name).replace("-", "_")
            hint = f" Write '{hyphens}'." if hyphens in KINDS else did_you_mean(str(name), [*KINDS, *_SETTINGS])
            raise ConfigError(f"[gate] in {origin}: unknown limit '{name}'.{hint}")
    limits = tuple(
        limit
        for name, kind in KINDS.items()
        if table.get(name) is not None
        for limit in parse(kind, table[name], origin)
    )
    age, device = table.get("max_age_days"), table.get("device")
    if age is not None and (isinstance(age, bool) or not isinstance(age, (int, float)) or not 0 < age < math.inf):
        raise ConfigError(f"{_called('max_age_days', origin)} must be a positive number of days, got {age!r}")
    if device is not None and not (isinstance(device, str) and device.strip()):
        raise ConfigError(f"{_called('device', origin)} must be a part of a device's name, got {device!r}")
    return Gate(limits, MAX_AGE_DAYS if age is None else float(age), device)


def merged(given: Gate, file: Gate, named: Mapping[str, Any]) -> Gate:
    """The gate of command line and file together: a kind of limit given on the command line replaces the file's.

    Args:
        given: of the command line.
        file: of ``compress.toml``.
        named: options of the command line; one that is None was not given.
    """
    replaced = {limit.kind.name for limit in given.limits}
    limits = (*given.limits, *(limit for limit in file.limits if limit.kind.name not in replaced))
    order = list(KINDS)
    return Gate(
        tuple(sorted(limits, key=lambda limit: order.index(limit.kind.name))),
        given.max_age_days if named.get("max_age_days") is not None else file.max_age_days,
        given.device if given.device is not None else file.device,
    )


def parse(kind: Kind, written: Any, origin: str = "command line") -> tuple[Limit, ...]:
    """Read one line of limits.

    Args:
        kind: what is limited.
        written: a number, a text, a list of them, or a table by file name where the kind has limits per file. On the
            command line a text may start with ``FILE=``.
        origin: where it was written, for messages.

    Raises:
        ConfigError: a wrong unit, no number, a reference that the kind does not have.
    """
    if isinstance(written, (list, tuple)):
        if not written:
            raise ConfigError(f"{_called(kind.name, origin)} is an empty list; give a limit, or leave the line out")
        return tuple(limit for one in written for limit in parse(kind, one, origin))
    if isinstance(written, Mapping):
        if not kind.per_file or not written:
            raise ConfigError(f"{_called(kind.name, origin)} is one limit, not a table; got {dict(written)!r}")
        return tuple(_one(kind, one, origin, str(name)) for name, one in written.items())
    if isinstance(written, str) and "=" in written and kind.per_file:
        name, _, written = written.partition("=")
        return (_one(kind, written, origin, name.strip()),)
    return (_one(kind, written, origin, None),)


def _one(kind: Kind, written: Any, origin: str, file: str | None) -> Limit:
    called = _called(kind.name, origin) + (f" for '{file}'" if file is not None else "")
    if isinstance(written, bool) or not isinstance(written, (int, float, str)):
        raise ConfigError(f"{called} must be a number or a text like {_example(kind)}, got {written!r}")
    # By way of text, so that 1e999 and a number of a thousand digits end here too.
    found = _WRITTEN.fullmatch(str(written))
    if found is None:
        raise ConfigError(f"{called} = {str(written)[:60]!r} is no limit; write {_example(kind)}")
    value, unit = float(found["number"]), found["unit"]
    of: Reference | None = "baseline" if found["of"] == "baseline" else "dense" if found["of"] else None
    if unit == "%":
        return Limit(kind, value, True, _reference(kind, value, of, called), file, origin)
    if unit and unit != kind.unit:
        of_it = f"in {kind.unit}" if kind.unit else "a bare number, or a percentage"
        raise ConfigError(f"{called} = {written!r} is in another unit: it is {of_it}, {kind.hint}")
    if not kind.low <= value <= kind.high or (kind.low == 0 and value == 0):
        raise ConfigError(f"{called} = {written} looks like another unit; write it as {kind.hint}")
    if of is not None and kind.name != "max_drop":
        raise ConfigError(f"{called} = {written!r}: only a percentage is of something; write '{value:g} % of {of}'?")
    return Limit(kind, value, False, of or ("dense" if kind.name == "max_drop" else None), file, origin)


def _reference(kind: Kind, value: float, of: Reference | None, called: str) -> Reference:
    if not kind.of:
        raise ConfigError(f"{called} takes no percentage; it is {kind.hint}")
    if of is None and not kind.bare:
        raise ConfigError(
            f"{called} = '{value:g} %' can be read in two ways: write {value / 100:g} for the metric itself, or "
            f"'{value:g} % of dense' for a share of the dense model's"
        )
    reference = of or kind.of[0]
    if reference not in kind.of or (of is None and reference == "baseline"):
        raise ConfigError(f"{called}: a percentage of it has to be '{value:g} % of baseline'; or {kind.hint}")
    if not 0 < abs(value) <= _MOST_PERCENT or (value < 0 and kind.name != "max_drop"):
        raise ConfigError(f"{called} = '{value:g} %' is no sensible percentage")
    return reference


def _example(kind: Kind) -> str:
    examples = {"MB": "20 or '20 MB'", "ms": "5 or '5 ms'", "x": "2 or '2 x'"}
    percent = f", or '90 % of {kind.of[0]}'" if kind.of else ""
    return examples.get(kind.unit, {"max_parity": "0.001", "max_macs": "0.5"}.get(kind.name, "0.01")) + percent


def _called(name: str, origin: str) -> str:
    return flag(name) if origin == "command line" else f"{name} in {origin}"


assert set(GATE_HELP) == {*KINDS, *_SETTINGS}, "every limit is explained"
