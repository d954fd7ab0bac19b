"""The configuration of a run: every option, checked, and the origin of each value.

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
from compress.core.plan import Budget, BudgetKind
from compress.options.gate_limits import Gate
from compress.options.table import BUDGETS, CONFIG_FILE, FORMATS, OPTIONS, flag
from compress.options.toml_file import read_config_file

Origin = str  # "command line" ("argument" from Python), the file's name ("compress.toml"), "target" or "default"

COMMAND_LINE: Origin = "command line"
DEFAULT: Origin = "default"
TARGET: Origin = "target"


def _text_of_path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Place = Annotated[str, BeforeValidator(_text_of_path), Field(min_length=1)]


def _text_of_device(value: object) -> object:
    """Return the name of a device; a ``torch.device`` is one too."""
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        value = str(value)
    if isinstance(value, str) and not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, cuda:N (as cuda:1) or mps")
    return value


def _text_of_formats(value: object) -> object:
    """Return number formats as one text; a list of them, as a file or Python may have, is joined."""
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        value = ",".join(value)
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",")]
    wrong = next((part for part in parts if part not in FORMATS), None)
    if wrong is not None:
        raise ValueError(f"must be of {', '.join(FORMATS)}, with commas between ({wrong!r} is none of them)")
    twice = next((part for part in parts if parts.count(part) > 1), None)
    if twice is not None:
        raise ValueError(f"names {twice} twice")
    return ",".join(parts)


def _default_output(values: dict[str, Any]) -> Path:
    """Return ``artifacts/<model>-<target>-<budget>``, from the fields validated before ``output``."""
    model = os.path.abspath(os.path.expanduser(values.get("model", "model")))
    target = Path(values.get("target", "cpu"))
    chosen = [(kind, values[kind]) for kind in BUDGETS if values.get(kind) is not None]
    unit = {"latency_ms": "ms", "speedup": "x", "macs": "macs", "unstructured": "weights"}
    budget = "".join(f"{value:g}{unit[kind]}" for kind, value in chosen) or "dense"
    name = f"{os.path.basename(model)}-{target.stem if target.suffix == '.toml' else target.name}-{budget}"
    return Path("artifacts") / re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _stated(name: str) -> Any:
    """Return the field of an option with the default and the bounds that the table states."""
    option = OPTIONS[name]
    finite = False if option.type is float else None
    return Field(option.default, gt=option.above, ge=option.least, le=option.most, allow_inf_nan=finite)


class RunConfig(BaseModel):
    """Every option of a run.

    The table of options (``compress.options.table``) has the meaning, the default and the bounds of each. Here stands
    what ``None`` means.

    Attributes:
        model: local directory or hub name.
        data: file, directory or hub name of the calibration data; None where a stage needs none.
        eval_data: None means the validation part of ``data``.
        task: None means guessed from the checkpoint.
        latency_ms: budget in milliseconds; at most one budget is given, none only where a stage needs none.
        speedup: budget as a factor over the dense model.
        macs: budget as a fraction of the dense model's multiply-accumulates.
        keep: number formats with commas between, each once; None means that of model.onnx alone.
        int8: None means invariant where it costs little.
        prompt: name of a sentence encoder's prompt, ``none`` for no prompt; None means its default prompt.
        unstructured: fraction of single weights that stay, instead of a budget; None for a budget.
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
    latency_ms: float | None = _stated("latency_ms")
    speedup: float | None = _stated("speedup")
    macs: float | None = _stated("macs")
    unstructured: float | None = _stated("unstructured")
    target: Place = _stated("target")
    batch_size: int = _stated("batch_size")
    seq_len: int = _stated("seq_len")
    precision: Literal["fp32", "fp16", "int8", "auto"] = _stated("precision")
    keep: Annotated[str | None, BeforeValidator(_text_of_formats)] = None
    size_mb: float | None = _stated("size_mb")
    int8: Literal["invariant", "fastest"] | None = None
    int8_drop: float = _stated("int8_drop")
    method: Literal["full", "kwon"] = _stated("method")
    samples: int = _stated("samples")
    distill_samples: int | None = _stated("distill_samples")
    label_free: bool = _stated("label_free")
    allow_chance: bool = _stated("allow_chance")
    text_column: str | None = None
    label_column: str | None = None
    embedding: Literal["normalized", "pooled", "tokens"] | None = None
    prompt: str | None = None
    profile: Annotated[Path | None, Field(strict=False)] = None
    fine_prune: Annotated[str | None, BeforeValidator(_text_of_path)] = None
    teacher: Place | None = None
    checkpoints: Place | None = None
    checkpoint_minutes: float = _stated("checkpoint_minutes")
    effort: Literal["fast", "standard", "thorough"] = _stated("effort")
    search_seconds: float | None = _stated("search_seconds")
    device: Annotated[str, BeforeValidator(_text_of_device)] = _stated("device")
    seed: int = _stated("seed")
    pytorch: Literal["narrow", "padded"] = _stated("pytorch")
    output: Annotated[Path, Field(strict=False, default_factory=_default_output)]

    @property
    def formats(self) -> tuple[str, ...]:
        """The number formats of ``keep``; empty where none were named."""
        return () if self.keep is None else tuple(self.keep.split(","))

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
    """A configuration and the origins of its values.

    Attributes:
        config: the values.
        origins: origin of the value of each option.
        config_file: the file that was read; None where there was none.
        gate: the file's ``[gate]`` table.
    """

    config: RunConfig
    origins: dict[str, Origin]
    config_file: Path | None = None
    gate: Gate = field(default_factory=Gate)

    def rows(self) -> list[tuple[str, Any, Origin]]:
        """Return name, value (plain JSON types) and origin of every option, in the order of ``OPTIONS``."""
        values = self.config.model_dump(mode="json")
        return [(name, values[name], self.origins[name]) for name in OPTIONS]


