"""The command that shows the cache and cleans it."""

from __future__ import annotations

import click

from compress.cli.common import print_json, with_options
from compress.core.errors import CompressError, ConfigError


@click.group(short_help="Look at stored results, and remove them.", invoke_without_command=True)
@with_options()
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Results that runs have stored for `compress run --resume`: stage, model, size, age, last used.

    \b
    Examples:
      compress cache
      compress cache clean --older-than 30
    """
    if context.invoked_subcommand is not None:
        return
    from compress.cache.store import Store
    from compress.cli import console

    store = Store.default()
    entries = store.entries()
    if as_json:
        print_json(
            {
                "directory": str(store.root),
                "limit_bytes": store.limit_bytes,
                "size_bytes": sum(entry.size_bytes for entry in entries),
                "entries": [entry.to_json() for entry in entries],
            }
        )
    else:
        console.stored(store, entries)


@cache.command(short_help="Remove stored results.")
@with_options()
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Those not used for so many days.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
def clean(older_than: float | None, everything: bool, as_json: bool) -> None:
    """Remove stored results, and what killed runs have left in the cache. Nothing else rests on them.

    \b
    Examples:
      compress cache clean --older-than 30
      compress cache clean --all
    """
    if everything == (older_than is not None):
        raise ConfigError("say what to remove: --older-than DAYS, or --all")
    from compress.cache.store import Store

    store = Store.default()
    try:
        removed = store.clean(None if everything else older_than)
    except OSError as error:
        raise CompressError(f"cannot clean the cache '{store.root}': {error.strerror or error}") from None
    size = sum(entry.size_bytes for entry in removed)
    if as_json:
        print_json({"removed": len(removed), "size_bytes": size})
    else:
        click.echo(f"removed {len(removed)} results, {size / 1e6:.1f} MB, from {store.root}")
