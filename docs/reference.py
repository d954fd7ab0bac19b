"""Builds the API reference: `python docs/reference.py build/docs`.

Warnings are errors: a name that does not resolve, or a docstring that cannot be read, ends the build.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pdoc

import compress

# What people import, then the rooms of the method.
PUBLIC = ("compress", "compress.api", "compress.options", "compress.pipeline", "compress.families", "compress.artifact")
ROOMS = (
    "core",
    "models",
    "tasks",
    "calibration",
    "search",
    "reconstruction",
    "pruning",
    "profile",
    "export",
)


def build(directory: Path) -> None:
    """Writes one page per module, an index and a search index into a directory."""
    # The public names are looked up when first used; pdoc reads the module's own dictionary.
    for name in compress.__all__:
        setattr(compress, name, getattr(compress, name))
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pdoc.pdoc(*PUBLIC, *(f"compress.{room}" for room in ROOMS), output_directory=directory)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
