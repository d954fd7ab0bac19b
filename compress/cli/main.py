"""The command line: the group of commands, their errors and exit codes.

Commands import heavy libraries when they run: ``compress --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from compress._version import __version__
from compress.cli import artifact_commands, cache_commands, machine_commands, run_commands
from compress.cli.common import print_json
from compress.core.errors import EXIT_ERROR, EXIT_PASS, CompressError, did_you_mean

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE


class Commands(click.Group):
    """The group of commands: suggests the nearest name, and ends quietly when the reader of a pipe has gone."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command, or name the nearest one in an error.

        Args:
            ctx: click's.
            args: of the command line.
        """
        name = args[0]
        if not name.startswith("-") and name not in self.commands:
            raise click.UsageError(f"no command '{name}'.{did_you_mean(name, list(self.commands))}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end quietly where the reader of the output has gone."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # What is still buffered has nowhere to go; without this Python complains about it when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE_CLOSED)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments; None takes the process's.

    Returns:
        The exit code: 0 pass, 1 not met, 2 inconclusive, 3 error, 130 interrupted.
    """
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
            print_json({"error": error.format_message(), "exit_code": code})
        return code
    except Exception as error:
        if debug:
            _print_traceback(error)
        message, code = describe(error)
    click.echo(f"error: {message}", err=True)
    if as_json:
        print_json({"error": message, "exit_code": code})
    return code


def _print_traceback(error: Exception) -> None:
    """Print the traceback of an error on stderr."""
    import traceback

    traceback.print_exception(error, file=sys.stderr)


def describe(error: Exception) -> tuple[str, int]:
    """Return the message for an error, and the exit code."""
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


for _command in (
    run_commands.run,
    run_commands.init,
    run_commands.profile,
    run_commands.plan,
    run_commands.sweep,
    run_commands.export,
    artifact_commands.validate,
    artifact_commands.gate,
    artifact_commands.verify,
    artifact_commands.sign,
    artifact_commands.why,
    artifact_commands.report,
    artifact_commands.package,
    machine_commands.targets,
    machine_commands.doctor,
    cache_commands.cache,
    run_commands.demo,
):
    cli.add_command(_command)
