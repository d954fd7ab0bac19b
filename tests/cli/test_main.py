"""The command line: what it parses, prints and ends with. The pipeline behind it is replaced at its border."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import compress
from compress import cli
from compress.cache.entry import RECORD
from compress.cache.memo import Foreseen
from compress.cache.store import Store
from compress.core.errors import BudgetUnreachable, ConfigError, ModelError
from compress.core.plan import Budget, EncoderShape, Plan, Structure
from compress.options.help import HELP
from compress.options.run_config import RunConfig

SHAPE = EncoderShape(model_type="bert", layers=2, hidden_size=24, heads=4, head_size=6, filters=20)
PLAN = Plan(
    shape=SHAPE,
    structure=Structure(heads=((0, 2), ()), filters=(tuple(range(20)), (3,))),
    budget=Budget("speedup", 2.0),
    method="full",
    macs_fraction=0.5,
    predicted_ms=4.9,
    dense_ms=10.0,
    latency_source="measured",
    importance_kept=0.9,
    optimality_gap=0.0,
)
VALIDATION: dict[str, Any] = {
    "latency_ms": {"dense": 10.0, "compressed": 4.8, "budget": 5.0, "predicted": 4.9, "ci95": [4.7, 4.95]},
    "speedup": {"value": 2.08, "ci95": [2.02, 2.13]},
    "metric": {"name": "accuracy", "dense": 0.9, "compressed": 0.89, "ci95": [0.87, 0.91]},
    "size_bytes": {"dense": 90_000_000, "compressed": 60_000_000},
    "macs": {"dense": 100.0, "compressed": 50.0},
    "parity": {"max_abs_diff": 1e-6},
    "reason": "speed-up 2.08, budget 2",
    "verdict": "pass",
}
RUN = ["run", "model", "--data", "train.csv", "--speedup", "2"]


class FakeProfile:
    def write(self, path: Path) -> None:
        path.write_text(self.to_json())

    def to_json(self) -> str:
        return '{"format": 1}\n'


class FakePipeline(SimpleNamespace):
    """Records what it was asked, and answers with what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.configs: list[Any] = []
        self.error: BaseException | None = None
        self.verdict, self.exit_code, self.resumed = "pass", 0, False
        self.output: Path | None = Path("out")

    def _result(self) -> Any:
        # A library that prints while it works.
        print("chatter on stdout")
        if self.error:
            raise self.error
        return SimpleNamespace(
            output=self.output,
            plan=PLAN,
            validation=VALIDATION,
            verdict=self.verdict,
            exit_code=self.exit_code,
            seconds={"load": 1.0, "search": 0.5},
            spent={"cores": 2, "parts": []},
        )

    def foresee(self, config: RunConfig, *, progress: Any) -> Any:
        print("chatter on stdout")
        return [
            Foreseen("profile", "m, fp32", True, 7200.0, 45.25),
            Foreseen("calibrate", "m, full", False, None, 30.0),
            Foreseen("export", "", False, None, 12.0),
        ]

    def run(self, config: RunConfig, *, origins: Any, resume: bool, progress: Any) -> Any:
        assert set(origins) == set(HELP)
        self.configs.append(config)
        self.resumed = resume
        with progress.stage("search"):
            progress.info("working")
            return self._result()

    def make_plan(self, config: RunConfig, *, progress: Any) -> Any:
        self.configs.append(config)
        return PLAN, None

    def profile_shapes(self, config: RunConfig, shapes: Any, *, estimate: bool = False, progress: Any) -> Any:
        self.configs.append((config, shapes))
        return FakeProfile()

    def export_plan(self, config: RunConfig, plan: Plan | None, *, progress: Any) -> Path:
        self.configs.append((config, plan))
        return config.output

    def validate_artifact(self, artifact: Path, overrides: dict[str, Any], *, progress: Any) -> Any:
        self.configs.append((artifact, overrides))
        return self._result()

    def why(self, artifact: Path) -> dict[str, Any]:
        return {
            "sublayers": [
                {"layer": 0, "kind": "attention", "width": 2, "of": 4, "ms": 1.0, "share": 0.25},
                {"layer": 0, "kind": "ffn", "width": 20, "of": 20, "ms": 2.0, "share": 0.5},
            ],
            "fixed_ms": 1.0,
            "total_ms": 4.0,
            "one_more_ms": "3 % of the importance",
            "one_less_ms": ["5 % of the importance"],
        }


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setitem(sys.modules, "compress.pipeline", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(compress, "pipeline", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def test_run_prints_the_summary(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--seq-len", "64"]) == 0
    (config,) = pipeline.configs
    assert (config.model, config.data, config.seq_len, config.budget) == ("model", "train.csv", 64, PLAN.budget)
    out, err = capsys.readouterr()
    for text in ("10.00", "4.80", "5.00", "4.70 to 4.95", "2.08x", "0.8900", "60.0", "50.0 %", "2/4", "20/20"):
        assert text in out
    assert "0/4 removed" in out
    assert "artifact: out" in out and "speed-up 2.08, budget 2" in out
    assert out.splitlines()[-1] == "verdict: pass on cpu, budget 2x"
    assert "\x1b" not in out and "chatter" not in out  # no colours, and nothing that a library printed
    assert "chatter on stdout" in err and "search" in err and "working" in err


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 2)])
def test_the_exit_code_is_the_verdicts(pipeline: FakePipeline, verdict: str, code: int) -> None:
    pipeline.verdict, pipeline.exit_code = verdict, code
    assert cli.main(RUN) == code