def resolve(
    cli_values: Mapping[str, Any],
    config_file: Path | None = None,
    *,
    require: Collection[str] = (),
    given_as: Origin = COMMAND_LINE,
) -> Resolved:
    """Return the configuration of command line, file, target and defaults together.

    Args:
        cli_values: options given on the command line or in Python; a None value counts as not given.
        config_file: a ``compress.toml``, or None.
        require: options that the caller needs, of ``"data"`` and ``"budget"``. The model is always required.
        given_as: origin of ``cli_values``; anything but the command line's name is a Python caller.

    Raises:
        ConfigError: a key is unknown, a value is wrong, there are two budgets, or a required option is missing.
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
    origins = dict.fromkeys(OPTIONS, DEFAULT)
    origins.update(dict.fromkeys(from_file, file_origin))
    origins.update(dict.fromkeys(given, given_as))
    merged = {**from_file, **given}
    if "precision" not in merged and "keep" in merged and "unstructured" not in merged:
        # The formats to keep are the candidates.
        merged["precision"], origins["precision"] = "auto", origins["keep"]
    elif "precision" not in merged:
        merged["precision"] = _target_precision(merged.get("target", "cpu"))
        origins["precision"] = TARGET

    for name in ("model", *require):
        absent = not any(kind in merged for kind in BUDGETS) if name == "budget" else name not in merged
        if absent:
            raise ConfigError(_MISSING[name])
    return Resolved(config=make_config(merged, origins), origins=origins, config_file=config_file, gate=gate)


def make_config(values: Mapping[str, Any], origins: Mapping[str, Origin] | None = None) -> RunConfig:
    """Return a configuration of values alone, without a file; other options have their defaults.

    Args:
        values: options by name; more than one budget is an error.
        origins: origins of the values, for messages.

    Raises:
        ConfigError: a name is unknown, or a value is wrong.
    """
    _one_budget({name: value for name, value in values.items() if value is not None})
    try:
        config = RunConfig(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins or {})) from None
    if config.size_mb is not None and config.method == "kwon":
        raise ConfigError("--size-mb is a constraint of --method full; the search of kwon knows one budget alone")
    if config.keep is not None and config.precision not in ("auto", *config.formats):
        raise ConfigError(
            f"--precision {config.precision} says what model.onnx is, and --keep {config.keep} does not have it; add "
            "it there, or leave --precision out: the most accurate of those kept is model.onnx then"
        )
    return config


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


def _explain(error: ValidationError, origins: Mapping[str, Origin]) -> str:
    """Return a validation error as a sentence: the option, what is wrong, the value, its origin."""
    parts = []
    for problem in error.errors(include_url=False):
        if problem["type"] == "default_factory_not_called":
            continue  # a consequence of another problem in the list
        name = str(problem["loc"][0]) if problem["loc"] else "value"
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown option '{name}'.{did_you_mean(name, list(OPTIONS))}")
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
