"""Limits of a gate and how they are written: ``20``, ``"20 MB"``, ``"60 % of dense"``, ``"1 % of baseline"``.

A limit in a wrong unit is refused instead of being read as something else. Law (``tests/options/test_gate_limits.py``):
``parse(kind, str(limit))`` gives the limit back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compress.core.errors import ConfigError, did_you_mean
from compress.options.table import Option, flag

Reference = Literal["dense", "baseline"]
Direction = Literal["at most", "at least"]


@dataclass(frozen=True)
class LimitKind:
    """One quantity that a gate can limit.

    Attributes:
        name: as in ``compress.toml``; with hyphens on the command line.
        help: its meaning.
        title: its name in a table.
        direction: whether the limit is the most or the least that is allowed.
        unit: unit of a bare number, which may be written behind it; empty where it has none.
        low: bare numbers below it are in another unit.
        high: bare numbers above it are in another unit.
        hint: how to write the limit instead.
        example: value that ``compress init`` shows.
        of: references that a percentage may be of; the default comes first where ``bare``.
        bare: whether a percentage without a reference is of the first one; otherwise the reference must be named.
        per_file: whether a file can have a limit of its own.
        weighs: whether a smaller model would meet it, so that it helps to know what weighs.
        may_be_zero: whether 0 is a limit that can be met.
    """

    name: str
    help: str
    title: str
    direction: Direction
    unit: str
    low: float
    high: float
    hint: str
    example: Any
    of: tuple[Reference, ...] = ("dense", "baseline")
    bare: bool = True
    per_file: bool = False
    weighs: bool = True
    may_be_zero: bool = False


KINDS: dict[str, LimitKind] = {
    kind.name: kind
    for kind in (
        LimitKind(
            "max_size_mb",
            "Size of the whole artifact, MB (10^6 bytes); '102 % of baseline'. '60 %' is of the dense model's "
            "file, and then of the exported file alone.",
            "size",
            "at most",
            "MB",
            0.0,
            1e6,
            "megabytes (10^6 bytes): 20 kB is 0.02",
            example=50,
        ),
        LimitKind(
            "max_file_size_mb",
            "Size of every single file, MB; for one file: model.onnx=20.",
            "size of each file",
            "at most",
            "MB",
            0.0,
            1e6,
            "megabytes (10^6 bytes): 20 kB is 0.02",
            example={"model.onnx": 25},
            of=("baseline",),
            per_file=True,
        ),
        LimitKind(
            "max_latency_ms",
            "Median latency, ms; '60 %' is of the dense model's, '105 % of baseline'.",
            "latency",
            "at most",
            "ms",
            0.0,
            1e6,
            "milliseconds: 800 us is 0.8, 2 s is 2000",
            example=5.0,
        ),
        LimitKind(
            "min_speedup",
            "Speed-up over the dense model; '95 % of baseline'.",
            "speed-up",
            "at least",
            "x",
            0.0,
            1e4,
            "a factor: 2 is twice as fast",
            example=2.0,
            of=("baseline",),
        ),
        LimitKind(
            "min_accuracy",
            "The metric, as validation.json has it (a fraction); '99 % of dense' or '99 % of baseline'.",
            "metric",
            "at least",
            "",
            -1.0,
            1.0,
            "a fraction: 90.5 points are 0.905",
            example=0.9,
            bare=False,
            weighs=False,
        ),
        LimitKind(
            "max_drop",
            "Loss of the metric against the dense model; '1 %' is of its value, '0.01 against baseline'.",
            "drop of the metric",
            "at most",
            "",
            -1.0,
            1.0,
            "a fraction: 1.5 points are 0.015",
            example=["1 %", "0.005 against baseline"],
            weighs=False,
        ),
        LimitKind(
            "max_macs",
            "Multiply-accumulates kept, a fraction of the dense model's; '101 % of baseline'.",
            "MACs",
            "at most",
            "",
            0.0,
            1.0,
            "a fraction of the dense model's: a half is 0.5",
            example=0.5,
        ),
        LimitKind(
            "max_parity",
            "Largest difference of the exported file's outputs from PyTorch's.",
            "difference from PyTorch",
            "at most",
            "",
            0.0,
            1e6,
            "a largest absolute difference",
            example=0.001,
            of=(),
            weighs=False,
        ),
        LimitKind(
            "max_batch_drift",
            "Largest difference of an example's outputs when others share its call, in any order, or it is padded; 0 "
            "allows what float sums differ by (1e-5).",
            "difference by batch",
            "at most",
            "",
            0.0,
            1e6,
            "a largest absolute difference",
            example=0,
            of=(),
            weighs=False,
            may_be_zero=True,
        ),
    )
}
MAX_AGE_DAYS = 30.0
SETTINGS: dict[str, Option] = {
    setting.name: setting
    for setting in (
        Option("max_age_days", "Latencies recorded longer ago settle nothing.", type=float, metavar="X", example=30),
        Option(
            "device",
            "Text that the name of the device in validation.json has to have in it.",
            metavar="X",
            example="EPYC",
        ),
    )
}
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
        kind: the quantity that is limited.
        value: in the kind's unit, or per cent.
        percent: whether it is a percentage of the reference's value.
        of: the reference; None where an absolute value needs none.
        file: name of the file it is for; None for all.
        origin: where it was written.
    """

    kind: LimitKind
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
    """The limits of a gate and its settings.

    Attributes:
        limits: in the order of ``KINDS``.
        max_age_days: a recorded latency older than this settles nothing.
        device: text that the device's name must contain; None takes any.
    """

    limits: tuple[Limit, ...] = ()
    max_age_days: float = MAX_AGE_DAYS
    device: str | None = None