def test_json_is_one_document(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*RUN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["validation"] == VALIDATION
    assert document["output"] == "out" and document["spent"] == {"cores": 2, "parts": []}
    assert Plan.from_json(json.dumps(document["plan"])) == PLAN


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ModelError("no model at 'model'"), 3, ["no model at 'model'"]),
        (BudgetUnreachable("the least reachable is 6.9 ms"), 1, ["6.9 ms"]),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 3, ["disk is full", "out/x", "--output"]),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 3, ["disk is full"]),
        (OSError(errno.EROFS, "Read-only file system", "out"), 3, ["Read-only", "out"]),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 3, ["Permission denied", "out"]),
        (MemoryError(), 3, ["out of memory", "--samples"]),
        (ZeroDivisionError("division by zero"), 3, ["ZeroDivisionError: division by zero", "--debug"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_messages(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: list[str]
) -> None:
    pipeline.error = error
    assert cli.main([*RUN, "--json"]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    for word in words:
        assert word in err
        assert word in json.loads(out)["error"]
    assert json.loads(out)["exit_code"] == code


def test_debug_shows_the_traceback(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.error = ZeroDivisionError("division by zero")
    for args in (["--debug", *RUN], [*RUN, "--debug"]):
        assert cli.main(args) == 3
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rnu"], ["no command 'rnu'", "Did you mean 'run'?"]),
        (["run", "--speedupp", "2"], ["--speedupp", "--speedup"]),
        (["run", "m", "--speedup", "fast"], ["--speedup", "fast"]),
        (["run", "m", "--method", "magic"], ["--method", "magic", "full", "kwon"]),
        (["run", "m", "n"], ["n"]),
        (["why"], ["OUT"]),
        ([], ["Usage"]),
    ],
    ids=str,
)
def test_usage_errors_end_with_3(capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]) -> None:
    # click's own code for them is 2, which means "inconclusive" here.
    assert cli.main(args) == 3
    err = capsys.readouterr().err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run"], ["no model given"]),
        (["run", "m", "--speedup", "2"], ["--data"]),
        (["run", "m", "--data", "d"], ["no budget"]),
        ([*RUN, "--macs", "0.5"], ["exactly one"]),
        ([*RUN, "--target", "cppu"], ["Did you mean 'cpu'"]),
        ([*RUN, "--config", "absent.toml"], ["absent.toml"]),
    ],
    ids=str,
)
def test_bad_input_never_reaches_the_pipeline(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]
) -> None:
    assert cli.main(args) == 3
    err = capsys.readouterr().err
    for word in words:
        assert word in err
    assert not pipeline.configs
    assert not list(Path().iterdir())


def test_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.cli.commands:
        assert cli.main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert "Example" in out and f"compress {name}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert compress.__version__ in capsys.readouterr().out


def test_a_toml_file_makes_the_short_command_work(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "model", "--data", "train.csv", "--task", "text-classification", "--seq-len", "64"]) == 0
    assert cli.main(["run", "--speedup", "2", "--target", "cpu"]) == 0
    (config,) = pipeline.configs
    assert (config.model, config.data, config.seq_len) == ("model", "train.csv", 64)
    assert cli.main(["init"]) == 3
    assert "exists" in capsys.readouterr().err


