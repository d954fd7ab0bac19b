"""The benchmark of a run's stages: its table, its neighbour, and one run of a small model."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "pipeline.py"


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    """The benchmark as a module: `benchmarks` is not a package."""
    spec = importlib.util.spec_from_file_location("benchmark_of_the_pipeline", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_run_is_a_column_and_every_stage_of_any_run_a_row(pipeline: ModuleType) -> None:
    def part(stage: str, seconds: float, *names: str) -> dict[str, object]:
        return {"stage": stage, "part": list(names), "count": 1, "seconds": seconds, "cores": 1.5}

    one = pipeline.Measured({"load": 1.0, "search": 3.0}, [part("load", 1), part("search", 3)], 1.25, "pass", 0.1)
    two = pipeline.Measured({"load": 2.0}, [part("load", 2), part("load", 0.5, "data")], 2.5, "fail", 1.0)
    assert pipeline.table({"one": one, "two": two}, parts=True).splitlines() == [
        "| stage, seconds | one | two |",
        "|---|---|---|",
        "| load | 1.0 | 2.0 |",
        "| · data | – | 0.5 |",
        "| search | 3.0 | – |",
        "| **whole run** | **4.0** | **2.0** |",
        "| cores busy, average | 1.50 | 1.50 |",
        "| peak memory, GB | 1.25 | 2.50 |",
        "| verdict | pass | fail |",
        "| load of the machine before | 0.1 | 1.0 |",
    ]


def test_the_neighbour_spins_at_the_lowest_priority_on_a_core_of_the_run_and_no_longer(
    pipeline: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, start = [], pipeline.start
    monkeypatch.setattr(pipeline, "start", lambda *args, **kw: started.append(start(*args, **kw)) or started[-1])
    setting = pipeline.Setting(1, pipeline.BUSY)
    with pipeline.beside(setting):
        assert os.getpriority(os.PRIO_PROCESS, started[0].pid) == 19
        if setting.cores:
            assert os.sched_getaffinity(started[0].pid) == {setting.cores[-1]}
        assert started[0].poll() is None
    assert started[0].poll() is not None
    with pipeline.beside(pipeline.Setting(None, pipeline.NOTHING)):
        assert len(started) == 1


@pytest.mark.parametrize("options", [["--threads", "0"], ["--threads", "100000"], ["--beside", "noise"]])
def test_a_setting_that_cannot_be_is_refused_before_the_first_run(pipeline: ModuleType, options: list[str]) -> None:
    with pytest.raises(SystemExit, match=options[0]):
        pipeline.main(["model", "--data", "data", *options])


@pytest.mark.e2e
def test_a_small_model_on_one_core_beside_a_busy_process(
    pipeline: ModuleType, two_layers: Path, data_csv: Path, tmp_path: Path
) -> None:
    asked = ["--threads", "1", "--beside", "busy", "--parts", "--output", str(tmp_path / "table.md")]
    options = "--options=--macs 0.5 --effort fast --allow-chance"
    pipeline.main([str(two_layers), "--data", str(data_csv), "--samples", "32", "--seq-len", "24", options, *asked])
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert f"| stage, seconds | {two_layers.name}, 1 thread, beside a busy process |" in text
    rows = {cells[1].strip(): cells[2].strip() for line in text.splitlines() if len(cells := line.split("|")) == 4}
    assert {"load", "profile", "calibrate", "search", "export", "validate", "· gradients"} <= rows.keys()
    assert rows["verdict"] == "pass" and float(rows["peak memory, GB"]) > 0
    assert " cores, " in text.splitlines()[-1]
