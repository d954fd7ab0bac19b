"""``compress gate`` from its limits to its verdicts, on artifacts of real files."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from compress import cli
from compress.artifact.manifest import NAME, read_manifest, sealed
from compress.core.errors import ArtifactError, ConfigError, TargetError
from compress.core.progress import Silent
from compress.gate.judge import Report, judge
from compress.options.gate_limits import read_gate
from support.gate_artifact import VALIDATION, changed, make_artifact

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)


def gated(artifact: Path, limits: Mapping[str, Any], baseline: Path | None = None, measure: bool = False) -> Report:
    return judge(artifact, read_gate(limits, "x"), Silent(), baseline=baseline, measure=measure, now=NOW)


def verdicts(report: Report) -> list[str]:
    return [judgement.verdict for judgement in report.judgements]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "out")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compress.toml is found by chance, and nothing is said to a GitHub that runs these tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_size_mb": 2}, "pass"),
        ({"max_size_mb": 0.9}, "fail"),
        ({"max_size_mb": "70 %"}, "pass"),  # 2.0 of 3.0 MB
        ({"max_size_mb": "60 % of dense"}, "fail"),
        ({"max_file_size_mb": 2}, "pass"),
        ({"max_file_size_mb": 0.5}, "fail"),
        ({"max_file_size_mb": {"model.onnx": 0.5}}, "pass"),
        ({"max_latency_ms": 5.2}, "pass"),
        ({"max_latency_ms": 5.0}, "inconclusive"),
        ({"max_latency_ms": 4.8}, "fail"),
        ({"max_latency_ms": "51 % of dense"}, "pass"),
        ({"max_latency_ms": "50 %"}, "inconclusive"),
        ({"max_latency_ms": "45 %"}, "fail"),
        ({"min_speedup": 1.9}, "pass"),
        ({"min_speedup": 2}, "inconclusive"),
        ({"min_speedup": 2.1}, "fail"),
        ({"min_accuracy": 0.85}, "pass"),
        ({"min_accuracy": 0.88}, "inconclusive"),
        ({"min_accuracy": 0.95}, "fail"),
        ({"min_accuracy": "96 % of dense"}, "pass"),
        ({"min_accuracy": "99.5 % of dense"}, "fail"),
        ({"max_drop": 0.03}, "pass"),
        ({"max_drop": 0.02}, "inconclusive"),
        ({"max_drop": 0.01}, "fail"),
        ({"max_drop": "4 %"}, "pass"),
        ({"max_drop": "1 %"}, "fail"),
        ({"max_macs": 0.5}, "pass"),
        ({"max_macs": "49 %"}, "fail"),
        ({"max_parity": 1e-4}, "pass"),
        ({"max_parity": 1e-6}, "fail"),
        ({"max_batch_drift": 0}, "inconclusive"),
        ({"max_latency_ms": 5.2, "device": "epyc"}, "pass"),
        ({"max_latency_ms": 5.2, "device": "Xeon"}, "inconclusive"),
        ({"max_latency_ms": 5.2, "max_age_days": 1}, "inconclusive"),
        ({"max_size_mb": [2, 0.5]}, "fail"),
        ({"max_drop": 0.02, "max_size_mb": 0.5}, "fail"),
    ],
)
def test_limits_without_a_baseline(out: Path, limits: dict[str, Any], expected: str) -> None:
    report = gated(out, limits)
    assert report.verdict == expected
    assert report.exit_code == {"pass": 0, "fail": 1, "inconclusive": 2}[expected]
    assert all(judgement.reason for judgement in report.judgements if judgement.verdict != "pass")


@pytest.mark.parametrize(
    ("largest", "limit", "expected"),
    [(0.0, 0, "pass"), (2e-6, 0, "pass"), (1.04, 0, "fail"), (1.04, 1, "fail"), (1.04, 1.1, "pass")],
)
def test_answers_may_differ_by_no_more_than_float_sums_do_or_the_limit_allows(
    tmp_path: Path, largest: float, limit: float, expected: str
) -> None:
    measured = {"batch": largest, "order": largest, "padding": None, "largest": largest, "changed": 0.015625}
    measured |= {"examples": 128, "batch_size": 32, "padded_by": 0}
    report = gated(make_artifact(tmp_path / "out", {**VALIDATION, "invariance": measured}), {"max_batch_drift": limit})
    assert report.verdict == expected
    assert expected == "pass" or "2 of 128 decisions change" in report.judgements[0].reason


def test_limits_against_a_baseline(out: Path, tmp_path: Path) -> None:
    slower = changed(changed(VALIDATION, "speedup.value", 1.5), "speedup.ci95", [1.48, 1.52])
    new = make_artifact(tmp_path / "new", slower, bulk=1_100_000)
    for limit, expected in (
        ({"max_size_mb": "105 % of baseline"}, "fail"),
        ({"max_size_mb": "115 % of baseline"}, "pass"),
        ({"max_file_size_mb": {"model.onnx": "100 % of baseline"}}, "pass"),
        ({"max_file_size_mb": "105 % of baseline"}, "fail"),
        ({"max_latency_ms": "105 % of baseline"}, "fail"),
        ({"max_latency_ms": "133 % of baseline"}, "inconclusive"),
        ({"max_latency_ms": "150 % of baseline"}, "pass"),
        ({"min_speedup": "95 % of baseline"}, "fail"),
        ({"max_macs": "100 % of baseline"}, "pass"),
    ):
        assert gated(new, limit, out).verdict == expected, limit


def test_accuracy_is_compared_example_by_example(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    right = (random.random(400) < 0.88).astype(float)
    worse = right.copy()
    worse[np.flatnonzero(right)[:12]] = 0.0
    old = make_artifact(tmp_path / "old", outcomes=list(right))
    new = make_artifact(tmp_path / "new", outcomes=list(worse))
    report = gated(new, {"max_drop": ["0.01 against baseline", "0.06 against baseline"]}, old)
    assert verdicts(report) == ["fail", "pass"]
    assert "paired over 400 examples" in report.judgements[0].source
    (without,) = gated(make_artifact(tmp_path / "bare"), {"max_drop": "0.01 against baseline"}, old).judgements
    assert without.verdict == "inconclusive" and "not paired" in without.source
    other = make_artifact(tmp_path / "other", evaluation="f" * 64)
    with pytest.raises(ArtifactError, match="validated on other data"):
        gated(other, {"max_drop": "0.01 against baseline"}, old)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("verdict", "fail", "failed its own budget"),
        ("deployment.device", {"processor": "Xeon", "cores": 2, "threads": 2}, "processor AMD EPYC, not Xeon"),
        ("deployment.seq_len", 128, "seq len 8, not 128"),
        ("deployment.target", "t4", "target cpu, not t4"),
    ],
)
def test_baselines_that_are_refused(out: Path, tmp_path: Path, path: str, value: Any, words: str) -> None:
    other = make_artifact(tmp_path / "other", changed(VALIDATION, path, value))
    for limit in ({"max_size_mb": "105 % of baseline"}, {"max_latency_ms": "105 % of baseline"}):
        with pytest.raises(ArtifactError, match=words):
            gated(out, limit, other)
    assert cli.main(["gate", str(out), "--baseline", str(other), "--max-size-mb", "105 % of baseline"]) == 3


def test_records_against_different_dense_models_settle_nothing(out: Path, tmp_path: Path) -> None:
    other = make_artifact(tmp_path / "other", dense="0" * 64)
    report = gated(out, {"max_latency_ms": "150 % of baseline"}, other)
    assert report.verdict == "inconclusive" and "--measure" in report.judgements[0].reason


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("date", "tomorrow"),
        ("date", "2099-01-01T00:00:00+00:00"),
        ("latency_ms", {"dense": None, "compressed": None, "ci95": None}),
        ("speedup", {"value": None, "ci95": None}),
    ],
)
def test_records_that_settle_nothing(tmp_path: Path, path: str, value: Any) -> None:
    out = make_artifact(tmp_path / "out", changed(VALIDATION, path, value))
    assert gated(out, {"max_latency_ms": 100}).verdict == "inconclusive"
    assert gated(out, {"min_speedup": 0.1}).verdict == "inconclusive"
    assert gated(out, {"max_size_mb": 100}).verdict == "pass"


def test_an_artifact_that_was_never_validated(tmp_path: Path) -> None:
    out = make_artifact(tmp_path / "out", None)
    report = gated(out, {"max_size_mb": 10, "max_drop": 0.1, "max_parity": 1, "max_macs": 1})
    assert verdicts(report) == ["pass", "inconclusive", "inconclusive", "inconclusive"]
    assert "never validated" in report.judgements[1].reason


def test_times_here_and_now(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("compress.gate.timing.VISIT_SECONDS", 0.01)
    other = make_artifact(tmp_path / "other", changed(VALIDATION, "deployment.device", {"processor": "Xeon"}))
    limits = {
        "max_latency_ms": [1000, 1e-5, "5 %  of baseline", "900 % of baseline"],
        "min_speedup": "10 % of baseline",
    }
    report = gated(out, limits, other, measure=True)
    assert verdicts(report) == ["pass", "fail", "fail", "pass", "pass"]
    assert all("timed here, 8 loadings" in judgement.source for judgement in report.judgements)
    with pytest.raises(TargetError, match="not 'Abacus', on which the latency is limited"):
        gated(out, {"max_latency_ms": 5, "device": "Abacus"}, measure=True)
    with pytest.raises(ConfigError, match="no limit that it would settle"):
        gated(out, {"max_size_mb": 2}, measure=True)
    otherwise = make_artifact(tmp_path / "otherwise", changed(VALIDATION, "deployment.batch_size", 8))
    with pytest.raises(ArtifactError, match="batch size 1, not 8"):
        gated(out, limits, otherwise, measure=True)


def test_mistakes_are_errors_and_never_a_pass(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passing = ["--max-size-mb", "20"]
    for arguments, words in (
        ([str(out)], "a gate without limits"),
        ([str(out), "--max-size-mb", "20 ms"], "another unit"),
        ([str(out), "--max-size-mb", "100 % of baseline"], "needs a baseline"),
        ([str(out), *passing, "--baseline", str(out)], "no limit refers to the baseline"),
        ([str(out), "--max-size-mb", "100 % of baseline", "--baseline", str(tmp_path / "no")], "is not there"),
        ([str(tmp_path), *passing], "has no manifest.json"),
        ([str(tmp_path / "nowhere"), *passing], "is not there"),
        ([str(out), *passing, "--config", "none.toml"], "no configuration file"),
        ([str(out), "--max-file-size-mb", "other.onnx=3"], "does not have"),
        ([str(out), *passing, "--junit", str(tmp_path / "no" / "x.xml")], "cannot write"),
        ([str(out), *passing, "--max-age-days", "-1"], "positive number of days"),
        ([str(out), "--max-sise-mb", "20"], "No such option"),
    ):
        assert cli.main(["gate", *arguments]) == 3, arguments
        assert words in capsys.readouterr().err
    document = {**read_manifest(out), "format": 2, "versions": {"compress": "3.1.0"}}
    (out / NAME).write_text(sealed(document))
    assert cli.main(["gate", str(out), *passing]) == 3
    assert "install compress 3.1.0 or newer" in capsys.readouterr().err


def test_a_damaged_artifact_is_an_error(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "notes.txt").write_text("an extra file is counted and named")
    report = gated(out, {"max_size_mb": 2})
    assert report.verdict == "pass" and "notes.txt" in report.notes[0]
    (out / "validation.json").write_text((out / "validation.json").read_text().replace("5.0", "1.0"))
    assert cli.main(["gate", str(out), "--max-latency-ms", "5"]) == 3
    assert "validation.json (changed)" in capsys.readouterr().err


def test_the_table_of_compress_toml(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compress.toml").write_text('[gate]\nmax_size_mb = 0.5\nmax_drop = ["0.03", "5 %"]\n')
    assert cli.main(["gate", str(out), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(row["limit"], row["verdict"]) for row in document["limits"]] == [
        ("max_size_mb", "fail"),
        ("max_drop", "pass"),
        ("max_drop", "pass"),
    ]
    assert document["exit_code"] == 1 and document["verdict"] == "fail"
    assert cli.main(["gate", str(out), "--max-size-mb", "5"]) == 0
    assert "PASS" in capsys.readouterr().out


def test_a_failure_fits_on_a_screen_and_says_why(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", str(out), "--max-size-mb", "0.8"]) == 1
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 12
    for words in ("FAIL", "1.005", "at most 0.8", "pytorch/model.safetensors 1.0 MB", "--why"):
        assert words in text
    assert cli.main(["gate", str(out), "--max-size-mb", "0.8", "--why"]) == 1
    text = capsys.readouterr().out
    for part in ("embeddings", "layer 0 attention", "layer 0 ffn"):
        assert part in text


def test_what_github_gets(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    summary, xml = tmp_path / "summary.md", tmp_path / "gate.xml"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    limits = ["--max-size-mb", "0.5", "--max-latency-ms", "5", "--max-macs", "0.6"]
    assert cli.main(["gate", str(out), *limits, "--junit", str(xml), "--json"]) == 1
    stdout, stderr = capfd.readouterr()
    json.loads(stdout)
    commands = [line for line in stderr.splitlines() if line.startswith("::")]
    assert [command.split(" ")[0] for command in commands] == ["::error", "::warning"]
    text = summary.read_text()
    assert text.startswith("before\n### ❌ compress gate: FAIL") and text.count("| ❔ INCONCLUSIVE |") == 1
    suite = ElementTree.parse(xml).getroot()[0]
    assert [suite.get(name) for name in ("tests", "failures", "errors")] == ["3", "1", "1"]
    # An error takes the place of what an earlier run wrote.
    assert cli.main(["gate", str(tmp_path / "nowhere"), *limits, "--junit", str(xml)]) == 3
    assert ElementTree.parse(xml).getroot()[0].get("errors") == "1"
    assert "::error title=compress gate::" in capfd.readouterr().err


def test_names_in_an_artifact_cannot_write_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    metric = "acc\n::error::mine\x1b[2J|<script>"
    out = make_artifact(tmp_path / "out", changed(VALIDATION, "metric.name", metric))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    xml = tmp_path / "gate.xml"
    assert cli.main(["gate", str(out), "--min-accuracy", "0.99", "--junit", str(xml)]) == 1
    stdout, stderr = capfd.readouterr()
    for text in (stdout, stderr, (tmp_path / "summary.md").read_text()):
        assert "\x1b" not in text and not any(line.startswith("::error::") for line in text.splitlines())
    assert "<script>" not in (tmp_path / "summary.md").read_text().replace("\\<script\\>", "")
    ElementTree.parse(xml)


def test_limits_are_about_the_file_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("latency_ms", "speedup", "metric", "size_bytes", "parity", "verdict", "reason")
    kept = {name: VALIDATION[name] for name in own} | {"precision": "int8", "engine": {"precision": "int8"}}
    kept = changed({**kept, "file": "model_quantized.onnx"}, "metric.drop", {"value": 0.1, "ci95": [0.09, 0.11]})
    kept = changed(kept, "metric.compressed", 0.8)
    out = make_artifact(tmp_path / "both", {**VALIDATION, "kept": [kept]}, outcomes=[1.0] * 400)
    limits = read_gate({"max_drop": 0.05}, "x")
    first = judge(out, limits, Silent(), now=NOW)
    assert verdicts(first) == ["pass"] and "--file judges model_quantized.onnx" in first.notes[0]
    second = judge(out, limits, Silent(), file="model_quantized.onnx", now=NOW)
    assert verdicts(second) == ["fail"] and not second.notes
    # Against a baseline, its file of the same name counts.
    base = make_artifact(tmp_path / "base", {**VALIDATION, "kept": [kept]})
    relative = read_gate({"min_accuracy": "99 % of baseline"}, "x")
    found = judge(out, relative, Silent(), baseline=base, file="model_quantized.onnx", now=NOW)
    assert found.judgements[0].bound == pytest.approx(0.99 * 0.8)
    assert cli.main(["gate", str(out), "--max-drop", "0.05", "--file", "model_fp16.onnx"]) == 3
    assert "has no record of such a file; it has model.onnx, model_quantized.onnx" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match="has no interval"):
        judge(
            make_artifact(tmp_path / "bad", {**VALIDATION, "kept": [changed(kept, "speedup.ci95", None)]}),
            limits,
            Silent(),
        )