def read_gate(table: Any, origin: str) -> Gate:
    """Read a ``[gate]`` table, or the options of the command line.

    Args:
        table: values by name; None counts as not given. A limit is a number, a text, or a list of them;
            ``max_file_size_mb`` may be a table of them by file name.
        origin: where the table comes from, for messages.

    Raises:
        ConfigError: an unknown name, a wrong unit, a value that makes no sense.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"[gate] in {origin} must be a table of limits, got {table!r}")
    for name in table:
        if name not in KINDS and name not in SETTINGS:
            hyphens = str(name).replace("-", "_")
            hint = f" Write '{hyphens}'." if hyphens in KINDS else did_you_mean(str(name), [*KINDS, *SETTINGS])
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
    """Return the gate of command line and file together: a limit on the command line replaces the file's of its kind.

    Args:
        given: the command line's gate.
        file: the gate of ``compress.toml``.
        named: options of the command line; None where one was not given.
    """
    replaced = {limit.kind.name for limit in given.limits}
    limits = (*given.limits, *(limit for limit in file.limits if limit.kind.name not in replaced))
    order = list(KINDS)
    return Gate(
        tuple(sorted(limits, key=lambda limit: order.index(limit.kind.name))),
        given.max_age_days if named.get("max_age_days") is not None else file.max_age_days,
        given.device if given.device is not None else file.device,
    )


def parse(kind: LimitKind, written: Any, origin: str = "command line") -> tuple[Limit, ...]:
    """Read one line of limits.

    Args:
        kind: the quantity that is limited.
        written: a number, a text, a list of them, or a table by file name where the kind has limits per file. On the
            command line a text may start with ``FILE=``.
        origin: where it was written, for messages.

    Raises:
        ConfigError: the unit is wrong, there is no number, or the kind does not have the reference.
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


def _one(kind: LimitKind, written: Any, origin: str, file: str | None) -> Limit:
    called = _called(kind.name, origin) + (f" for '{file}'" if file is not None else "")
    if isinstance(written, bool) or not isinstance(written, (int, float, str)):
        raise ConfigError(f"{called} must be a number or a text like {_example(kind)}, got {written!r}")
    # By way of text, so that 1e999 and a number of a thousand digits end here too.
    found = _WRITTEN.fullmatch(str(written))
    if found is None:
        raise ConfigError(f"{called} = {str(written)[:60]!r} is not a limit; write {_example(kind)}")
    value, unit = float(found["number"]), found["unit"]
    of: Reference | None = "baseline" if found["of"] == "baseline" else "dense" if found["of"] else None
    if unit == "%":
        return Limit(kind, value, True, _reference(kind, value, of, called), file, origin)
    if unit and unit != kind.unit:
        of_it = f"in {kind.unit}" if kind.unit else "a bare number, or a percentage"
        raise ConfigError(f"{called} = {written!r} is in another unit: it is {of_it}, {kind.hint}")
    if not kind.low <= value <= kind.high or (kind.low == 0 and value == 0 and not kind.may_be_zero):
        raise ConfigError(f"{called} = {written} looks like another unit; write it as {kind.hint}")
    if of is not None and kind.name != "max_drop":
        raise ConfigError(f"{called} = {written!r}: only a percentage is of something; write '{value:g} % of {of}'?")
    return Limit(kind, value, False, of or ("dense" if kind.name == "max_drop" else None), file, origin)


def _reference(kind: LimitKind, value: float, of: Reference | None, called: str) -> Reference:
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
        raise ConfigError(f"{called} = '{value:g} %' is not a sensible percentage")
    return reference


def _example(kind: LimitKind) -> str:
    units = {"MB": "20 or '20 MB'", "ms": "5 or '5 ms'", "x": "2 or '2 x'"}
    names = {"max_parity": "0.001", "max_macs": "0.5", "max_batch_drift": "0"}
    percent = f", or '90 % of {kind.of[0]}'" if kind.of else ""
    return units.get(kind.unit, names.get(kind.name, "0.01")) + percent


def _called(name: str, origin: str) -> str:
    return flag(name) if origin == "command line" else f"{name} in {origin}"
