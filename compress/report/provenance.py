"""Sections about where an artifact came from: inputs, versions, configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from compress.report import formatting as fmt
from compress.report.page import Block, Note, Rows, Section, section
from compress.report.sources import Facts, Sources


def provenance(sources: Sources) -> tuple[Section, ...]:
    """Inputs, device, versions; the resolved configuration."""
    return provenance_of(
        sources.manifest,
        ("method", fmt.plain(sources.plan.method)),
        ("model.onnx, SHA-256", _digest(sources.model_sha256)),
    )


def provenance_of(manifest: Facts, *more: tuple[str, str]) -> tuple[Section, ...]:
    """Inputs, device, versions and configuration, from a manifest alone.

    Args:
        manifest: of an artifact or a sweep.
        more: further rows, (name, value).
    """
    return (
        section(
            "provenance",
            "Provenance",
            _inputs(manifest, more),
            _pairs("Device", manifest.items("device")),
            _pairs("Versions", sorted(manifest.items("versions"))),
            _command(manifest),
        ),
        section("configuration", "Configuration", _configuration(manifest)),
    )


def footer(manifest: Facts, where: str = "manifest.json has the SHA-256 of every file") -> str:
    """Which version made the page, and where more is known.

    Args:
        manifest: of an artifact or a sweep.
        where: the second half of the line.
    """
    version = manifest.text("versions", "compress")
    made = f"compress {fmt.plain(version, 40)}" if version else "compress"
    return f"Made by {made}; {where}."


def _inputs(manifest: Facts, more: Sequence[tuple[str, str]]) -> list[Block]:
    if not manifest:
        return []
    rows = Rows()
    rows.add("model", fmt.plain(manifest.text("model", "name") or fmt.UNKNOWN))
    rows.add("model, SHA-256", _digest(manifest.text("model", "sha256")))
    for name in ("calibration", "evaluation"):
        data = manifest.under("data", name)
        if data:
            rows.add(f"{name} data", f"{fmt.count(data.number('examples'))} examples, {_digest(data.text('sha256'))}")
    task = manifest.text("task", "name")
    if task:
        rows.add("task", fmt.plain(task))
    seed = manifest.number("seed")
    rows.add("seed", fmt.UNKNOWN if seed is None else f"{seed:g}")
    for name, value in more:
        rows.add(name, value)
    rows.add("date", fmt.plain(manifest.text("date") or fmt.UNKNOWN))
    return rows.table("What went in, and what came out", ("", "value"), left=2)


def _digest(value: str | None) -> str:
    return fmt.plain(value, 64) if value else fmt.UNKNOWN


def _pairs(caption: str, found: list[tuple[str, Any]]) -> list[Block]:
    rows = Rows()
    for name, value in found:
        rows.add(fmt.plain(name.replace("_", " "), 60), _shown(value))
    return rows.table(caption, ("", "value"), left=2)


def _command(manifest: Facts) -> list[Block]:
    found = manifest.at("command")
    if not isinstance(found, list) or not found:
        return []
    import shlex

    return [Note(f"Command: {fmt.plain(shlex.join(map(str, found)), 2000)}")]


def _configuration(manifest: Facts) -> list[Block]:
    origins = dict(manifest.items("origins"))
    rows = Rows()
    for name, value in manifest.items("configuration"):
        cells = [fmt.plain(name, 60), _shown(value)]
        rows.add(*cells, *([_shown(origins.get(name, fmt.UNKNOWN))] if origins else []))
    columns = ("option", "value", "from") if origins else ("option", "value")
    return rows.table("Every option, and where its value came from", columns, left=3, folded=True)


def _shown(value: Any) -> str:
    if value is None:
        return fmt.UNKNOWN
    return fmt.plain(value if isinstance(value, str) else json.dumps(value))
