"""Options that commands share, progress on stderr, JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compress.options.help import DEFAULTS
from compress.options.table import CONFIG_FILE, OPTIONS, flag

if TYPE_CHECKING:
    from compress.core.progress import Progress
    from compress.options.run_config import Resolved

Command = TypeVar("Command", bound=Callable[..., Any])


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, default=str))


@contextlib.contextmanager
def working(*, quiet: bool = False) -> Iterator[Progress]:
    """Report on stderr, and send there what libraries print meanwhile: stdout holds the result alone.

    Args:
        quiet: whether nothing is reported.
    """
    from compress.cli.progress import progress_for

    with contextlib.redirect_stdout(sys.stderr):
        yield progress_for(sys.stderr, quiet=quiet)


def shown(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return the click option of a ``RunConfig`` field.

    Args:
        name: the field.
        attributes: of the click option; they win over those of the table of options.
    """
    option = OPTIONS[name]
    kind: dict[str, Any] = {"type": option.type, "metavar": option.metavar}
    if option.choices:
        kind = {"type": click.Choice(option.choices)}
    elif option.type is bool:
        kind = {"is_flag": True, "default": None}
    text = option.help + (f"  [default: {DEFAULTS[name]}]" if name in DEFAULTS else "")
    return click.option(flag(name), name, help=text, **{**kind, **attributes})


def _options(*names: str) -> list[Callable[[Any], Any]]:
    return [shown(name) for name in names]


def numbers(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[int, ...]:
    """Return the numbers of an option that was given as a list (``64,128``), several times, or not at all.

    Args:
        ctx: click's.
        param: click's.
        given: texts, in the order of the command line.
    """
    parts = [part.strip() for text in given for part in text.split(",")]
    wrong = [part for part in parts if not (part.isdecimal() and part.isascii() and int(part) > 0)]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not a whole number above 0; give one, or a list such as 64,128")
    return tuple(dict.fromkeys(int(part) for part in parts))


MODEL = [click.argument("model", required=False)]
CONFIG = [click.option("--config", "config_file", metavar="FILE", help=f"Options; default: ./{CONFIG_FILE} if there.")]
DATA = _options("data", "eval_data", "text_column", "label_column", "task", "allow_chance")
BUDGET = _options("latency_ms", "speedup", "macs")
DEPLOYMENT = _options(
    *("target", "batch_size", "seq_len", "precision", "int8", "embedding", "prompt", "size_mb", "int8_drop")
)
# `compress profile` takes several batch sizes and lengths.
SEVERAL_DEPLOYMENTS = [
    DEPLOYMENT[0],
    shown("batch_size", type=str, multiple=True, callback=numbers, metavar="N,N,..."),
    shown("seq_len", type=str, multiple=True, callback=numbers, metavar="N,N,..."),
    *DEPLOYMENT[3:],
]
SEARCH = _options("method", "samples", "label_free", "search_seconds", "profile")
RECONSTRUCTION = _options("distill_samples")
TRAINING = _options("unstructured", "fine_prune", "teacher", "checkpoints", "checkpoint_minutes")
EFFORT = _options("effort")
COMPUTE = _options("device")
SEED = _options("seed")
OUTPUT = _options("output")
CHECKPOINT = _options("pytorch")
KEEP = _options("keep")
RESUME = click.option(
    "--resume",
    is_flag=True,
    help="Use again what earlier runs have stored: profile, calibration and so on.",
)
COMMON = [
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; logs go to stderr."),
    click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
]


def with_options(*groups: Sequence[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command several groups of options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed([option for group in (*groups, COMMON) for option in group]):
            command = option(command)
        return command

    return decorate


def resolve_device(device: str | None) -> str:
    """Return where PyTorch should compute, checked.

    Args:
        device: of the command line; None where it was not given.
    """
    from compress.options.run_config import resolve

    return resolve({"model": "model", "device": device}).config.device


def resolve_config(values: dict[str, Any], config_file: str | None, *require: str) -> Resolved:
    """Return the configuration of a command.

    Args:
        values: options of the command line by name; None where one was not given.
        config_file: a ``compress.toml``; None takes the one in the current directory, if there is one.
        require: what the command cannot do without, ``"data"`` or ``"budget"``.
    """
    from compress.options.run_config import resolve
    from compress.options.toml_file import find_config_file

    return resolve(values, find_config_file(config_file), require=require)
