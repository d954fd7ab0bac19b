"""The command line: parse, call, print. What the commands do is in ``compress.pipeline``.

Heavy libraries are imported inside the commands that need them: ``compress --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compress._version import __version__
from compress.errors import EXIT_ERROR, EXIT_PASS, CompressError, ConfigError, did_you_mean
from compress.options import CONFIG_FILE, DEFAULTS, EFFORTS, EMBEDDINGS, HELP, METHODS, PRECISIONS, flag

if TYPE_CHECKING:
    from compress.config import Resolved
    from compress.progress import Progress

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """The group of commands: suggests the nearest name, and ends quietly when the reader of a pipe has gone."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in self.commands:
            raise click.UsageError(f"no command '{name}'.{did_you_mean(name, list(self.commands))}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # What is still buffered has nowhere to go; without this Python complains about it when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE_CLOSED)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 pass, 1 not met, 2 inconclusive, 3 error, 130 interrupted."""
    given = list(sys.argv[1:] if args is None else args)
    debug, as_json = "--debug" in given, "--json" in given
    try:
        result = cli.main(given, prog_name="compress", standalone_mode=False)
        return result if isinstance(result, int) else EXIT_PASS
    except click.Abort:
        message, code = "interrupted; nothing was written", EXIT_INTERRUPTED
    except click.ClickException as error:
        # click would exit with 2 here, which means "inconclusive" for this tool.
        error.show()
        message, code = "", EXIT_ERROR
        if as_json:
            _print_json({"error": error.format_message(), "exit_code": code})
        return code
    except Exception as error:
        if debug:
            _print_traceback(error)
        message, code = describe(error)
    click.echo(f"error: {message}", err=True)
    if as_json:
        _print_json({"error": message, "exit_code": code})
    return code


def _print_traceback(error: Exception) -> None:
    """Print the traceback of an error on stderr."""
    import traceback

    traceback.print_exception(error, file=sys.stderr)


def describe(error: Exception) -> tuple[str, int]:
    """The message for an error, and the exit code."""
    if isinstance(error, CompressError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory; try a smaller --batch-size, --seq-len or --samples", EXIT_ERROR
    number = error.errno if isinstance(error, OSError) else None
    where = f" ('{error.filename}')" if isinstance(error, OSError) and error.filename else ""
    # Libraries written in other languages (safetensors) report a full disk as an error of their own.
    if number == errno.ENOSPC or "No space left on device" in str(error):
        return f"the disk is full{where}; free some space, or choose another --output", EXIT_ERROR
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{os.strerror(number)}{where}; choose a place that can be written to and read", EXIT_ERROR
    return f"{type(error).__name__}: {error} (unexpected; run again with --debug for the traceback)", EXIT_ERROR


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, default=str))


@contextlib.contextmanager
def _working(*, quiet: bool = False) -> Iterator[Progress]:
    """Report on stderr; whatever a library prints meanwhile goes there too, so that stdout holds the result alone."""
    from compress.progress import progress_for

    with contextlib.redirect_stdout(sys.stderr):
        yield progress_for(sys.stderr, quiet=quiet)


