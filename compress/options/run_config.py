"""What a run was asked to do: every option, checked, and where each value came from.

Precedence: command line over ``compress.toml`` over target over default. Names are the same everywhere: ``--seq-len``
on the command line is ``seq_len`` in the file and in Python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from compress.core.errors import ConfigError, did_you_mean
from compress.core.parsing import MOST_TOML_BYTES, Unreadable, parse_toml, read_text
from compress.core.plan import Budget, BudgetKind
from compress.options.gate_limits import Gate, read_gate
from compress.options.help import BUDGETS, CONFIG_FILE, GATE_HELP, HELP, flag

Origin = str  # "command line" ("argument" from Python), the file's name ("compress.toml"), "target" or "default"

COMMAND_LINE: Origin = "command line"
DEFAULT: Origin = "default"
TARGET: Origin = "target"

# Values that name something on disk or on a hub; read relative to the file that has them.
_PLACES = ("model", "data", "eval_data", "target", "profile", "fine_prune", "teacher", "checkpoints", "output")


def _text_of_path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Place = Annotated[str, BeforeValidator(_text_of_path), Field(min_length=1)]


def _default_output(values: dict[str, Any]) -> Path:
    """``artifacts/<model>-<target>-<budget>``, from the fields validated before ``output``."""
    model = os.path.abspath(os.path.expanduser(values.get("model", "model")))
    target = Path(values.get("target", "cpu"))
    chosen = [(kind, values[kind]) for kind in BUDGETS if values.get(kind) is not None]
    unit = {"latency_ms": "ms", "speedup": "x", "macs": "macs", "unstructured": "weights"}
    budget = "".join(f"{value:g}{unit[kind]}" for kind, value in chosen) or "dense"
    name = f"{os.path.basename(model)}-{target.stem if target.suffix == '.toml' else target.name}-{budget}"
    return Path("artifacts") / re.sub(r"[^A-Za-z0-9._-]+", "-", name)


class RunConfig(BaseModel):
    """Every option of a run.

    Attributes say what ``None`` means where a value may be absent; the meaning of each option is in
    ``compress.options.help.HELP``.

    Attributes:
        model: local directory or hub name.
        data: file, directory or hub name of the calibration data; None where a stage needs none.
        eval_data: None means the validation part of ``data``.
        task: None means guessed from the checkpoint.
        latency_ms, speedup, macs: the budget; at most one is given, none only where a stage needs none.
        unstructured: fraction of single weights that stay, in the place of a budget; None for a budget.
        profile: None means the target is measured.
        fine_prune: recipe; None trains nothing.
        teacher: None means the model itself.
        checkpoints: None keeps none.
        output: where the artifact goes; ``artifacts/<model>-<target>-<budget>`` unless given.
    """

    # strict: `speedup = "2"` or `seq_len = true` in a file is a mistake, not something to interpret.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), validate_default=True)

    model: Place
    data: Place | None = None
    eval_data: Place | None = None
    task: str | None = None
    latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    speedup: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    macs: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    unstructured: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    target: Place = "cpu"
    batch_size: int = Field(default=1, ge=1)
    seq_len: int = Field(default=128, ge=1)
    precision: Literal["fp32", "fp16", "int8", "auto"] = "fp32"
    size_mb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    int8_drop: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    method: Literal["full", "kwon"] = "full"
    samples: int = Field(default=2048, ge=1)
    label_free: bool = False
    text_column: str | None = None
    label_column: str | None = None
    embedding: Literal["normalized", "pooled", "tokens"] | None = None
    profile: Annotated[Path | None, Field(strict=False)] = None
    fine_prune: Annotated[str | None, BeforeValidator(_text_of_path)] = None
    teacher: Place | None = None
    checkpoints: Place | None = None
    checkpoint_minutes: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    effort: Literal["fast", "standard", "thorough"] = "standard"
    search_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**32)
    output: Annotated[Path, Field(strict=False, default_factory=_default_output)]

    @property
    def budget_given(self) -> Budget | None:
        """The budget, or None where none was given."""
        kinds: tuple[BudgetKind, ...] = ("latency_ms", "speedup", "macs")
        given = [(kind, getattr(self, kind)) for kind in kinds if getattr(self, kind) is not None]
        if len(given) > 1:
            raise ConfigError(_two_budgets(given))
        return Budget(*given[0]) if given else None

    @property
    def budget(self) -> Budget:
        """The budget.

        Raises:
            ConfigError: none was given.
        """
        budget = self.budget_given
        if budget is None and self.unstructured is not None:
            raise ConfigError(
                f"--unstructured {self.unstructured:g} is for `compress run` alone; give one of --latency-ms, "
                "--speedup, --macs here"
            )
        if budget is None:
            raise ConfigError(_MISSING["budget"])
        return budget

    @property
    def calibration_data(self) -> str:
        """Where the calibration data is.

        Raises:
            ConfigError: none was given.
        """
        if self.data is None:
            raise ConfigError(_MISSING["data"])
        return self.data

    @property
    def evaluation_data(self) -> str:
        """Where the evaluation data is: ``eval_data``, or else ``data``, whose validation part is then meant.

        Raises:
            ConfigError: neither was given.
        """
        return self.eval_data or self.calibration_data


@dataclass(frozen=True)
class Resolved:
    """A configuration and its history.

    Attributes:
        config: the values.
        origins: per option of ``RunConfig``, where its value came from.
        config_file: the file that was read; None where there was none.
        gate: the file's ``[gate]`` table.
    """

    config: RunConfig
    origins: dict[str, Origin]
    config_file: Path | None = None
    gate: Gate = field(default_factory=Gate)

    def rows(self) -> list[tuple[str, Any, Origin]]:
        """Name, value (plain JSON types) and origin of every option, in the order of ``HELP``."""
        values = self.config.model_dump(mode="json")
        return [(name, values[name], self.origins[name]) for name in HELP]


def find_config_file(given: str | Path | None = None) -> Path | None:
    """The configuration file: the one given, else ``compress.toml`` in the current directory, else None.

    Raises:
        ConfigError: the one given does not exist.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ConfigError(f"no configuration file at '{given}'; `compress init` writes one")
        return Path(given)
    default = Path(CONFIG_FILE)
    return default if default.is_file() else None


