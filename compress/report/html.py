"""Pages as HTML: one file that needs nothing else.

What a page says comes from models, data and files of others. Jinja escapes all of it; pictures are escaped where they
are drawn (``drawing.element``). A Content-Security-Policy allows the page's own style sheet, by its hash, and nothing
else: no script, no frame, no address to fetch from.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from compress.report.colors import DARK, LIGHT, variables
from compress.report.page import Note, Page, Picture, Table

_HERE = Path(__file__).parent


def render(page: Page) -> str:
    """A page as the text of an HTML file; equal pages give equal texts."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = style_sheet()
    return environment.get_template("template.html").render(
        page=page,
        sections=[section for section in page.sections if section.blocks],
        # The package's own files.
        style=Markup(style),  # nosec B704
        policy=policy(style),
        kind=_kind,
        themes=(LIGHT["page"], DARK["page"]),
    )


def style_sheet() -> str:
    """The CSS: the palettes as variables, then ``style.css``."""
    light, dark = variables(LIGHT), variables(DARK)
    return (
        f"\n:root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"{(_HERE / 'style.css').read_text(encoding='utf-8')}"
    )


def policy(style: str) -> str:
    """The Content-Security-Policy of a page with this style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _kind(block: Any) -> str:
    """Which macro of the template shows a block."""
    return {Table: "table", Picture: "picture", Note: "note"}[type(block)]
