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
import tarfile
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from filelock import FileLock
from platformdirs import user_cache_path

from support.browser import CHROMIUM, PATIENCE, browser

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


def chromium(project: Path) -> tuple[str, Path | None]:
    """A headless Chromium, the system's or that of a package, and the folder of libraries that it needs.

    Args:
        project: from ``node_project``.
    """
    if CHROMIUM is not None:
        return CHROMIUM, None
    folder, program = project / "chromium", project / "chromium" / "chromium"
    with FileLock(f"{project}.lock"):
        if not (folder / ".ready").exists():
            folder.mkdir(exist_ok=True)
            packed = project / "node_modules" / "@sparticuz" / "chromium" / "bin"
            _done(["node", str(CONSUMERS / "unpack.mjs"), str(packed), str(folder)])
            with tarfile.open(folder / "libraries.tar") as libraries:
                libraries.extractall(folder / "libraries", filter="data")
            program.chmod(0o755)
            (folder / ".ready").touch()
    return str(program), folder / "libraries" / "lib"


def ask_page(page: Path, files: Mapping[str, Path], question: Any, browsing: tuple[str, Path | None]) -> Any:
    """What a page leaves in ``window.found``, as JSON, for a question in questions.json beside it.

    Args:
        page: the HTML file; the other files of its folder are served too.
        files: further files and folders, by their name beside the page.
        question: plain JSON types.
        browsing: from ``chromium``.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(shutil.copytree(page.parent, Path(scratch) / "site", ignore=shutil.ignore_patterns("__pycache__")))
        for name, file in files.items():
            (root / name).symlink_to(file)
        (root / "questions.json").write_text(json.dumps(question))
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with browser(*browsing) as tab:
                tab.open(f"http://127.0.0.1:{server.server_port}/{page.name}")
                end = time.monotonic() + PATIENCE
                while (found := tab.evaluate("window.found")) is None and time.monotonic() < end:
                    time.sleep(0.05)
                assert found is not None, tab.errors
                return json.loads(found)
        finally:
            server.shutdown()
            server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of requests."""


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