def test_init_elsewhere_keeps_pointing_at_the_same_files(pipeline: FakePipeline) -> None:
    Path("model").mkdir()
    Path("project").mkdir()
    assert cli.main(["init", "model", "--config", "project/compress.toml"]) == 0
    assert cli.main(["run", "--config", "project/compress.toml", "--data", "d.csv", "--macs", "0.5"]) == 0
    assert pipeline.configs[0].model == "model"
    assert cli.main(["init", "--config", "nowhere/compress.toml"]) == 3


def test_init_checks_values(pipeline: FakePipeline) -> None:
    assert cli.main(["init", "model", "--speedup", "-1"]) == 3
    assert not Path("compress.toml").exists()


def test_dry_run_shows_every_value_and_its_origin(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    Path("compress.toml").write_text('model = "m"\ndata = "d.csv"\n')
    args = ["run", "--speedup", "2", "--dry-run"]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    options, _, stages = out.partition("\n\n")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in options.splitlines()}
    assert rows["model"] == ["m", "compress.toml"]
    assert rows["speedup"] == ["2.0", "command line"]
    assert rows["precision"] == ["fp32", "target"]
    assert rows["samples"] == ["2048", "default"]
    assert set(rows) == {"option", *RunConfig.model_fields}
    assert cli.main([*args, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["config"]) == set(document["origins"]) == set(RunConfig.model_fields)
    assert [row["stage"] for row in document["stages"]] == ["profile", "calibrate", "export"]
    assert not pipeline.configs
    found = [line.split("  ") for line in stages.splitlines()]
    table = [[cell.strip() for cell in line if cell.strip()] for line in found]
    assert table[1:] == [
        ["profile", "m, fp32", "stored", "2.0 h", "45.2"],
        ["calibrate", "m, full", "to be run", "-", "30.0"],
        ["export", "-", "to be run", "-", "12.0"],
        ["to be run: about 42 s, as last time"],
    ]


def test_resume_is_handed_on(pipeline: FakePipeline) -> None:
    for given in ([], ["--resume"]):
        assert cli.main([*RUN, *given]) == 0
        assert pipeline.resumed == bool(given)


def test_the_cache_is_shown_and_cleaned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    assert cli.main(["cache"]) == 0
    assert "0 results, 0.0 MB of at most 10000 MB" in capsys.readouterr().out
    store = Store.default()

    def write(folder: Path) -> None:
        (folder / "a").write_bytes(bytes(10**6))

    for number, stage in enumerate(("profile", "try-out", "check")):
        store.keep(stage, {}, write, label="m", seconds=number)
    (broken,) = [entry for entry in store.entries() if entry.stage == "check"]
    (broken.path / RECORD).write_text("{")
    assert cli.main(["cache"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^try-out +m +1\.0 +\d+ s +\d+ s +1\.0$", out, re.MULTILINE)
    assert "damaged: its record is cut off" in out and "3 results, 3.0 MB" in out
    assert cli.main(["cache", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {entry["stage"]: entry["label"] for entry in document["entries"]} == {
        "profile": "m",
        "try-out": "m",
        "check": "",
    }
    for wrong in ([], ["--all", "--older-than", "1"], ["--older-than", "-1"]):
        assert cli.main(["cache", "clean", *wrong]) == 3
    capsys.readouterr()
    # What is damaged goes with the first cleaning.
    assert cli.main(["cache", "clean", "--older-than", "1"]) == 0
    assert "removed 1 results, 1.0 MB" in capsys.readouterr().out
    assert cli.main(["cache", "clean", "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 2
    assert store.entries() == []


def test_plan_writes_only_the_plan(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["plan", "model", "--data", "d.csv", "--speedup", "2"]
    assert cli.main([*args, "--output", "plan.json"]) == 0
    assert Plan.read("plan.json") == PLAN
    out = capsys.readouterr().out
    assert "2/4" in out and "importance kept: 90.00%" in out and "layer  0:" not in out
    assert cli.main([*args, "--output", "plan.json"]) == 3
    assert cli.main([*args, "--json"]) == 0
    assert Plan.from_json(capsys.readouterr().out) == PLAN
    assert [path.name for path in Path().iterdir()] == ["plan.json"]


def test_export_takes_a_plan_or_none(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.json").write_text(PLAN.to_json())
    assert cli.main(["export", "model", "--plan", "plan.json", "--output", "out"]) == 0
    assert cli.main(["export", "model", "--json"]) == 0
    assert [plan for _, plan in pipeline.configs] == [PLAN, None]
    out = capsys.readouterr().out
    assert out.startswith("artifact: out\n")
    assert "artifacts/model-cpu-dense" in out
    assert cli.main(["export", "model", "--plan", "absent.json"]) == 3


def test_profile_refuses_to_overwrite_before_it_measures(pipeline: FakePipeline) -> None:
    args = ["profile", "model", "--json"]
    assert cli.main(args) == 0
    assert json.loads(Path("profile-cpu.json").read_text()) == {"format": 1}
    assert cli.main(args) == 3
    assert cli.main([*args, "--output", "nowhere/p.json"]) == 3
    assert len(pipeline.configs) == 1


def test_profile_takes_lists_of_batch_sizes_and_lengths(pipeline: FakePipeline) -> None:
    args = ["profile", "model", "--json", "--output"]
    assert cli.main([*args, "a.json", "--seq-len", "64,128", "--seq-len", "64", "--batch-size", "1,8"]) == 0
    assert cli.main([*args, "b.json"]) == 0
    ((first, shapes), (second, default)) = pipeline.configs
    assert shapes == [(1, 64), (1, 128), (8, 64), (8, 128)] and (first.batch_size, first.seq_len) == (1, 64)
    assert default == [(second.batch_size, second.seq_len)] == [(1, 128)]


def test_validate_hands_on_what_was_overridden(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.verdict, pipeline.exit_code = "inconclusive", 2
    assert cli.main(["validate", "out", "--eval-data", "dev.csv", "--seq-len", "32"]) == 2
    assert pipeline.configs == [(Path("out"), {"eval_data": "dev.csv", "seq_len": 32})]
    assert "verdict: inconclusive" in capsys.readouterr().out
    assert cli.main(["validate", "out", "--seq-len", "0"]) == 3
    assert "--seq-len must be" in capsys.readouterr().err
    assert len(pipeline.configs) == 1


def test_why(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["why", "out"]) == 0
    out = capsys.readouterr().out
    for text in ("attention", "2/4", "1.000", "25.0 %", "embeddings", "3 % of the importance", "5 % of the importance"):
        assert text in out
    assert cli.main(["why", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_ms"] == 4.0


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["targets"]) == 0
    assert "onnxruntime-cpu" in capsys.readouterr().out
    assert cli.main(["targets", "--json"]) == 0
    known = {target["name"]: target for target in json.loads(capsys.readouterr().out)}
    assert known["cpu"]["profile"] == "measured here"
    assert known["v100-tensorrt"]["profile"] in ("estimated", "measured here")


def test_demo_without_its_package(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.demo.demo.PACKAGE", "no_such_package_here")
    assert cli.main(["demo"]) == 3
    assert "[demo]" in capsys.readouterr().err
    assert not pipeline.configs


def test_python_api_has_the_options_names(pipeline: FakePipeline) -> None:
    result = compress.run("model", data="train.csv", speedup=2, seq_len=64)
    assert result.verdict == "pass"
    assert pipeline.configs[0].budget == Budget("speedup", 2.0)
    with pytest.raises(ConfigError, match="Did you mean 'speedup'"):
        compress.run("model", data="train.csv", spedup=2)
    assert compress.Plan is Plan
    with pytest.raises(AttributeError, match="nonsense"):
        _ = compress.nonsense


HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnx",
    "datasets",
    "matplotlib",
    "pandas",
    "sklearn",
    "scipy",
    "numpy",
)


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    "module", ["compress", "compress.cli.main", "compress.options.run_config", "compress.core.progress"]
)
def test_nothing_heavy_is_imported_early(module: str) -> None:
    done = python(f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_imports_nothing_heavy() -> None:
    done = python(
        "import sys; from compress.cli import main; main(['run', '--help'])\n"
        f"print([name for name in ('pydantic', *{HEAVY!r}) if name in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


SLOW_RUN = """
import sys, time, types, contextlib, pathlib
import compress
def run(config, *, origins, resume, progress):
    half = pathlib.Path("half")
    half.mkdir()
    try:
        print("started", flush=True, file=sys.stderr)
        time.sleep(60)
    finally:
        half.rmdir()
fake = types.ModuleType("compress.pipeline")
fake.run = run
sys.modules["compress.pipeline"] = fake
compress.pipeline = fake
sys.argv = ["compress", "run", "m", "--data", "d", "--speedup", "2"]
from compress.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_signals_unwind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Jobs in a shell's background are started with SIGINT ignored, and what is ignored is inherited.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == "started":
                break
        time.sleep(0.1)
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(timeout=60) == code
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_verdict() -> None:
    # 1 would mean "budget not met".
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "compress", "targets"], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 141
    assert done.stderr == ""
