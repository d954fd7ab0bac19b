"""The rooms ``profile/`` and ``export/`` are part of the package, and hide nothing of the standard library."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("profile", "export", "configs")


def python(*args: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_links_without_an_init_file(room: str) -> None:
    link = ROOT / "compress" / room
    assert link.is_symlink() and os.readlink(link) == f"../{room}"
    # With an __init__.py, `import profile` in the root would find this folder instead of the standard library.
    assert not (ROOT / room / "__init__.py").exists()


@pytest.mark.parametrize("module", ["profile", "cProfile"])
def test_the_standard_librarys_profile_is_found_in_the_root(module: str) -> None:
    found = python("-c", f"import {module}; print({module}.__file__)")
    assert Path(found).parent == Path(sysconfig.get_path("stdlib"))


def test_constraints_pin_every_dependency() -> None:
    pins = {
        re.split(r"[=;\s]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared: set[str] = set()
    for name in ("dependencies", "cpu", "plot", "demo", "dev"):
        (found,) = re.findall(rf"^{name} = (\[.*?\])$", text, flags=re.MULTILINE | re.DOTALL)
        requirements = ast.literal_eval(re.sub(r"(?m)#.*$", "", found))
        declared |= {re.split(r"[\[<>=;!\s]", requirement)[0].lower() for requirement in requirements}
    assert declared - pins == {"tomli"}  # only for Python 3.10
    assert "torch" in declared


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as users get it: built from the sdist, so that whatever an sdist lacks is missed here."""
    directory = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT))
    (found,) = directory.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_has_everything_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout: nothing to compare with")
    files = set(tracked.stdout.splitlines())
    expected = {name for name in files if name.startswith("compress/") and name.removeprefix("compress/") not in ROOMS}
    expected |= {f"compress/{name}" for name in files if name.split("/")[0] in ROOMS}
    # What is not committed yet is packaged all the same: only what is missing counts.
    assert expected <= names
    assert all(name.startswith("compress/") for name in names)


@pytest.mark.slow
def test_the_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    code = (
        "import profile, cProfile, compress.profile.target, compress.export.runtime, compress.demo.demo\n"
        "assert compress.demo.demo.DATA.joinpath('train.csv').is_file()\n"
        "print(compress.__file__, [target.name for target in compress.profile.target.list_targets()])"
    )
    out = python("-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert out.startswith(str(site)) and "'cpu'" in out
    assert "Commands:" in python("-m", "compress", "--help", cwd=tmp_path, PYTHONPATH=str(site))
