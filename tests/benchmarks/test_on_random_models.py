"""The benchmarks that need no checkpoint, at their smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_cost_has_a_row_for_every_case(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    run("cost.py", "--layers", "1,2", "--samples", "32,64", "--length", "8", "--effort", "fast", "--output", str(file))
    rows = [line.split("|")[1:3] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert [[int(cell) for cell in row] for row in rows[2:]] == [[1, 64], [2, 64], [2, 32]]


@pytest.mark.slow
def test_no_section_of_the_gpu_benchmark_fails_on_a_processor(tmp_path: Path) -> None:
    run("gpu.py", "--device", "cpu", "--tiny", "--no-tests", "--output", str(tmp_path / "gpu"))
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    sections = {name: section for name, section in found.items() if isinstance(section, dict)}
    assert {"engines", "stages, twice", "factorisations"} <= set(sections)
    assert not {name: section["failed"] for name, section in sections.items() if "failed" in section}
