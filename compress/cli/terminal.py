"""A terminal, or the file or pipe in its place: lines, tables and bars; colours and boxes on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

BAR_WIDTH = 24
ABSENT = "-"


def terminal() -> Console:
    """Standard output."""
    # Made anew for each output: sys.stdout may have been redirected since the import.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        # Nobody's window limits a file or a pipe: wrapped table cells would only be harder to read and to grep.
        console.width = 200
    return console


def table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> Table:
    """A table.

    Args:
        console: that it is for.
        columns: headings.
        rows: cells.
        left: so many of the first columns are text, the others numbers.
    """
    made = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def show(console: Console, table: Table) -> None:
    """Print a table.

    Args:
        console: where to.
        table: the table.
    """
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    # rich fills cells up to their column's width: noise in a file.
    console.file.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def say(console: Console, text: str = "", style: str | None = None) -> None:
    """Print a line.

    Args:
        console: where to.
        text: the line.
        style: rich's; None for plain text.
    """
    # A file or a pipe gets each line whole: a line there is one statement.
    console.print(text, markup=False, style=style, soft_wrap=not console.is_terminal)


def bar(kept: float, of: float, width: int = BAR_WIDTH, *, ascii_only: bool = False) -> str:
    """A bar that is full only when all is kept, and empty only when nothing is.

    Args:
        kept: part that is filled.
        of: the whole.
        width: characters.
        ascii_only: for terminals without block characters.
    """
    filled = round(width * kept / of) if of else 0
    if 0 < kept < of:
        filled = min(max(filled, 1), width - 1)
    on, off = ("#", ".") if ascii_only else ("█", "░")
    return on * filled + off * (width - filled)


def formatted(value: float | None, template: str) -> str:
    """A number by a template; a dash for None.

    Args:
        value: the number.
        template: for ``str.format``.
    """
    return ABSENT if value is None else template.format(value)


def millions(value: float | None) -> float | None:
    """Bytes as 10^6 bytes."""
    return None if value is None else value / 1e6


def percent(value: float | None) -> str:
    """A fraction in percent; a dash for None."""
    return ABSENT if value is None else f"{100 * value:.1f} %"


def between(bounds: Sequence[float] | None, template: str) -> str:
    """An interval, each end by a template; nothing for None.

    Args:
        bounds: both ends.
        template: for ``str.format``.
    """
    return "" if not bounds else f"{template.format(bounds[0])} to {template.format(bounds[1])}"