def resolve(
    cli_values: Mapping[str, Any],
    config_file: Path | None = None,
    *,
    require: Collection[str] = (),
    given_as: Origin = COMMAND_LINE,
) -> Resolved:
    """Bring command line, file, target and defaults together.

    Args:
        cli_values: options given on the command line or in Python; a None value counts as not given.
        config_file: a ``compress.toml``, or None.
        require: what the caller cannot do without, of ``"data"`` and ``"budget"``. The model is always required.
        given_as: what ``cli_values`` are called as an origin; anything but the command line's name is a Python caller.

    Raises:
        ConfigError: an unknown key, a wrong value, two budgets, or something required is absent.
        TargetError: the target is unknown.
    """
    given = {name: value for name, value in cli_values.items() if value is not None}
    from_file, gate = read_config_file(config_file) if config_file is not None else ({}, Gate())
    _one_budget(given)
    _one_budget(from_file, config_file)
    # A budget on the command line replaces the file's, of whatever kind: two of them would contradict each other.
    if any(kind in given for kind in BUDGETS):
        from_file = {name: value for name, value in from_file.items() if name not in BUDGETS}

    file_origin = config_file.name if config_file is not None else CONFIG_FILE
    origins = dict.fromkeys(HELP, DEFAULT)
    origins.update(dict.fromkeys(from_file, file_origin))
    origins.update(dict.fromkeys(given, given_as))
    merged = {**from_file, **given}
    if "precision" not in merged:
        merged["precision"] = _target_precision(merged.get("target", "cpu"))
        origins["precision"] = TARGET

    for name in ("model", *require):
        absent = not any(kind in merged for kind in BUDGETS) if name == "budget" else name not in merged
        if absent:
            raise ConfigError(_MISSING[name])
    return Resolved(config=make_config(merged, origins), origins=origins, config_file=config_file, gate=gate)


def make_config(values: Mapping[str, Any], origins: Mapping[str, Origin] | None = None) -> RunConfig:
    """A configuration from values alone, without a file: what is absent has its default.

    Args:
        values: as in ``RunConfig``; more than one budget is an error.
        origins: where they came from, for messages.

    Raises:
        ConfigError: an unknown name or a wrong value.
    """
    _one_budget({name: value for name, value in values.items() if value is not None})
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins or {})) from None
    if config.size_mb is not None and config.method == "kwon":
        raise ConfigError("--size-mb is a constraint of --method full; the search of kwon knows one budget alone")
    return config


def read_config_file(path: Path) -> tuple[dict[str, Any], Gate]:
    """Read a ``compress.toml``: its options, with relative places made relative to the file, and its gate limits.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has a key that is no option.
    """
    try:
        raw = parse_toml(read_text(path, MOST_TOML_BYTES))
    except Unreadable as error:
        raise ConfigError(f"cannot read '{path}': {error}") from None
    gate = raw.pop("gate", {})
    for name in raw:
        if name not in HELP:
            hyphens = name.replace("-", "_")
            hint = f" Write '{hyphens}'." if hyphens in HELP else did_you_mean(name, [*HELP, "gate"])
            raise ConfigError(f"unknown key '{name}' in '{path}'.{hint}")
    return {name: _place(name, value, path.parent) for name, value in raw.items()}, read_gate(gate, f"'{path}'")


