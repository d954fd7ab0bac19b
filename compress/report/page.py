"""What a page of a report consists of: plain data, no HTML. Every text in it is taken literally.

A page can be read by a program too (``compress report --json``): pictures are not in that, the tables are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

State = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        strong: whether it is what the eye should find.
        state: a verdict's colour, beside its word.
    """

    text: str
    strong: bool = False
    state: State | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        caption: what the table is.
        columns: headers.
        rows: as long as ``columns``; the first cell names the row.
        left: how many columns are text; the others are numbers.
        folded: whether it is long, and shown on request.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1
    folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"'{self.caption}': a row of {len(row)} cells under {len(self.columns)} columns")


@dataclass(frozen=True)
class Picture:
    """An SVG picture; what it says is in words beside it.

    Attributes:
        svg: the picture, with title and description inside; text that is not ``Markup`` is shown as text.
        caption: below it.
        wide: whether it takes a whole row.
    """

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Note:
    """A sentence or two. ``warning`` sets it apart, and says so in words."""

    text: str
    warning: bool = False


Block = Table | Picture | Note


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it; ``name`` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Card:
    """A figure that counts: its name, its value, and what it is to be compared with."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: the first heading.
        subtitle: where and for what, in a line.
        sections: in order; those without blocks are left out.
        state, verdict, reason: on top; None and empty where there is nothing to judge.
        cards: the figures that count.
        warnings: what has to be known before any figure is read.
        footer: made by what, from what.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    state: State | None = None
    verdict: str = ""
    reason: str = ""
    cards: tuple[Card, ...] = ()
    warnings: tuple[str, ...] = ()
    footer: str = ""

    def document(self) -> dict[str, object]:
        """The page as plain JSON types, without the pictures."""
        return {
            "title": self.title,
            "verdict": self.state,
            "reason": self.reason,
            "warnings": list(self.warnings),
            "sections": [
                {
                    "name": section.name,
                    "title": section.title,
                    "tables": [
                        {
                            "caption": block.caption,
                            "columns": list(block.columns),
                            "rows": [[cell.text for cell in row] for row in block.rows],
                        }
                        for block in section.blocks
                        if isinstance(block, Table)
                    ],
                }
                for section in self.sections
            ],
        }


@dataclass
class Rows:
    """Rows of a table as they are gathered; cells may be given as texts."""

    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: str | Cell) -> None:
        """One row."""
        self.rows.append(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells))

    def table(self, caption: str, columns: Sequence[str], *, left: int = 1, folded: bool = False) -> list[Block]:
        """The table of the rows.

        Args:
            caption: of the table.
            columns: headings.
            left: so many of the first columns are text, the others numbers.
            folded: whether it is shown on demand only.

        Returns:
            The table; nothing where no row was added.
        """
        return [Table(caption, tuple(columns), tuple(self.rows), left, folded)] if self.rows else []


def section(name: str, title: str, *blocks: Block | Sequence[Block]) -> Section:
    """A section of a page.

    Args:
        name: for links to it.
        title: its heading.
        blocks: blocks, and lists of blocks.
    """
    flat: list[Block] = []
    for block in blocks:
        if isinstance(block, (Table, Picture, Note)):
            flat.append(block)
        else:
            flat.extend(block)
    return Section(name, title, tuple(flat))