def _shown(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """The click option of a ``RunConfig`` field."""
    text = HELP[name] + (f"  [default: {DEFAULTS[name]}]" if name in DEFAULTS else "")
    return click.option(flag(name), name, help=text, **attributes)


_MODEL = [click.argument("model", required=False)]
_CONFIG = [click.option("--config", "config_file", metavar="FILE", help=f"Options; default: ./{CONFIG_FILE} if there.")]
_DATA = [
    _shown("data", metavar="D"),
    _shown("eval_data", metavar="E"),
    _shown("text_column", metavar="NAME"),
    _shown("label_column", metavar="NAME"),
    _shown("task", metavar="T"),
]
_BUDGET = [
    _shown("latency_ms", type=float, metavar="X"),
    _shown("speedup", type=float, metavar="X"),
    _shown("macs", type=float, metavar="F"),
]
_DEPLOYMENT = [
    _shown("target", metavar="NAME"),
    _shown("batch_size", type=int, metavar="N"),
    _shown("seq_len", type=int, metavar="N"),
    _shown("precision", type=click.Choice(PRECISIONS)),
    _shown("embedding", type=click.Choice(EMBEDDINGS)),
    _shown("int8_drop", type=float, metavar="F"),
]
_SEARCH = [
    _shown("method", type=click.Choice(METHODS)),
    _shown("samples", type=int, metavar="N"),
    _shown("label_free", is_flag=True, default=None),
    _shown("search_seconds", type=float, metavar="S"),
    _shown("profile", metavar="FILE"),
]
_EFFORT = [_shown("effort", type=click.Choice(EFFORTS))]
_SEED = [_shown("seed", type=int, metavar="N")]
_OUTPUT = [_shown("output", metavar="DIR")]
_COMMON = [
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout; logs go to stderr."),
    click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
]


def _with(*groups: Sequence[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    """Give a command several groups of options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed([option for group in (*groups, _COMMON) for option in group]):
            command = option(command)
        return command

    return decorate


def _resolve(values: dict[str, Any], config_file: str | None, *require: str) -> Resolved:
    from compress.config import find_config_file, resolve

    return resolve(values, find_config_file(config_file), require=require)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="compress")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Fit a fine-tuned Transformer encoder into a latency budget, and prove it on the exported file.

    \b
    Example:
      compress run path/to/model --data train.csv --speedup 2 --target cpu

    Exit codes: 0 pass, 1 the budget is not met, 2 inconclusive, 3 error.
    """


@cli.command(short_help="Compress a model to a budget.")
@_with(_MODEL, _DATA, _BUDGET, _DEPLOYMENT, _SEARCH, _EFFORT, _SEED, _OUTPUT, _CONFIG)
@click.option("--dry-run", is_flag=True, help="Show every option, its value and where it came from; do nothing.")
def run(config_file: str | None, dry_run: bool, as_json: bool, **values: Any) -> int:
    """Compress MODEL to a budget: profile, calibrate, search, reconstruct, export, validate.

    \b
    Examples:
      compress run path/to/model --data train.csv --eval-data dev.csv --speedup 2 --output out
      compress run --latency-ms 5 --target cpu        # the rest from compress.toml
    """
    resolved = _resolve(values, config_file, "data", "budget")
    from compress import render

    if dry_run:
        if as_json:
            _print_json({"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins})
        else:
            render.configuration(resolved)
        return EXIT_PASS
    with _working() as progress:
        from compress import pipeline

        result = pipeline.run(resolved.config, progress=progress)
    _print_json(render.result_document(result)) if as_json else render.result(result, resolved.config)
    return int(result.exit_code)


@cli.command(short_help="Write a commented compress.toml.")
@_with(_MODEL, _DATA, _BUDGET, _DEPLOYMENT, _SEARCH, _EFFORT, _SEED)
@click.option("--config", "config_file", metavar="FILE", default=CONFIG_FILE, help="File to write.", show_default=True)
def init(config_file: str, as_json: bool, **values: Any) -> None:
    """Write a commented compress.toml; options given here are set in it.

    \b
    Example:
      compress init path/to/model --data train.csv --speedup 2
    """
    from compress.config import commented_toml, resolve, seen_from

    path = Path(config_file)
    given = {name: value for name, value in values.items() if value is not None}
    # Values are checked here rather than when the file is first used; the model may come later.
    resolve({"model": "model", **given})
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_toml(seen_from(path.parent, given)))
    except FileExistsError:
        raise ConfigError(f"'{path}' exists; edit it, remove it, or choose another name with --config") from None
    except FileNotFoundError:
        raise ConfigError(f"'{path.parent}' does not exist; make the directory first") from None
    _print_json({"config_file": str(path)}) if as_json else click.echo(f"wrote {path}; next: compress run --dry-run")


@cli.command(short_help="Measure heads and filters on the target.")
@_with(_MODEL, _DATA, _DEPLOYMENT, _EFFORT, _SEED, _CONFIG)
@click.option("--output", "output_file", metavar="FILE", help="Profile to write.  [default: profile-<target>.json]")
@click.option("--plot", metavar="FILE", help="Draw it too: .png or .svg (needs the extra `plot`).")
@click.option("--estimate", is_flag=True, help="Estimate it from the target's data sheet; nothing is measured.")
def profile(
    config_file: str | None, output_file: str | None, plot: str | None, estimate: bool, as_json: bool, **values: Any
) -> None:
    """Measure how long heads and filters of MODEL take on the target, and save it as JSON, which plans anywhere.

    \b
    Examples:
      compress profile path/to/model --data train.csv --target cpu --seq-len 64 --plot profile.png
      compress profile path/to/model --target v100 --output v100.json      # on the device
    """
    resolved = _resolve(values, config_file)
    path = Path(output_file or f"profile-{Path(resolved.config.target).stem}.json")
    # Before the measurement: finding out afterwards would cost a minute.
    if path.exists():
        raise ConfigError(f"'{path}' exists; remove it, or choose another name with --output")
    if not path.parent.is_dir():
        raise ConfigError(f"'{path.parent}' does not exist; make the directory first")
    with _working() as progress:
        from compress import pipeline

        measured = pipeline.profile_model(resolved.config, estimate=estimate, progress=progress)
        measured.write(path)
        if plot:
            from compress.profile.draw import save_plot

            save_plot(measured, Path(plot))
    if as_json:
        _print_json(json.loads(measured.to_json()))
        return
    from compress.profile.draw import draw

    draw(measured)
    click.echo(f"profile: {path}" + (f"   plot: {plot}" if plot else ""))


@cli.command(short_help="Search only; write no weights.")
@_with(_MODEL, _DATA, _BUDGET, _DEPLOYMENT, _SEARCH, _EFFORT, _SEED, _CONFIG)
@click.option("--output", "output_file", metavar="FILE", help="Write the plan here as JSON, for `compress export`.")
def plan(config_file: str | None, output_file: str | None, as_json: bool, **values: Any) -> None:
    """Search only: which heads and filters of MODEL would be kept. Writes no weights.

    \b
    Example:
      compress plan path/to/model --data train.csv --speedup 2 --output plan.json
    """
    resolved = _resolve(values, config_file, "data", "budget")
    if output_file and Path(output_file).exists():
        raise ConfigError(f"'{output_file}' exists; remove it, or choose another name with --output")
    with _working() as progress:
        from compress import pipeline

        found, _profile = pipeline.make_plan(resolved.config, progress=progress)
    if output_file:
        Path(output_file).write_text(found.to_json(), encoding="utf-8")
    if as_json:
        _print_json(json.loads(found.to_json()))
        return
    from compress import render

    render.plan(found)
    if output_file:
        click.echo(f"plan: {output_file}")


@cli.command(short_help="Many budgets: accuracy against latency.")
@_with(_MODEL, _DATA, _DEPLOYMENT, _SEARCH, _EFFORT, _SEED, _OUTPUT, _CONFIG)
@click.option("--latency-ms", metavar="X,X,...", help="Budgets: milliseconds of one call on the target.")
@click.option("--speedup", metavar="X,X,...", help="Budgets: times faster than the dense model in fp32.")
def sweep(config_file: str | None, latency_ms: str | None, speedup: str | None, as_json: bool, **values: Any) -> None:
    """Compress MODEL to many budgets with one calibration and one profile; table and picture, no artifacts.

    \b
    Example:
      compress sweep path/to/model --data train.csv --speedup 1.5,2,3 --precision auto --output sweep
    """
    from compress.sweep import parse_budgets
    from compress.sweep import sweep as sweep_budgets

    if (latency_ms is None) == (speedup is None):
        raise ConfigError("give the budgets of the sweep with one of --latency-ms 4,6,8 and --speedup 1.5,2,3")
    budgets = parse_budgets("latency_ms", latency_ms) if latency_ms else parse_budgets("speedup", speedup or "")
    given = {"output": "sweep", **{name: value for name, value in values.items() if value is not None}}
    resolved = _resolve(given, config_file, "data")
    with _working() as progress:
        found = sweep_budgets(resolved.config, budgets, progress=progress)
    from compress import render

    _print_json(found.document()) if as_json else render.swept(found)


@cli.command(short_help="Export a model, dense or with a plan applied.")
@_with(_MODEL, _DATA, _DEPLOYMENT, _SEED, _OUTPUT, _CONFIG)
@click.option("--plan", "plan_file", metavar="FILE", help="Plan to apply; without it, the dense model is exported.")
def export(config_file: str | None, plan_file: str | None, as_json: bool, **values: Any) -> None:
    """Export MODEL to ONNX: dense, or with a plan applied (reconstructed where data is given).

    \b
    Example:
      compress export path/to/model --plan plan.json --data train.csv --output out
    """
    resolved = _resolve(values, config_file)
    from compress.plan import Plan

    chosen = Plan.read(plan_file) if plan_file else None
    with _working() as progress:
        from compress import pipeline

        output = pipeline.export_plan(resolved.config, chosen, progress=progress)
    _print_json({"output": str(output)}) if as_json else click.echo(f"artifact: {output}")


@cli.command(short_help="Measure an artifact again.")
@click.argument("artifact", metavar="OUT")
@_with(_DATA[:4], _DEPLOYMENT[:3])
def validate(artifact: str, as_json: bool, **values: Any) -> int:
    """Measure an artifact again: latency against the dense model, accuracy, parity. Options override the artifact's.

    \b
    Example:
      compress validate out --eval-data dev.csv
    """
    from compress.config import make_config

    overrides = {name: value for name, value in values.items() if value is not None}
    # Wrong values are named as such here; the artifact's own model takes the place of this one.
    make_config({"model": "model", **overrides}, dict.fromkeys(overrides, "command line"))
    with _working() as progress:
        from compress import pipeline

        result = pipeline.validate_artifact(Path(artifact), overrides, progress=progress)
    from compress import render

    _print_json(render.result_document(result)) if as_json else render.result(result)
    return int(result.exit_code)


@cli.command(short_help="Where an artifact's time goes.")
@click.argument("artifact", metavar="OUT")
@_with()
def why(artifact: str, as_json: bool) -> None:
    """Where an artifact's time goes, sublayer by sublayer, and what one ms more or less would buy.

    \b
    Example:
      compress why out
    """
    with _working():
        from compress import pipeline

        reasons = pipeline.why(Path(artifact))
    from compress import render

    _print_json(reasons) if as_json else render.why(reasons)


@cli.command(short_help="List the devices there are.")
@_with()
def targets(as_json: bool) -> None:
    """List the devices that `--target` knows, and where a run on this machine takes their profiles from.

    \b
    Profiles: measured here; estimated (from the data sheet, for planning); none (bring one from the device).
    Example:
      compress targets
    """
    from compress import render
    from compress.profile.target import list_targets, provenance

    known = list_targets()
    documents = [{**target.model_dump(mode="json"), "profile": provenance(target)} for target in known]
    _print_json(documents) if as_json else render.targets(known)


@cli.command(short_help="Is this machine ready, and quiet enough to measure?")
@_with()
def doctor(as_json: bool) -> int:
    """Check this machine: libraries, runtimes and their providers, GPU, memory, threads, how steady timings are.

    \b
    Each line is ok, a warning or a problem, with what to do; exit code 3 where there is a problem.
    Example:
      compress doctor
    """
    from compress import render

    with _working():
        from compress.doctor import PROBLEM, examine

        findings = examine()
    if as_json:
        _print_json([finding.to_json() for finding in findings])
    else:
        render.findings(findings)
    return EXIT_ERROR if any(finding.state == PROBLEM for finding in findings) else EXIT_PASS


@cli.command(short_help="Compress a real model, made here.")
@_with(_OUTPUT)
@_shown("speedup", type=float, metavar="X", default=2.0, show_default=True)
def demo(output: str | None, speedup: float, as_json: bool) -> int:
    """Fine-tune a small real encoder on real sentences (once, then cached), and compress it for this CPU.

    \b
    Example:
      compress demo
    """
    from compress import render

    with _working() as progress:
        from compress import demo as demonstration

        config, result = demonstration.run_demo(output=output, speedup=speedup, progress=progress)
    _print_json(render.result_document(result)) if as_json else render.result(result, config)
    return int(result.exit_code)
