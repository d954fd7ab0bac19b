"""Artifacts of earlier versions stay readable: they verify, load, gate, report and explain as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from compress import load, load_compact
from compress.cli.main import cli

GOLDENS = Path(__file__).parents[1] / "goldens"
ARTIFACTS = sorted(folder for folder in GOLDENS.glob("*/*") if folder.name != "expected" and folder.is_dir())
LIMITS = ("--max-size-mb", "1", "--max-drop", "0.5")


@pytest.fixture(params=ARTIFACTS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def artifact(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an old artifact, in the current directory under its own name: reports write into it."""
    shutil.copytree(request.param, tmp_path / request.param.name)
    monkeypatch.chdir(tmp_path)
    return Path(request.param.name)


def expected(artifact: Path, request: pytest.FixtureRequest, name: str) -> Any:
    """What the version that wrote the artifact answered; None where it refused."""
    file = request.node.callspec.params["artifact"].parent / "expected" / artifact.name / name
    return json.loads(file.read_text()) if file.is_file() else None


def answer(*arguments: str) -> tuple[int, Any]:
    """Exit code and JSON document of a command; None where an error was raised instead."""
    found = CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False)
    if found.exception:
        return 3, None
    return int(found.return_value or 0), json.loads(found.stdout)


def test_three_kinds_of_every_version() -> None:
    kinds = {folder.name for folder in ARTIFACTS}
    assert kinds == {"text-classification", "sentence-similarity", "unstructured"}
    assert len(ARTIFACTS) == 3 * len({folder.parent for folder in ARTIFACTS})


def test_verified(artifact: Path, request: pytest.FixtureRequest) -> None:
    assert answer("verify", str(artifact)) == (0, expected(artifact, request, "verify.json"))


def test_gated(artifact: Path, request: pytest.FixtureRequest) -> None:
    assert answer("gate", str(artifact), *LIMITS) == (0, expected(artifact, request, "gate.json"))
    assert answer("gate", str(artifact), "--max-size-mb", "0.001")[0] == 1


def test_explained(artifact: Path, request: pytest.FixtureRequest) -> None:
    _, document = answer("why", str(artifact))
    assert document == expected(artifact, request, "why.json")


def test_reported(artifact: Path) -> None:
    code, document = answer("report", str(artifact), "--output", "page.html")
    assert code == 0 and document is not None
    assert Path("page.html").read_bytes() == (artifact / "report.html").read_bytes()


def test_loaded(artifact: Path) -> None:
    import numpy as np
    import onnxruntime
    import torch

    ids = np.array([[2, 17, 8, 3]])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    session = onnxruntime.InferenceSession(artifact / "model.onnx")
    (answered,) = session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})
    models = [load(artifact)]
    if artifact.name == "unstructured":
        models.append(load_compact(artifact / "compact.safetensors"))
    for model in models:
        with torch.no_grad():
            output = model(**{name: torch.from_numpy(array) for name, array in feed.items()})
        found = output.logits if "logits" in output else torch.nn.functional.normalize(output[0].mean(1), dim=-1)
        # The compact file rounds to int8.
        torch.testing.assert_close(found.numpy(), answered, atol=1e-5 if model is models[0] else 0.5, rtol=0)
