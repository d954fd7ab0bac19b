"""`--keep`: one artifact with the same model in several number formats, each measured, known to every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from compress import cli, pipeline
from compress.artifact.package import package
from compress.artifact.verify import verify
from compress.core.errors import PrecisionRefused
from compress.options.run_config import make_config
from compress.report.html import render
from compress.report.write import page_of
from support.runs import LENGTH, check_verdict, configured, measure_briefly, run


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)


def answers(file: Path) -> Any:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(5, 100, (4, 9))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return session.run(["logits"], {value.name: feed[value.name] for value in session.get_inputs()})[0]


@pytest.mark.e2e
def test_files_beside_the_chosen_one_are_measured_and_known_to_every_command(
    one_layer: Path, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """int8 is asked for, so that the kept file is made of its plan."""
    out = tmp_path / "out"
    config = configured(
        one_layer, data_csv, out, macs=0.6, precision="int8", keep="fp32,int8", int8_drop=1.0, target="cpu"
    )
    result = run(config)
    assert result.exit_code == 0
    check_verdict(out)
    (kept,) = result.validation["kept"]
    assert (kept["file"], kept["precision"], kept["verdict"]) == ("model_fp32.onnx", "fp32", "pass")
    assert result.validation["deployment"]["precision"] == "int8"
    file = out / kept["file"]
    assert kept["size_bytes"]["compressed"] == file.stat().st_size > (out / "model.onnx").stat().st_size
    assert kept["parity"]["max_abs_diff"] < 1e-4 < result.validation["parity"]["max_abs_diff"]
    assert kept["latency_ms"]["compressed"] > 0 and kept["metric"]["examples"]
    assert "drop_of_int8" not in kept["metric"]
    # One model: int8 differs from float32 by its rounding, and by nothing else.
    difference = np.abs(answers(file) - answers(out / "model.onnx")).max()
    assert 0 < difference == pytest.approx(0, abs=0.05)

    assert all(row.stored for row in pipeline.foresee(config)), "a resumed run makes nothing again"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kept"][kept["file"]]["engine"]["precision"] == "fp32" and kept["file"] in manifest["files"]
    assert verify(out).findings == ()
    assert f"| {kept['file']} | fp32 |" in (out / "README.md").read_text()
    page = (out / "report.html").read_text()
    assert page == render(page_of([out])) and "Beside model.onnx" in page

    # Measured again, both.
    assert cli.main(["validate", str(out)]) == 0
    assert kept["file"] in capsys.readouterr().out
    again = json.loads((out / "validation.json").read_text())["kept"]
    assert [one["metric"] for one in again] == [kept["metric"]] and verify(out).findings == ()

    # The gate holds limits against the file that is named.
    limit = ["--max-parity", "1e-4"]
    assert cli.main(["gate", str(out), *limit]) == 1
    assert "--file judges model_fp32.onnx" in capsys.readouterr().out
    assert cli.main(["gate", str(out), *limit, "--file", kept["file"]]) == 0

    made = package(out, "transformers.js")
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx"} <= set(made.files)
    assert (made.directory / "onnx" / "model.onnx").read_bytes() == file.read_bytes()
    file.write_bytes(file.read_bytes()[:-1])
    assert cli.main(["validate", str(out)]) == 3 and cli.main(["verify", str(out)]) == 1
    assert "model_fp32.onnx" in capsys.readouterr().out


@pytest.mark.e2e
def test_a_candidate_of_the_same_structure_is_kept_as_it_is(
    one_layer: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(
        one_layer, data_csv, tmp_path / "out", macs=0.6, precision="auto", keep="int8,fp32", int8_drop=1
    )
    result = run(config)
    (kept,) = result.validation["kept"]
    rows = {row["precision"]: row for row in result.validation["candidates"]}
    assert set(rows) == {"fp32", "int8"} == {kept["precision"], result.validation["deployment"]["precision"]}
    other = rows[kept["precision"]]
    assert (other["latency_ms"], other["metric"]) == (kept["latency_ms"]["compressed"], kept["metric"]["compressed"])
    assert (tmp_path / "out" / kept["file"]).stat().st_size == other["size_bytes"]

    # A format that is to be kept and may not be is an error, as one that is asked for alone.
    monkeypatch.setattr("compress.stages.kept.refusal_of", lambda *_: "int8 loses 0.1")
    with pytest.raises(PrecisionRefused, match=r"--keep int8,fp32: int8 loses 0.1; or leave \w+ out of --keep"):
        run(config.model_copy(update={"output": tmp_path / "other"}))
    assert not (tmp_path / "other").exists()


@pytest.mark.e2e
def test_an_export_has_the_files_too(one_layer: Path, tmp_path: Path) -> None:
    options = {"keep": "fp32,int8", "precision": "auto", "seq_len": LENGTH, "output": tmp_path / "out"}
    config = make_config({"model": one_layer, **options})
    out = pipeline.export_plan(config, None)
    assert {path.name for path in out.glob("*.onnx")} == {"model.onnx", "model_quantized.onnx"}
    made = json.loads((out / "manifest.json").read_text())["kept"]["model_quantized.onnx"]
    assert made["engine"]["precision"] == "int8" and verify(out).findings == ()
