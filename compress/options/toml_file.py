"""Reads, writes and finds ``compress.toml``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.core.errors import ConfigError, did_you_mean
from compress.core.parsing import MOST_TOML_BYTES, Unreadable, parse_toml, read_text
from compress.options.gate_limits import KINDS, SETTINGS, Gate, LimitKind, read_gate
from compress.options.table import BUDGETS, CONFIG_FILE, OPTIONS, Option

# Files that hold data: a value with such a name is a path even where nothing is there yet.
DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def find_config_file(given: str | Path | None = None) -> Path | None:
    """Return the file given, else ``compress.toml`` in the current directory, else None.

    Raises:
        ConfigError: the one given does not exist.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ConfigError(f"no configuration file at '{given}'; `compress init` writes one")
        return Path(given)
    default = Path(CONFIG_FILE)
    return default if default.is_file() else None


def read_config_file(path: Path) -> tuple[dict[str, Any], Gate]:
    """Read a ``compress.toml``.

    Returns:
        Its options by name, relative paths made relative to the current directory, and its gate.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has a key that is not an option.
    """
    try:
        raw = parse_toml(read_text(path, MOST_TOML_BYTES))
    except Unreadable as error:
        raise ConfigError(f"cannot read '{path}': {error}") from None
    gate = raw.pop("gate", {})
    for name in raw:
        if name not in OPTIONS:
            hyphens = name.replace("-", "_")
            hint = f" Write '{hyphens}'." if hyphens in OPTIONS else did_you_mean(name, [*OPTIONS, "gate"])
            raise ConfigError(f"unknown key '{name}' in '{path}'.{hint}")
    return {name: _place(name, value, path.parent) for name, value in raw.items()}, read_gate(gate, f"'{path}'")


def commented_toml(values: Mapping[str, Any]) -> str:
    """Return a ``compress.toml`` that explains itself: ``values`` are set, every other option is there as a comment.

    Law: ``read_config_file`` of the result gives ``values``.
    """
    lines = [
        "# Options of `compress run`. An option on the command line wins over the one here.",
        "# Relative paths are relative to this file. Shown as a comment: what holds without the line.",
        "",
    ]
    for name, option in OPTIONS.items():
        if name == BUDGETS[0]:
            lines += [
                "# The budget: exactly one of latency_ms, speedup, macs, or unstructured; here or on the command line.",
                "",
            ]
        lines.append(f"# {option.help}")
        if name in values:
            lines.append(f"{name} = {_toml_value(values[name])}")
        else:
            lines.append(f"# {name} = {_toml_value(option.example if option.default is None else option.default)}")
        lines.append("")
    lines += [
        "# Limits that a release has to keep: `compress gate` (docs/gate.md). Remove the # of the table too.",
        "# [gate]",
    ]
    limits: list[LimitKind | Option] = [*KINDS.values(), *SETTINGS.values()]
    for limit in limits:
        lines += [f"# {limit.help}", f"# {limit.name} = {_toml_value(limit.example)}"]
    return "\n".join(lines) + "\n"


def seen_from(directory: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options given in the current directory as a file in ``directory`` must have them.

    Args:
        directory: where the file will be.
        values: options by name; relative paths that exist are adapted, and so is that of the output.
    """

    def adapted(name: str, value: Any) -> Any:
        place = OPTIONS[name].place is not None and not os.path.isabs(value)
        local = place and (name == "output" or os.path.exists(value))
        return os.path.relpath(value, directory) if local and directory.resolve() != Path.cwd() else value

    return {name: adapted(name, value) for name, value in values.items()}


def _place(name: str, value: Any, base: Path) -> Any:
    """Return a value of the file; a path in it is made relative to the current directory."""
    place = OPTIONS[name].place
    if place is None or not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    if place == "path":
        local = True
    elif place == "name or path":
        local = path.suffix == ".toml" or value.startswith(".")
    else:
        # "org/name" may be a hub name or a directory: what exists on disk, or is written as a path, is a path.
        local = os.path.exists(base / path) or value.startswith((".", "~")) or path.suffix in DATA_SUFFIXES
    return os.path.normpath(base / path) if local and base.resolve() != Path.cwd() else value


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_value(name)} = {_toml_value(one)}" for name, one in value.items()) + " }"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    # TOML allows no control character in a string but as an escape.
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match.group()):04x}", escaped) + '"'
