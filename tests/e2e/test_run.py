"""The main job on small random models of every family, and on a real one; what a bad input leaves behind: nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import cli, pipeline
from compress.artifact.model import load
from compress.artifact.verify import verify
from compress.core.errors import ArtifactError, BudgetUnreachable
from compress.core.plan import Plan
from compress.gate.breakdown import parts
from compress.gate.evidence import gather
from compress.options.run_config import RunConfig
from compress.profile.take import Profile
from compress.report.html import render
from compress.report.write import page_of
from support.models import OF_IMAGES, TINY_SIZES, MakeCheckpoint, layers
from support.once import Once
from support.runs import LENGTH, check_time_spent, check_verdict, configured, measure_briefly, run
from support.structures import undecided, with_outliers


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed here is never asserted on, so it is timed briefly."""
    measure_briefly(monkeypatch)


@pytest.fixture(scope="session")
def profile_file(two_layers: Path, data_csv: Path, once: Once) -> Path:
    """A measured profile of a small BERT, saved."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            measure_briefly(patch)
            pipeline.profile_model(configured(two_layers, data_csv, folder / "unused")).write(folder / "cpu.json")

    return once("profile", make) / "cpu.json"


def check_artifact(out: Path, model: Path) -> None:
    """Every file of the contract is there, hashes agree, and ONNX, PyTorch and plan are one model."""
    import onnxruntime

    plan, manifest = Plan.read(out), json.loads((out / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == facts["sha256"], name
    for name in ("model.onnx", "config.json", "tokenizer.json", "pytorch/model.safetensors", "pytorch/config.json"):
        assert name in manifest["files"]
    for name in ("plan.json", "profile.json", "validation.json", "outcomes.json", "README.md", "report.html"):
        assert name in manifest["files"]
    assert verify(out).findings == ()
    check_time_spent(out)
    evidence = gather(out)
    assert evidence.validation is not None and evidence.outcomes is not None
    assert evidence.outcomes.rows.mean() == pytest.approx(evidence.validation.metric.compressed, abs=1e-6)
    weights = {part.name: part.size_bytes or 0 for part in parts(out)}
    assert weights["embeddings"] > 0 and sum(weights.values()) <= (out / "model.onnx").stat().st_size
    assert (out / "report.html").read_text() == render(page_of([out]))
    # An environment from before the bill of materials goes without; tests/artifact/test_sbom.py has what is in it.
    assert ("sbom.cdx.json" in manifest["files"]) == (find_spec("cyclonedx") is not None)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    reloaded = load(out)
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(0))
    feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    feed["attention_mask"][0, 5:] = 0
    feed = {value.name: feed[value.name] for value in session.get_inputs()}
    with torch.no_grad():
        expected = reloaded(**feed).logits.numpy()
    np.testing.assert_allclose(session.run(None, {k: v.numpy() for k, v in feed.items()})[0], expected, atol=1e-4)
    shapes = [tuple(layer.shape) for name, layer in reloaded.named_parameters() if name.endswith("query.weight")]
    if shapes:
        kept = [len(h) for h in plan.structure.heads if h]
        assert [rows for rows, _ in shapes] == [n * plan.shape.head_size for n in kept]
    validation = json.loads((out / "validation.json").read_text())
    for key in ("latency_ms", "speedup", "metric", "size_bytes", "macs", "parity", "verdict"):
        assert key in validation
    assert validation["parity"]["max_abs_diff"] < 1e-3
    assert sum(row["count"] for row in validation["slices"]["rows"]) == validation["metric"]["examples"]


# The paper's method differs before there is a plan; from there on families differ.
UNLIKE = ("bert", "deberta-v2", "distilbert", "modernbert", "mpnet")
RUNS = [(family, "full") for family in UNLIKE[1:]] + [("bert", "kwon")]
# Models of images run in tests/tasks/test_image_classification.py.
SLOW_RUNS = [(family, "full") for family in sorted(set(TINY_SIZES) - set(OF_IMAGES) - set(UNLIKE))]


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bert", "full"),
        *(pytest.param(*case, marks=pytest.mark.e2e) for case in RUNS),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_RUNS),
    ],
)
def test_macs_budget_from_checkpoint_to_artifact(
    shared_checkpoint: MakeCheckpoint, data_csv: Path, tmp_path: Path, family: str, method: str
) -> None:
    # Two: ModernBERT has layers of two kinds.
    tiny = shared_checkpoint(family, **layers(family, 2))
    result = run(configured(tiny, data_csv, tmp_path / "out", macs=0.5, method=method))
    assert result.exit_code == 0 and result.verdict == "pass"
    assert result.plan.macs_fraction <= 0.5
    assert result.plan.method == method
    check_artifact(tmp_path / "out", tiny)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.e2e
def test_speedup_budget_and_its_reasons(two_layers: Path, data_csv: Path, tmp_path: Path) -> None:
    result = run(configured(two_layers, data_csv, tmp_path / "out", speedup=1.3))
    # Whether so small a model met it in so short a time is noise; what the verdict follows from is not.
    check_verdict(tmp_path / "out", result.exit_code)
    check_artifact(tmp_path / "out", two_layers)
    reasons = pipeline.why(tmp_path / "out")
    assert len(reasons["sublayers"]) == 4
    parts = sum(part["ms"] for part in reasons["sublayers"]) + reasons["fixed_ms"]
    assert parts == pytest.approx(reasons["total_ms"], rel=0.02, abs=2e-3)


@pytest.mark.e2e
def test_a_budget_above_the_dense_latency_prunes_nothing_and_passes(
    one_layer: Path, data_csv: Path, tmp_path: Path
) -> None:
    result = run(configured(one_layer, data_csv, tmp_path / "out", latency_ms=10_000.0))
    assert result.exit_code == 0
    assert result.plan.structure.widths == result.plan.shape.dense
    check_artifact(tmp_path / "out", one_layer)


def test_an_unreachable_budget_says_what_is_reachable_and_leaves_nothing(
    one_layer: Path, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = {"--data": str(data_csv), "--latency-ms": "1e-6", "--seq-len": str(LENGTH), "--output": str(out)}
    code = cli.main(["run", str(one_layer), "--allow-chance", *(text for pair in options.items() for text in pair)])
    assert code == 1
    assert "least reachable" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_equal_inputs_give_equal_plans_byte_for_byte(
    two_layers: Path, data_csv: Path, tmp_path: Path, profile_file: Path
) -> None:
    for budget in ({"macs": 0.4}, {"latency_ms": 0.8 * Profile.read(profile_file).table.dense_ms}):
        texts = set()
        for name in ("a", "b"):
            config = configured(two_layers, data_csv, tmp_path / name, profile=profile_file, **budget)
            plan, profile = pipeline.make_plan(config)
            assert profile is not None and plan.predicted_ms is not None
            texts.add(plan.to_json())
        assert len(texts) == 1
    config = configured(two_layers, data_csv, tmp_path / "run", profile=profile_file, **budget)
    pipeline.run(config)  # with nothing of an earlier run
    assert (tmp_path / "run" / "plan.json").read_text() in texts


@pytest.mark.e2e
def test_the_best_of_several_precisions_is_kept_and_every_candidate_is_accounted_for(
    one_layer: Path, data_csv: Path, tmp_path: Path
) -> None:
    import onnxruntime

    config = configured(one_layer, data_csv, tmp_path / "out", macs=0.6, precision="auto", int8_drop=1.0)
    result = run(config)
    assert result.exit_code == 0
    rows = result.validation["candidates"]
    assert {row["precision"] for row in rows} == {"fp32", "int8"}
    assert [row["outcome"] for row in rows].count("chosen") == 1
    accuracy = {row["precision"]: row["metric"] for row in rows}
    chosen = next(row for row in rows if row["outcome"] == "chosen")
    assert chosen["metric"] == max(accuracy.values())
    assert chosen["precision"] == result.validation["deployment"]["precision"]
    assert chosen["size_bytes"] == result.validation["size_bytes"]["compressed"]
    assert "Others" in result.validation["chosen_because"]
    # Stages that ran once for each precision have both in their sums.
    spent = check_time_spent(tmp_path / "out")
    count = {part["stage"]: part["count"] for part in spent if not part["part"]}
    assert result.spent["parts"] == spent
    assert count["reconstruct"] == count["export"] == count["validate"] >= len(accuracy) and count["load"] == 1
    onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    assert pipeline.validate_artifact(tmp_path / "out").validation["deployment"]["precision"] == chosen["precision"]


@pytest.mark.e2e
def test_dense_int8_that_meets_the_budget_is_not_pruned(one_layer: Path, data_csv: Path, tmp_path: Path) -> None:
    import onnxruntime

    options = {"latency_ms": 1e4, "precision": "int8", "int8": "invariant", "int8_drop": 1.0}
    result = run(configured(one_layer, data_csv, tmp_path / "out", **options))
    assert result.plan.structure.widths == result.plan.shape.dense
    assert result.validation["deployment"]["precision"] == "int8"
    assert "nothing is pruned" in result.validation["chosen_because"]
    assert Profile.read(tmp_path / "out").precision == "int8"
    assert Profile.read(tmp_path / "out").dense_ms != Profile.read(tmp_path / "out").table.dense_ms
    unpruned = result.validation["unpruned"]
    assert (unpruned["precision"], unpruned["speedup"]["value"]) == ("int8", 1.0)
    assert float(unpruned["next_budget"].removeprefix("--latency-ms ")) < unpruned["latency_ms"]["value"]
    sizes = result.validation["size_bytes"]
    assert sizes["compressed"] != sizes["dense"]
    # What anybody measures who opens the file: a text alone, and the same text padded in a batch.
    model = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    lengths = [3, 9, 17, 24] * 8
    feed = {value.name: np.zeros((len(lengths), max(lengths)), np.int64) for value in model.get_inputs()}
    for row, length in enumerate(lengths):
        feed["input_ids"][row, :length] = np.random.default_rng(row).integers(5, 100, length)
        feed["attention_mask"][row, :length] = 1
    together = model.run(None, feed)[0]
    for row, length in enumerate(lengths):
        (alone,) = model.run(None, {name: values[row : row + 1, :length] for name, values in feed.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    assert result.validation["invariance"]["largest"] <= 1e-5
    assert cli.main(["gate", str(tmp_path / "out"), "--max-batch-drift", "0"]) == 0


@pytest.mark.e2e
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_gets_its_ir_beside_the_onnx_file(
    one_layer: Path, data_csv: Path, tmp_path: Path, precision: str
) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    options = {"macs": 0.6, "target": "cpu-openvino", "precision": precision, "int8_drop": 1.0}
    result = run(configured(one_layer, data_csv, tmp_path / "out", **options))
    assert result.exit_code == 0
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert {"model.onnx", "engine/model.xml", "engine/model.bin"} <= set(files)
    assert len(openvino.Core().read_model(str(tmp_path / "out" / "engine" / "model.xml")).inputs) == 3
    assert result.validation["deployment"]["precision"] == precision
    assert pipeline.validate_artifact(tmp_path / "out").exit_code == 0


@pytest.mark.e2e
def test_a_compiled_package_is_measured_and_compiled_again_where_it_is_missing(
    one_layer: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from compress.export import aotinductor

    compile_package, compiled = aotinductor.compile_package, {}

    def once(model: Any, path: Path, *how: Any) -> None:
        # A loaded checkpoint has another configuration than the model that was saved.
        key = tuple((name, tensor.shape, float(tensor.double().sum())) for name, tensor in model.state_dict().items())
        if key not in compiled:
            compile_package(model, path, *how)
            compiled[key] = path.read_bytes()
        path.write_bytes(compiled[key])

    monkeypatch.setattr(aotinductor, "compile_package", once)
    out, config = tmp_path / "out", configured(one_layer, data_csv, tmp_path / "unused", macs=0.5)
    plan, _ = pipeline.make_plan(config)
    pipeline.export_plan(config.model_copy(update={"output": out, "target": "cpu-aotinductor"}), plan)
    package, record = out / "engine" / "model.pt2", out / "engine" / "model.pt2.json"
    assert {"model.onnx", "engine/model.pt2", "engine/model.pt2.json"} <= set(
        json.loads((out / "manifest.json").read_text())["files"]
    )
    assert "aoti_load_package" in (out / "README.md").read_text()
    onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    # Of another release: refused by its name, and compiled again where it was removed.
    raw = json.loads(record.read_text())
    record.write_text(json.dumps({**raw, "torch": "1.0.0"}))
    with pytest.raises(ArtifactError, match=r"model\.pt2\.json"):
        pipeline.validate_artifact(out)
    package.unlink()
    record.unlink()
    result = pipeline.validate_artifact(out)
    assert result.exit_code == 0 and result.validation["deployment"]["engine"]["form"] == "compiled"
    assert result.validation["latency_ms"]["dense"] > 0 and result.validation["parity"]["max_abs_diff"] < 1e-4
    assert json.loads(record.read_text())["model_sha256"] == raw["model_sha256"]
    assert verify(out).findings == ()
    assert len(compiled) == 2, "the pruned model and the dense one"


@pytest.mark.e2e
def test_a_target_may_ask_for_the_mobile_format(one_layer: Path, data_csv: Path, tmp_path: Path) -> None:
    import onnxruntime

    out = tmp_path / "out"
    pipeline.export_plan(configured(one_layer, data_csv, out, target="cpu-ort"), None)
    files = json.loads((out / "manifest.json").read_text())["files"]
    assert {"model.onnx", "engine/model.ort", "engine/required_operators.config"} <= set(files)
    onnxruntime.InferenceSession(str(out / "engine" / "model.ort"), providers=["CPUExecutionProvider"])


@pytest.mark.e2e
def test_int8_that_loses_too_much_is_refused_with_the_layers_to_blame(
    make_checkpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_outliers(make_checkpoint("bert", num_hidden_layers=2), tmp_path / "outliers")
    data = undecided(model, tmp_path, LENGTH)
    out = tmp_path / "out"
    options = {"--data": str(data), "--eval-data": str(data), "--macs": "1", "--seq-len": str(LENGTH)}
    options |= {"--precision": "int8", "--output": str(out), "--int8-drop": "0"}
    with pytest.MonkeyPatch.context() as patch:
        # Nothing may be left out: the file then has to be refused.
        patch.setattr("compress.stages.present_device.hold_accuracy", lambda path, engine, *_: engine)
        code = cli.main(["run", str(model), "--allow-chance", *(text for pair in options.items() for text in pair)])
    said = capsys.readouterr().err
    assert code == 1 and "int8 loses" in said and "layer.1.output.dense" in said.partition("most in ")[2].split(",")[0]
    assert not out.exists()


def removable_mb(model: Path, width: int) -> float:
    """Weights of all heads and filters of a BERT checkpoint, 10^6 bytes at so many bytes each."""
    config = json.loads((model / "config.json").read_text())
    size, filters = config["hidden_size"], config["intermediate_size"]
    return width * config["num_hidden_layers"] * (4 * size * size + 2 * size * filters) / 1e6


@pytest.mark.e2e
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_is_made_small_enough(two_layers: Path, data_csv: Path, tmp_path: Path, precision: str) -> None:
    unlimited = configured(two_layers, data_csv, tmp_path / "dense", macs=1.0, precision=precision, int8_drop=1.0)
    dense = run(unlimited).validation["size_bytes"]["compressed"]
    limit_mb = dense / 1e6 - 0.5 * removable_mb(two_layers, 4 if precision == "fp32" else 1)
    limited = {"output": tmp_path / "out", "size_mb": limit_mb}
    result = run(unlimited.model_copy(update=limited))
    sizes = result.validation["size_bytes"]
    assert result.verdict == "pass" and f"limit {limit_mb:g} MB" in result.validation["reason"]
    assert sizes["compressed"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert 0.9 * 1e6 * limit_mb < sizes["compressed"] <= 1e6 * limit_mb
    with pytest.raises(BudgetUnreachable, match="--size-mb"):
        run(unlimited.model_copy(update={"output": tmp_path / "none", "size_mb": 1e-3}))


def test_a_macs_plan_needs_no_measurement(two_layers: Path, data_csv: Path, tmp_path: Path) -> None:
    config = configured(two_layers, data_csv, tmp_path / "out", macs=0.5)
    first, again = (pipeline.make_plan(config) for _ in range(2))
    assert first[1] is None
    assert first[0].to_json() == again[0].to_json()


@pytest.mark.e2e
def test_without_labels_the_metric_is_fidelity(one_layer: Path, tmp_path: Path) -> None:
    data = tmp_path / "texts.csv"
    data.write_text("text\n" + "".join(f"a warm film number {i}\n" for i in range(40)))
    result = run(configured(one_layer, data, tmp_path / "out", macs=0.7))
    assert result.validation["metric"]["name"] == "fidelity"
    assert result.validation["metric"]["dense"] == 1.0


@pytest.mark.e2e
def test_one_file_is_split_and_said_to_be(one_layer: Path, data_csv: Path, tmp_path: Path) -> None:
    config = configured(one_layer, data_csv, tmp_path / "out", macs=0.7).model_copy(update={"eval_data": None})
    result = run(config)
    assert result.validation["metric"]["examples"] == 8


def test_a_plan_can_be_exported_and_validated_later(one_layer: Path, data_csv: Path, tmp_path: Path) -> None:
    plan, _ = pipeline.make_plan(configured(one_layer, data_csv, tmp_path / "unused", macs=0.5))
    out = pipeline.export_plan(configured(one_layer, data_csv, tmp_path / "out"), plan)
    assert not (out / "validation.json").exists()
    result = pipeline.validate_artifact(out, {"eval_data": str(data_csv)})
    assert result.exit_code == 0
    written = json.loads((out / "validation.json").read_text())
    assert written["metric"]["examples"] == 40
    manifest = json.loads((out / "manifest.json").read_text())
    digest = hashlib.sha256((out / "validation.json").read_bytes()).hexdigest()
    assert manifest["files"]["validation.json"]["sha256"] == digest
    # The report says what was measured since.
    assert "Pass: the budget is met" in (out / "report.html").read_text()
    assert verify(out).findings == ()


@pytest.mark.e2e
def test_the_dense_model_can_be_exported_without_data(tiny_distilbert: Path, tmp_path: Path) -> None:
    out = pipeline.export_plan(RunConfig(model=str(tiny_distilbert), seq_len=LENGTH, output=tmp_path / "out"), None)
    assert Plan.read(out).structure.widths == Plan.read(out).shape.dense


def test_a_plan_of_another_model_is_refused(
    two_layers: Path, tiny_distilbert: Path, data_csv: Path, tmp_path: Path
) -> None:
    from compress.core.errors import PlanError

    plan, _ = pipeline.make_plan(configured(two_layers, data_csv, tmp_path / "unused", macs=0.5))
    with pytest.raises(PlanError, match="made for"):
        pipeline.export_plan(configured(tiny_distilbert, data_csv, tmp_path / "out"), plan)
    assert not (tmp_path / "out").exists()


def test_a_profile_of_another_length_is_refused(
    two_layers: Path, data_csv: Path, tmp_path: Path, profile_file: Path
) -> None:
    from compress.core.errors import ProfileError

    config = configured(two_layers, data_csv, tmp_path / "out", macs=0.5, profile=profile_file, seq_len=16)
    with pytest.raises(ProfileError, match="16"):
        run(config)
    assert not list(tmp_path.iterdir())


BAD = {
    "model that does not exist": (["./nowhere/model"], {}, "nowhere/model"),
    "data that does not exist": (["MODEL"], {"--data": "nowhere.csv"}, "nowhere.csv"),
    "length beyond the model's": (["MODEL"], {"--seq-len": "4096"}, "4096"),
    "unknown target": (["MODEL"], {"--target": "cpuu"}, "Did you mean 'cpu'"),
    "two budgets": (["MODEL"], {"--speedup": "2"}, "more than one budget"),
    "no budget": (["MODEL"], {"--macs": None}, "no budget"),
    "budget of nothing": (["MODEL"], {"--macs": "0"}, "macs"),
    "precision that the target lacks": (["MODEL"], {"--precision": "fp16"}, "use --precision fp32, int8 or auto"),
    "unknown column": (["MODEL"], {"--text-column": "story"}, "story"),
    "unknown option": (["MODEL"], {"--sped": "2"}, "--sped"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_message_exit_3_and_nothing_written(
    what: str, two_layers: Path, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_network: None
) -> None:
    positional, changes, message = BAD[what]
    out = tmp_path / "out"
    options = {"--data": str(data_csv), "--eval-data": str(data_csv), "--macs": "0.5", "--seq-len": str(LENGTH)}
    options |= {"--output": str(out), **changes}
    arguments = [str(two_layers) if p == "MODEL" else p for p in positional]
    code = cli.main(
        ["run", "--allow-chance", *arguments, *(t for k, v in options.items() if v is not None for t in (k, v))]
    )
    said = capsys.readouterr()
    assert code == 3
    assert message in said.err
    assert "Traceback" not in said.err + said.out
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_is_said_before_anything_is_exported(
    two_layers: Path,
    data_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(
        "compress.stages.dense_model.write_onnx", lambda *_: pytest.fail("the dense model was exported")
    )
    arguments = [
        "run",
        str(two_layers),
        "--allow-chance",
        "--data",
        str(data_csv),
        "--macs",
        "0.5",
        "--seq-len",
        str(LENGTH),
    ]
    assert cli.main([*arguments, "--target", "cpu-openvino", "--output", str(tmp_path / "out")]) == 3
    assert "pip install 'compress[openvino]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_not_empty_is_left_alone(
    two_layers: Path, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    arguments = [
        "run",
        str(two_layers),
        "--allow-chance",
        "--data",
        str(data_csv),
        "--macs",
        "0.5",
        "--output",
        str(out),
    ]
    assert cli.main(arguments) == 3
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


@pytest.mark.e2e
def test_an_interrupt_leaves_no_half_artifact(
    two_layers: Path, data_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compress.stages.write.write_manifest", interrupted)
    arguments = [
        "run",
        str(two_layers),
        "--allow-chance",
        "--data",
        str(data_csv),
        "--macs",
        "0.5",
        "--seq-len",
        str(LENGTH),
    ]
    assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_encoder_keeps_its_accuracy_at_half_the_macs(
    minilm: Path, sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``full`` loses less than ``kwon``, on real data; figures with room for noise."""
    # Less than a user's run tries and trains: more can only help.
    measure_briefly(monkeypatch, candidates=4, epochs=1)
    accuracy = {}
    for method in ("full", "kwon"):
        config = RunConfig(
            model=str(minilm),
            data=str(sst2 / "train.tsv"),
            eval_data=str(sst2 / "dev.tsv"),
            macs=0.4,
            seq_len=64,
            samples=512,
            method=method,
            output=tmp_path / method,
        )
        result = run(config)
        assert result.exit_code == 0
        check_artifact(tmp_path / method, minilm)
        accuracy[method] = result.validation["metric"]["compressed"]
        shutil.rmtree(tmp_path / method)
    assert result.validation["metric"]["dense"] == pytest.approx(0.8922, abs=0.003)
    assert accuracy["full"] > accuracy["kwon"]
    assert accuracy["full"] > 0.83
