"""action.yml: its shell steps are really run, as a runner would: a file of bash, inputs in the environment alone."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.core.parsing import parse_toml
from compress.options.gate_limits import read_gate
from support.gate_artifact import make_artifact

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, Any] = {step["id"]: step for step in ACTION["runs"]["steps"]}


class Runner:
    """What GitHub's runner does with a step of a composite action, as far as these steps need it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.output = scratch, scratch / "output"
        self.output.touch()
        # The environment that the first step would make, with this one's packages and this source.
        binaries = scratch / "compress-gate" / "bin"
        binaries.mkdir(parents=True)
        self.command = binaries / "compress"
        self.command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m compress "$@"\n')
        self.command.chmod(stat.S_IRWXU)

    def run(self, name: str, inputs: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
        step = STEPS[name]
        given = {key: str(value.get("default", "")) for key, value in ACTION["inputs"].items()} | inputs
        environment = {
            key: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda found: given[found[1]], value).replace(
                "${{ github.action_path }}", str(ROOT)
            )
            for key, value in step["env"].items()
        }
        assert not any("${{" in value for value in environment.values())
        script = self.scratch / f"{name}.sh"
        script.write_text(step["run"])
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.scratch,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.scratch),
                "PYTHONPATH": str(ROOT),
                "RUNNER_TEMP": str(self.scratch),
                "GITHUB_OUTPUT": str(self.output),
                "GITHUB_STEP_SUMMARY": str(self.scratch / "summary.md"),
                "GITHUB_ACTIONS": "true",
                **environment,
                **more,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    @property
    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    make_artifact(tmp_path / "a b")
    return Runner(tmp_path)


def test_inputs_are_never_part_of_a_script() -> None:
    for step in STEPS.values():
        assert "${{" not in step["run"] and step["shell"] == "bash"
        assert step["run"].startswith("set -euo pipefail")
    used = set(re.findall(r"inputs\.([a-z-]+)", str(ACTION["runs"])))
    assert used == set(ACTION["inputs"]) and all("description" in value for value in ACTION["inputs"].values())


@pytest.mark.parametrize(
    ("limits", "inconclusive", "code", "verdict"),
    [
        ("max-size-mb = 20\nmax_macs=0.6  # half, about\n\n", "fail", 0, "pass"),
        ("max-size-mb = 0.5", "fail", 1, "fail"),
        ("max-size-mb = 0.5", "warn", 1, "fail"),
        ("max-parity = 1e-3\nmin-accuracy = 0.88", "fail", 2, "inconclusive"),
        ("max-parity = 1e-3\nmin-accuracy = 0.88", "warn", 0, "inconclusive"),
        ("max-size-mb = 20 ms", "warn", 3, "error"),
    ],
)
def test_the_gate(runner: Runner, limits: str, inconclusive: str, code: int, verdict: str) -> None:
    done = runner.run("gate", {"artifact": "a b", "limits": limits, "inconclusive": inconclusive})
    assert done.returncode == code, done.stderr
    expected = 2 if verdict == "inconclusive" else code
    assert runner.outputs == {"verdict": verdict, "exit-code": str(expected), "junit": "compress-gate.xml"}
    assert (runner.scratch / "compress-gate.xml").is_file()
    assert ("::error" in done.stderr) == (code in (1, 3))


def test_a_baseline_and_a_configuration(runner: Runner) -> None:
    make_artifact(runner.scratch / "last", bulk=10)
    (runner.scratch / "mine.toml").write_text("[gate]\nmax_size_mb = '100 % of baseline'\n")
    done = runner.run("gate", {"artifact": "a b", "baseline": "last", "config": "mine.toml"})
    assert done.returncode == 1, done.stderr
    assert "(100 % of baseline)" in done.stdout


@pytest.mark.parametrize(
    "inputs",
    [
        {"limits": "max-size-mb = $(touch pwned)"},
        {"limits": "max-size-mb = 20; touch pwned"},
        {"limits": "`touch pwned` = 3"},
        {"limits": "max-size-mb = 20\nconfig = /etc/passwd"},
        {"artifact": "--help"},
        {"artifact": "$(touch pwned)"},
        {"limits": "max-size-mb = 20", "baseline": "'; touch pwned; '"},
        {"limits": "max-size-mb = 20", "inconclusive": "$(touch pwned)"},
        {"limits": "max-size-mb = 20", "measure": "yes"},
        {"limits": ""},
    ],
)
def test_inputs_that_are_none(runner: Runner, inputs: dict[str, str]) -> None:
    done = runner.run("gate", {"artifact": "a b", **inputs})
    assert done.returncode == 3, done.stdout + done.stderr
    assert not (runner.scratch / "pwned").exists()


def test_the_installation(runner: Runner, tmp_path: Path) -> None:
    """Its commands, in its order, as pip gets them: what pip then downloads is pip's business."""
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    # Makes the environment that `python -m venv` would, with an interpreter that only writes down what it is asked.
    recorder = f'printf "%s|%s\\n" "$PIP_EXTRA_INDEX_URL" "$*" >> "{calls}"'
    python.write_text(
        f"#!/bin/sh\nmkdir -p \"$3/bin\"\nprintf '#!/bin/sh\\n%s\\n' '{recorder}' > \"$3/bin/python\"\n"
        'chmod +x "$3/bin/python"\n'
    )
    python.chmod(stat.S_IRWXU)
    done = runner.run("install", {"python": str(python)})
    assert done.returncode == 0, done.stderr
    torch, package = calls.read_text().splitlines()
    constraints = f"-m pip install --quiet --disable-pip-version-check -c {ROOT}/constraints.txt"
    assert torch == f"https://download.pytorch.org/whl/cpu|{constraints} torch"
    assert package == f"|{constraints} {ROOT}[cpu]"
    python.write_text("#!/bin/sh\nexit 1\n")
    assert runner.run("install", {"python": str(python)}).returncode != 0


def test_the_examples_of_the_documentation(runner: Runner) -> None:
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    workflow, gitlab, hooks = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL))
    (step,) = [step for step in workflow["jobs"]["gate"]["steps"] if "with" in step]
    assert set(step["with"]) <= set(ACTION["inputs"])
    # With the limits of the example, on artifacts that are alike: equal sizes pass, the rest is open or passes.
    make_artifact(runner.scratch / "last")
    limits = step["with"]["limits"].replace("max-latency-ms", "min-speedup").replace("110 %", "90 %")
    done = runner.run("gate", {"artifact": "a b", "baseline": "last", "limits": limits, "inconclusive": "warn"})
    assert done.returncode == 0, done.stderr
    assert gitlab["gate"]["allow_failure"]["exit_codes"] == [2]
    assert gitlab["gate"]["artifacts"]["reports"]["junit"] in gitlab["gate"]["script"][-1]
    assert hooks["repos"][0]["hooks"][0]["entry"].startswith("compress gate ")
    (table,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    assert len(read_gate(parse_toml(table)["gate"], "docs").limits) == 5
