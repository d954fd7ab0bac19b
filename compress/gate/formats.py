"""A report in the forms that others read: JSON, JUnit, Markdown, and the annotations of GitHub's logs.

XML is written here and never parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # nosec B405

from compress.core.errors import ConfigError
from compress.core.parsing import printable
from compress.gate.judge import Judgement, Report

TITLES = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
_MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}


def document(report: Report) -> dict[str, Any]:
    """A report as plain JSON types."""
    return {
        "artifact": str(report.artifact),
        "baseline": None if report.baseline is None else str(report.baseline),
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "limits": [_row(judgement) for judgement in report.judgements],
        "notes": list(report.notes),
    }


def _row(judgement: Judgement) -> Mapping[str, Any]:
    limit, found = judgement.limit, judgement.found
    return {
        "limit": limit.kind.name,
        "asked": str(limit),
        **({} if limit.file is None else {"file": limit.file}),
        "direction": limit.kind.direction,
        "unit": limit.kind.unit,
        "value": None if found is None else found.value,
        "interval": None if found is None else found.as_list(),
        "bound": judgement.bound,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "source": judgement.source,
        "origin": limit.origin,
    }


def cells(judgement: Judgement) -> tuple[str, str, str, str, str]:
    """A judgement as a row of a table: what, found, interval, limit, verdict."""
    limit, found, bound = judgement.limit, judgement.found, judgement.bound
    what = limit.kind.title + (f" of {printable(limit.file)}" if limit.file else "")
    what += f", {limit.kind.unit}" if limit.kind.unit not in ("", "x") else ""
    asked = str(limit) if bound is None else _short(bound)
    if limit.percent and bound is not None:
        asked += f" ({limit})"
    value = "-" if found is None else _short(found.value)
    spread = "" if found is None or found.low == found.high else f"{_short(found.low)} to {_short(found.high)}"
    return what, value, spread, f"{limit.kind.direction} {asked}", TITLES[judgement.verdict]


def _short(value: float) -> str:
    """Four digits, and no exponent where people expect none."""
    if 0.01 <= abs(value) < 10:
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def explained(judgement: Judgement) -> str:
    """A judgement in a sentence."""
    what, value, spread, asked, verdict = cells(judgement)
    found = "" if judgement.found is None else f" is {value}{f' ({spread})' if spread else ''}, {asked} is allowed"
    reason = f": {judgement.reason}" if judgement.reason else ""
    return f"{verdict}: {what}{found}{reason} [{judgement.source}]"


def markdown(report: Report) -> str:
    """For a pull request or ``$GITHUB_STEP_SUMMARY``."""
    lines = [
        f"### {_MARKS[report.verdict]} compress gate: {TITLES[report.verdict]}",
        "",
        f"`{_cell(str(report.artifact))}`"
        + (f" against `{_cell(str(report.baseline))}`" if report.baseline is not None else ""),
        "",
        "| | found | interval | limit | verdict | rests on |",
        "|---|---|---|---|---|---|",
    ]
    for judgement in report.judgements:
        row = (*cells(judgement)[:4], f"{_MARKS[judgement.verdict]} {TITLES[judgement.verdict]}", judgement.source)
        lines.append("| " + " | ".join(map(_cell, row)) + " |")
    reasons = [j for j in report.judgements if j.verdict != "pass"]
    lines += ["", *(f"- {_cell(explained(judgement))}" for judgement in reasons)] if reasons else []
    lines += [f"- {_cell(note)}" for note in report.notes]
    return "\n".join(lines) + "\n\n"


def _cell(text: str) -> str:
    """A text as it stands in a cell of a Markdown table: no markup of its own, on one line."""
    return re.sub(r"([\\`|*_\[\]<>])", r"\\\1", printable(text))


def annotations_of(report: Report) -> list[str]:
    """Workflow commands that mark a run on GitHub: errors for what failed, warnings for what is open."""
    level = {"fail": "error", "inconclusive": "warning"}
    return [
        annotation(level[judgement.verdict], f"compress gate: {judgement.limit.kind.title}", explained(judgement))
        for judgement in report.judgements
        if judgement.verdict in level
    ]


def annotation(level: str, title: str, message: str) -> str:
    """One workflow command of GitHub Actions. Nothing in the message can end it.

    Args:
        level: ``error`` or ``warning``.
        title: of the annotation.
        message: its text.
    """
    escaped = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{escaped}"


def junit(report: Report) -> str:
    """JUnit's XML: a test case per limit; one that is open is an error there, which is what it has for no answer."""
    cases = []
    for judgement in report.judgements:
        limit = judgement.limit
        case = ElementTree.Element("testcase", classname="compress.gate", name=_xml(f"{limit.kind.name} {limit}"))
        case.set("file", _xml(str(report.artifact)))
        if judgement.verdict != "pass":
            kind = "failure" if judgement.verdict == "fail" else "error"
            child = ElementTree.SubElement(case, kind, type=judgement.verdict, message=_xml(judgement.reason))
            child.text = _xml(explained(judgement))
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(explained(judgement))
        cases.append(case)
    return _suite(cases)


def junit_of_error(message: str) -> str:
    """JUnit's XML where nothing could be judged: no earlier run's file is then taken for this one's."""
    case = ElementTree.Element("testcase", classname="compress.gate", name="gate")
    ElementTree.SubElement(case, "error", type="error", message=_xml(message))
    return _suite([case])


def _suite(cases: list[ElementTree.Element]) -> str:
    counts = {f"{name}s": str(sum(case.find(name) is not None for case in cases)) for name in ("failure", "error")}
    suite = ElementTree.Element("testsuite", {"name": "compress gate", "tests": str(len(cases)), **counts})
    suite.extend(cases)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    text: str = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _xml(text: str) -> str:
    return printable(text)  # control characters are no XML, escaped or not


def write_to(path: str | Path, text: str, *, append: bool = False) -> None:
    """Write or extend a file that the caller named.

    Args:
        path: the file.
        text: to write.
        append: whether what is there stays.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with Path(path).open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror or error}; name another file") from None