def commented_toml(values: Mapping[str, Any]) -> str:
    """A ``compress.toml`` that explains itself: ``values`` are set, everything else is there as a comment.

    Law: ``read_config_file`` of the result gives ``values``.
    """
    lines = [
        "# Options of `compress run`. An option on the command line wins over the one here.",
        "# Relative paths are relative to this file. Shown as a comment: what holds without the line.",
        "",
    ]
    for name, info in RunConfig.model_fields.items():
        if name in BUDGETS and name == BUDGETS[0]:
            lines += [
                "# The budget: exactly one of latency_ms, speedup, macs, or unstructured; here or on the command line.",
                "",
            ]
        lines.append(f"# {HELP[name]}")
        if name in values:
            lines.append(f"{name} = {_toml_value(values[name])}")
        else:
            default = None if info.default_factory is not None else info.default
            examples = {
                "model": "path/to/model",
                "data": "path/to/train.csv",
                "latency_ms": 5.0,
                "speedup": 2.0,
                "macs": 0.5,
                "unstructured": 0.1,
                "embedding": "normalized",
                "search_seconds": 60.0,
                "size_mb": 50.0,
                "fine_prune": "quick",
            }
            fallback = examples.get(name, "...")
            shown = fallback if default is None or info.is_required() else default
            lines.append(f"# {name} = {_toml_value(shown)}")
        lines.append("")
    lines += [
        "# Limits that a release has to keep: `compress gate` (docs/gate.md). Remove the # of the table too.",
        "# [gate]",
    ]
    examples_of_limits = {
        "max_size_mb": 50,
        "max_file_size_mb": {"model.onnx": 25},
        "max_latency_ms": 5.0,
        "min_speedup": 2.0,
        "min_accuracy": 0.9,
        "max_drop": ["1 %", "0.005 against baseline"],
        "max_macs": 0.5,
        "max_parity": 0.001,
        "max_age_days": 30,
        "device": "EPYC",
    }
    for name, text in GATE_HELP.items():
        lines += [f"# {text}", f"# {name} = {_toml_value(examples_of_limits[name])}"]
    return "\n".join(lines) + "\n"


def seen_from(directory: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options given in the current directory as a file in ``directory`` has to have them: existing paths adapted."""

    def adapted(name: str, value: Any) -> Any:
        local = name in _PLACES and not os.path.isabs(value) and (name == "output" or os.path.exists(value))
        return os.path.relpath(value, directory) if local and directory.resolve() != Path.cwd() else value

    return {name: adapted(name, value) for name, value in values.items()}


_MISSING = {
    "model": f"no model given: name a directory or hub model on the command line, or set `model` in {CONFIG_FILE} "
    "(`compress init` writes one)",
    "data": f"no data given: use --data, or set `data` in {CONFIG_FILE}",
    "budget": "no budget given: use exactly one of --latency-ms, --speedup, --macs (or --unstructured), "
    f"or set latency_ms, speedup or macs in {CONFIG_FILE}",
}


def _two_budgets(given: list[tuple[BudgetKind, float]] | list[tuple[str, Any]]) -> str:
    return f"more than one budget: {' and '.join(f'{flag(k)} {v}' for k, v in given)}; give exactly one"


def _one_budget(values: Mapping[str, Any], file: Path | None = None) -> None:
    given = [(kind, values[kind]) for kind in BUDGETS if kind in values]
    if len(given) > 1:
        where = f" ('{file}')" if file is not None else ""
        raise ConfigError(_two_budgets(given) + where)


def _target_precision(target: object) -> str:
    if not isinstance(target, (str, os.PathLike)) or not str(target):
        return "fp32"  # the target itself is wrong, which RunConfig says

    from compress.profile.target import load_target

    return load_target(os.fspath(target)).precision


def _place(name: str, value: Any, base: Path) -> Any:
    """A value of the file, its path (if it is one) made relative to the file's directory instead of the current one."""
    if name not in _PLACES or not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    here = base.resolve() == Path.cwd()
    if name in ("profile", "checkpoints", "output"):
        local = True
    elif name in ("target", "fine_prune"):
        local = path.suffix == ".toml" or value.startswith(".")
    else:
        # "org/name" may be a hub name or a directory: what exists on disk, or is written as a path, is a path.
        local = (base / path).exists() or value.startswith((".", "~")) or path.suffix in _DATA_SUFFIXES
    return value if here or not local else os.path.normpath(base / path)


_DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


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


def _explain(error: ValidationError, origins: Mapping[str, Origin]) -> str:
    """A validation error as a sentence: which option, what was wrong, the value, where it came from."""
    parts = []
    for problem in error.errors(include_url=False):
        if problem["type"] == "default_factory_not_called":
            continue  # a consequence of another problem in the list
        name = str(problem["loc"][0]) if problem["loc"] else "value"
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown option '{name}'.{did_you_mean(name, list(HELP))}")
            continue
        shown = flag(name) if origins.get(name) == COMMAND_LINE else name
        where = f" ({origins[name]})" if origins.get(name) not in (None, COMMAND_LINE) else ""
        what = problem["msg"].removeprefix("Value error, ").replace("Input should", "must")
        sentence = f"{shown} {what}, got {problem['input']!r}{where}"
        if name in ("macs", "unstructured") and problem["type"] == "less_than_equal":
            sentence += "; it is a fraction: 0.5 keeps half"
        if sentence not in parts:
            parts.append(sentence)
    return "; ".join(parts)
