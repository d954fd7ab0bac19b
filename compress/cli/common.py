"""What commands share: options said once, progress on stderr, JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compress.options.help import CONFIG_FILE, DEFAULTS, EFFORTS, EMBEDDINGS, HELP, METHODS, PRECISIONS, flag

if TYPE_CHECKING:
    from compress.core.progress import Progress
    from compress.options.run_config import Resolved

Command = TypeVar("Command", bound=Callable[..., Any])


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, default=str))


@contextlib.contextmanager
def working(*, quiet: bool = False) -> Iterator[Progress]:
    """Report on stderr; whatever a library prints meanwhile goes there too, so that stdout holds the result alone."""
    from compress.cli.progress import progress_for

    with contextlib.redirect_stdout(sys.stderr):
        yield progress_for(sys.stderr, quiet=quiet)


def shown(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """The click option of a ``RunConfig`` field."""
    text = HELP[name] + (f"  [default: {DEFAULTS[name]}]" if name in DEFAULTS else "")
    return click.option(flag(name), name, help=text, **attributes)


def numbers(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> tuple[int, ...]:
    """Whole numbers above 0 of an option that was given as a list (``64,128``), several times, or not at all."""
    parts = [part.strip() for text in given for part in text.split(",")]
    wrong = [part for part in parts if not (part.isdecimal() and part.isascii() and int(part) > 0)]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is no whole number above 0; give one, or a list such as 64,128")
    return tuple(dict.fromkeys(int(part) for part in parts))


MODEL = [click.argument("model", required=False)]
CONFIG = [click.option("--config", "config_file", metavar="FILE", help=f"Options; default: ./{CONFIG_FILE} if there.")]
DATA = [
    shown("data", metavar="D"),
    shown("eval_data", metavar="E"),
    shown("text_column", metavar="NAME"),
    shown("label_column", metavar="NAME"),
    shown("task", metavar="T"),
]
BUDGET = [
    shown("latency_ms", type=float, metavar="X"),
    shown("speedup", type=float, metavar="X"),
    shown("macs", type=float, metavar="F"),
]
DEPLOYMENT = [
    shown("target", metavar="NAME"),
    shown("batch_size", type=int, metavar="N"),
    shown("seq_len", type=int, metavar="N"),
    shown("precision", type=click.Choice(PRECISIONS)),
    shown("embedding", type=click.Choice(EMBEDDINGS)),
    shown("size_mb", type=float, metavar="X"),
    shown("int8_drop", type=float, metavar="F"),
]
# Those of `compress profile`, which takes several batch sizes and lengths.
SEVERAL_DEPLOYMENTS = [
    DEPLOYMENT[0],
    shown("batch_size", multiple=True, callback=numbers, metavar="N,N,..."),
    shown("seq_len", multiple=True, callback=numbers, metavar="N,N,..."),
    *DEPLOYMENT[3:],
]
SEARCH = [
    shown("method", type=click.Choice(METHODS)),
    shown("samples", type=int, metavar="N"),
    shown("label_free", is_flag=True, default=None),
    shown("search_seconds", type=float, metavar="S"),
    shown("profile", metavar="FILE"),
]
TRAINING = [
    shown("unstructured", type=float, metavar="F"),
    shown("fine_prune", metavar="RECIPE"),
    shown("teacher", metavar="MODEL"),
    shown("checkpoints", metavar="DIR"),
    shown("checkpoint_minutes", type=float, metavar="M"),
]
EFFORT = [shown("effort", type=click.Choice(EFFORTS))]
SEED = [shown("seed", type=int, metavar="N")]
OUTPUT = [shown("output", metavar="DIR")]
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
    """Give a command several groups of options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed([option for group in (*groups, COMMON) for option in group]):
            command = option(command)
        return command

    return decorate


def resolve_config(values: dict[str, Any], config_file: str | None, *require: str) -> Resolved:
    from compress.options.run_config import find_config_file, resolve

    return resolve(values, find_config_file(config_file), require=require)
