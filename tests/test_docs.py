"""The documents: short enough, true to the command line and the version, no dead link, and a reference that builds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import compress
from compress.cli.main import cli

ROOT = Path(compress.__file__).resolve().parents[1]
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "configs").rglob("*.md"),
        *ROOT.glob("benchmarks/*.md"),
    }
)
ROOMS = sorted(file.parent for file in (ROOT / "compress").glob("*/__init__.py"))
FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Names that a link may use for the headings of a page, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").split()) < 1000


def test_the_readme_names_every_command() -> None:
    named = re.findall(r"^\| `compress ([a-z-]+)` \|", text_of("README.md"), flags=re.MULTILINE)
    assert sorted(named) == sorted(cli.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{target} of {page.name} does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{found.name} has no heading for {target}"


def code_paths(page: Path) -> list[str]:
    """Paths of source files that a page names in backticks."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|toml))`", page.read_text(encoding="utf-8"))
    return [path for path in named if not path.startswith("OUT/")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("names files of other versions")
    for path in code_paths(page):
        assert any((root / path).is_file() for root in (ROOT, ROOT / "compress")), f"{page.name} names {path}"


def test_options_in_the_documents_exist() -> None:
    clean = cli.commands["cache"].commands["clean"]  # type: ignore[attr-defined]
    options = {name for command in (*cli.commands.values(), clean) for part in command.params for name in part.opts}
    for name in ("README.md", "docs/usage.md", "docs/targets.md", "docs/tasks.md"):
        lines = [line for line in text_of(name).splitlines() if "accelerate launch" not in line]
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", "\n".join(lines)))
        assert named <= options | {"--help"}, name


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_rooms_list_their_files(room: Path) -> None:
    listed = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    for file in room.glob("*.py"):
        assert file.stem == "__init__" or re.search(rf"\b{file.stem}\b", listed), f"{file.name} is not listed"
    assert re.search(r"May import|Imports nothing", listed), "what the room may import is not said"


def test_the_changelog_has_this_version() -> None:
    versions = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - (Unreleased|\d{4}-\d\d-\d\d)$", text_of("CHANGELOG.md"), re.MULTILINE
    )
    assert versions[0][0] == compress.__version__
    numbers = [tuple(map(int, version.split("."))) for version, _ in versions]
    assert numbers == sorted(numbers, reverse=True)


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == compress.__version__
    assert citation["message"] and citation["title"] and citation["authors"]
    dois = {identifier["value"] for paper in citation["references"] for identifier in paper["identifiers"]}
    assert dois == {"10.48550/arXiv.2204.09656", "10.48550/arXiv.2005.07683"}


def test_the_layers_of_the_architecture_are_those_of_the_contract() -> None:
    tomllib = pytest.importorskip("tomllib")
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (listed,) = re.findall(
        r"^((?:    .+\n)+)", text_of("docs/architecture.md").split("## Layers")[1].split("## ")[0], re.M
    )
    assert [line.strip() for line in listed.splitlines()] == [layer.replace("compress.", "") for layer in layers]


@pytest.mark.slow
def test_the_reference_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "docs" / "reference.py"), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), done.stderr
    public = (tmp_path / "compress.html").read_text(encoding="utf-8")
    for name in ("run", "load", "load_compact", "Plan"):
        assert f'id="{name}"' in public
    for name in ("api", "options", "pipeline", "families", "artifact", "core/plan"):
        assert (tmp_path / "compress" / f"{name}.html").is_file()
