"""image-classification, from folders of classes to an artifact; wrong data ends with a clear message and code 3."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import compress
from compress import cli, pipeline
from compress.calibration.curvature import curvature
from compress.core.errors import ModelError
from compress.models.encoder import encoder_of
from compress.reconstruction.layerwise import first_inputs
from compress.tasks import TASKS
from support.data import write_rows
from support.images import classes, picture, truncated
from support.models import MakeCheckpoint, random_model, write_image_processor
from support.runs import configured, measure_briefly, run

TASK = TASKS["image-classification"]
# Two by two patches and [CLS].
POSITIONS = 5
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def tiny_vit(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("vit", id2label={0: "dark", 1: "light"}, label2id={"dark": 0, "light": 1})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return classes(tmp_path / "images", each=12)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_briefly(monkeypatch)


@pytest.mark.e2e
def test_from_folders_to_an_artifact_and_back(tiny_vit: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(configured(tiny_vit, folder, out, macs=0.5).model_copy(update={"seq_len": 128}))
    assert result.exit_code == 0 and result.validation["metric"]["name"] == "accuracy"
    assert result.validation["parity"]["max_abs_diff"] < 1e-3
    assert result.validation["deployment"]["seq_len"] == POSITIONS
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["task"]["name"] == "image-classification"
    assert (out / "preprocessor_config.json").is_file()
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = compress.load(out)(pixel_values=pixels).logits.numpy()
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"pixel_values": pixels.numpy()})[0], expected, atol=1e-4, rtol=0)
    assert pipeline.validate_artifact(out).validation["metric"] == result.validation["metric"]


def test_layer_by_layer_is_the_model_and_all_positions_are_real(tiny_vit: Path, folder: Path) -> None:
    encoder = encoder_of(random_model("vit"))
    data = TASK.made_up(encoder.model.config, ("pixel_values",), 0, 6)
    assert data.lengths.tolist() == [POSITIONS] * 6
    for (call, hidden), batch in zip(first_inputs(encoder, TASK, data, 4), data.batches(4), strict=True):
        assert batch.mask.shape == (len(batch.indices), POSITIONS) and bool(batch.mask.all())
        with torch.no_grad():
            expected = encoder.model(**batch.inputs, output_hidden_states=True).hidden_states
            for number, layer in enumerate(encoder):
                torch.testing.assert_close(hidden, expected[number])
                hidden = call(layer, hidden)
    found = curvature(encoder, TASK, data)
    # [CLS] alone is read.
    assert all(bool(c.inputs.isfinite().all()) for c in found.values())


def _fails(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    options = ["--data", str(data), "--macs", "0.5", "--output", str(tmp_path / "out"), *more]
    assert cli.main(["run", str(model), "--allow-chance", *options]) == 3
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


def test_an_image_that_does_not_decode_is_named_with_file_and_row(
    tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": picture(tmp_path / f"{i}.png").name, "label": ("dark", "light")[i % 2]} for i in range(12)]
    data = write_rows(tmp_path / "rows.csv", rows)
    (tmp_path / "4.png").write_text("not an image")
    assert f"image '{tmp_path / '4.png'}' (row 5) does not decode" in _fails(tiny_vit, data, tmp_path, capsys)
    (tmp_path / "4.png").unlink()
    assert f"image '{tmp_path / '4.png'}' (row 5) does not exist" in _fails(tiny_vit, data, tmp_path, capsys)
    (tmp_path / "4.png").write_bytes(truncated())
    assert f"image '{tmp_path / '4.png'}' (row 5) does not decode" in _fails(tiny_vit, data, tmp_path, capsys)


def test_a_length_means_nothing_for_images(
    tiny_vit: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = _fails(tiny_vit, folder, tmp_path, capsys, "--seq-len", "64")
    assert f"--seq-len 64 is for texts: this model reads {POSITIONS} positions of every image" in message


def test_texts_for_a_model_of_images(
    tiny_vit: Path, data_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot tell which column holds the images" in _fails(tiny_vit, data_csv, tmp_path, capsys)


def test_images_for_a_model_of_texts(
    tiny_bert: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = _fails(tiny_bert, folder, tmp_path, capsys, "--task", "image-classification")
    assert "does not fit this checkpoint" in message


def test_an_image_processor_of_another_size_does_not_belong(tiny_vit: Path, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    from compress.data.load import load_data
    from compress.inputs.processors import load_image_processor

    config, rows = AutoConfig.from_pretrained(tiny_vit), load_data(str(folder), "train")
    columns = TASK.columns(rows, config)
    write_image_processor(tmp_path, 32)
    processor = load_image_processor(tmp_path, config, "other")
    with pytest.raises(ModelError, match="they do not belong together"):
        TASK.encode(rows, processor, columns, 0, config)


def test_without_an_image_processor(
    make_checkpoint: MakeCheckpoint, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_checkpoint("vit")
    (model / "preprocessor_config.json").unlink()
    assert "has no image processor" in _fails(model, folder, tmp_path, capsys)


@pytest.mark.slow
def test_digits_are_learned_and_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images: a small ViT learns them from scratch, and loses little of it at half of its MACs."""
    monkeypatch.setattr(sys, "argv", ["digits.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "digits.py"), run_name="__main__")
    arguments = ["--task", "image-classification", "--data", str(tmp_path / "images")]
    arguments += ["--model", str(tmp_path / "untrained"), "--epochs", "24", "--learning-rate", "2e-3"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *arguments, "--output", str(tmp_path / "vit")])
    runpy.run_path(str(EXAMPLES / "finetune.py"), run_name="__main__")
    config = configured(tmp_path / "vit", tmp_path / "images", tmp_path / "out", macs=0.6, samples=512)
    metric = pipeline.run(config.model_copy(update={"seq_len": 128})).validation["metric"]
    assert metric["examples"] == 360
    assert metric["dense"] > 0.85
    assert metric["compressed"] > metric["dense"] - 0.1
