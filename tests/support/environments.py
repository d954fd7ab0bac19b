"""Environments of other programs, made once and kept in the user's cache: they load what this project writes.

A machine without a registry skips the tests that need one; a registry that is there and an environment that cannot be
made is a failure.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from platformdirs import user_cache_path

CONSUMERS = Path(__file__).parents[1] / "consumers"
REQUIREMENTS, PACKAGES = CONSUMERS / "requirements.txt", CONSUMERS / "package.json"


def python_environment() -> Path:
    """The interpreter of an environment with ``requirements.txt``."""
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    folder = _folder(f"python {sys.version} {requirements}")
    with FileLock(f"{folder}.lock"):
        if not (folder / ".ready").exists():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
            with tempfile.TemporaryDirectory() as scratch:
                # Small and without needs of its own.
                _need_registry([*pip, "download", "--no-deps", "--dest", scratch, "flatbuffers"])
            shutil.rmtree(folder, ignore_errors=True)
            _done([sys.executable, "-m", "venv", str(folder)])
            # torch first and by itself, at its version: nothing installed later can then choose another build.
            torch = next(line for line in requirements.splitlines() if line.startswith("torch=="))
            for wanted in ([torch], ["-r", str(REQUIREMENTS)]):
                own = [str(folder / "bin" / "python"), *pip[1:]]
                _done([*own, "install", *wanted])
            (folder / ".ready").touch()
    return folder / "bin" / "python"


def node_project() -> Path:
    """The folder of a Node project with the packages of ``package.json``."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    folder = _folder(f"node {PACKAGES.read_text(encoding='utf-8')}")
    with FileLock(f"{folder}.lock"):
        if not (folder / ".ready").exists():
            _need_registry([npm, "view", "long", "version"])
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            shutil.copy(PACKAGES, folder)
            # Scripts of packages would download further builds; what is needed is in the packages.
            _done([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)])
            (folder / ".ready").touch()
    return folder


def ask(command: list[str], question: Any, folder: Path | None = None) -> Any:
    """What a program says on stdout, as JSON, to a question on stdin."""
    done = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def _folder(content: str) -> Path:
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    root = user_cache_path("compress", appauthor=False) / "consumers"
    root.mkdir(parents=True, exist_ok=True)
    return root / name


def _need_registry(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no registry to install other programs from: {(done.stderr or done.stdout).strip()[-300:]}")


def _done(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stderr or done.stdout)[-4000:]
