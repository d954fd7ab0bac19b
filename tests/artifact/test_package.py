"""``compress package``: files where programs look for them, refusals, the artifact left as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from compress import cli
from compress.artifact.consumers import CONSUMERS
from compress.artifact.manifest import write_manifest
from compress.artifact.package import package
from compress.artifact.verify import verify
from compress.core.errors import ArtifactError, ConfigError
from compress.tasks import TASKS

EMBEDDING = {"embedding": "normalized", "pooling": "mean", "normalize": True, "layers": [], "truncate": None}


def model(outputs: dict[str, list[Any]]) -> bytes:
    """Made-up inputs, and outputs of these shapes."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    nodes = [helper.make_node("Cast", ["input_ids"], [name], to=TensorProto.FLOAT) for name in outputs]
    data: bytes = helper.make_model(helper.make_graph(nodes, "g", [ids], values)).SerializeToString()
    return data


def artifact(directory: Path, task: str = "sentence-similarity", precision: str = "fp32", **settings: Any) -> Path:
    (directory / "pytorch").mkdir(parents=True)
    (directory / "1_Pooling").mkdir()
    outputs: dict[str, list[Any]] = {"logits": ["batch", 2]}
    if task == "sentence-similarity":
        outputs = {"sentence_embedding": ["batch", 8], "last_hidden_state": ["batch", "sequence", 8]}
        settings = {**EMBEDDING, **settings}
        if settings["embedding"] == "tokens":
            del outputs["sentence_embedding"]
    (directory / "model.onnx").write_bytes(model(outputs))
    for name in ("tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json", "plan.json", "report.html"):
        (directory / name).write_text("{}")
    (directory / "config.json").write_text(json.dumps({"id2label": {"1": "good", "0": "bad"}}))
    for name in ("pytorch/model.safetensors", "model.safetensors", "compact.safetensors"):
        (directory / name).write_bytes(b"weights")
    facts = {"model": {"name": "some/My Model"}, "task": {"name": task, **settings}, "engine": {"precision": precision}}
    write_manifest(directory, {**facts, "configuration": {"target": "cpu"}})
    return directory


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


COMMON = {"config.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"}


@pytest.mark.parametrize(
    ("consumer", "precision", "file"),
    [
        ("optimum", "int8", "model.onnx"),
        ("tei", "fp32", "model.onnx"),
        ("fastembed", "int8", "onnx/model.onnx"),
        ("transformers.js", "fp32", "onnx/model.onnx"),
        ("transformers.js", "int8", "onnx/model_quantized.onnx"),
        ("transformers.js", "fp16", "onnx/model_fp16.onnx"),
    ],
)
def test_files_lie_where_the_program_looks(tmp_path: Path, consumer: str, precision: str, file: str) -> None:
    out = artifact(tmp_path / "out", precision=precision)
    made = package(out, consumer)
    # Of the weights for PyTorch only who reads them gets a copy.
    expected_files = {*COMMON, file, "README.md", *(["model.safetensors"] if consumer == "optimum" else [])}
    assert made.directory == tmp_path / f"out-{consumer}" and names(made.directory) == expected_files
    assert (made.directory / file).read_bytes() == (out / "model.onnx").read_bytes()
    assert str(made.directory) in made.snippet and "PACKAGE" not in made.snippet
    if consumer == "transformers.js":
        config = json.loads((made.directory / "config.json").read_text())
        expected = {"fp32": "fp32", "int8": "q8", "fp16": "fp16"}[precision]
        assert config["transformers.js_config"]["dtype"] == expected
    assert not verify(out).findings, "the artifact is as it was"


def test_a_model_repository_of_triton(tmp_path: Path) -> None:
    made = package(artifact(tmp_path / "out", "text-classification"), "triton", tmp_path / "models")
    folder = tmp_path / "models" / "My-Model"
    assert {path.name for path in folder.iterdir()} == {"1", "config.pbtxt", "labels.txt", "tokenizer"}
    assert names(folder / "tokenizer") == COMMON - {"1_Pooling/config.json"}
    assert (folder / "labels.txt").read_text() == "bad\ngood\n"
    text = (folder / "config.pbtxt").read_text()
    assert 'name: "My-Model"' in text and "dims: [ 2 ]" in text and "kind: KIND_CPU" in text
    assert "My-Model/1/model.onnx" in made.files


@pytest.mark.parametrize("copy", [False, True])
def test_large_files_are_links_unless_copies_are_asked_for(tmp_path: Path, copy: bool) -> None:
    out = artifact(tmp_path / "out")
    made = package(out, "fastembed", copy=copy)
    assert made.linked is not copy
    assert os.path.samefile(out / "model.onnx", made.directory / "onnx" / "model.onnx") is not copy


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_is_served_or_refused_with_who_serves_it(tmp_path: Path, task: str) -> None:
    out = artifact(tmp_path / "out", task)
    for name, consumer in CONSUMERS.items():
        if task in consumer.tasks:
            assert package(out, name).snippet
        else:
            with pytest.raises(ConfigError, match=f"--for {name} cannot serve {task}: .*is served by optimum"):
                package(out, name)
            assert not (tmp_path / f"out-{name}").exists()


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ({"embedding": "tokens", "pooling": "lasttoken"}, True),
        ({"embedding": "tokens", "pooling": "max"}, False),
        ({"embedding": "tokens", "layers": ["Dense 8x4 Tanh"]}, False),
        ({"pooling": "max+mean", "layers": ["Dense 8x4 Tanh"]}, True),
    ],
)
def test_a_pooling_that_the_program_cannot_repeat_is_refused(
    tmp_path: Path, settings: dict[str, Any], served: bool
) -> None:
    out = artifact(tmp_path / "out", **settings)
    for consumer in ("tei", "fastembed"):
        if served:
            package(out, consumer)
        else:
            with pytest.raises(ConfigError, match="make the artifact without --embedding tokens"):
                package(out, consumer)


def test_what_cannot_be_packaged(tmp_path: Path) -> None:
    out = artifact(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no consumer 'transformersjs'. Did you mean 'transformers.js'\?"):
        package(out, "transformersjs")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ArtifactError, match="is not empty"):
        package(out, "optimum", tmp_path / "taken")
    older = onnx.load(str(out / "model.onnx"))
    del older.graph.output[1:]
    onnx.save(older, str(out / "model.onnx"))
    with pytest.raises(ArtifactError, match=r"model.onnx \(changed\)"):
        package(out, "optimum")
    write_manifest(out, {"task": {"name": "sentence-similarity", **EMBEDDING}})
    with pytest.raises(ArtifactError, match="has no last_hidden_state, which optimum reads"):
        package(out, "optimum")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "taken"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = artifact(tmp_path / "out", prompt='say "hello" : ')
    assert cli.main(["package", str(out), "--for", "tei"]) == 0
    answer = capsys.readouterr().out
    assert f"--model-id {out}-tei --dtype float32 --default-prompt 'say \"hello\" : '" in answer
    assert cli.main(["package", str(out), "--for", "fastembed", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["for"] == "fastembed" and "PoolingType.DISABLED, False" in document["snippet"]
    assert cli.main(["package", str(tmp_path / "nothing"), "--for", "tei"]) == 3
    assert "is not an artifact" in capsys.readouterr().err


BESIDE = {"int8": "model_quantized.onnx", "fp32": "model_fp32.onnx", "fp16": "model_fp16.onnx"}


@pytest.mark.parametrize(
    ("consumer", "precision", "kept", "places"),
    [
        ("transformers.js", "fp32", "int8", {"model.onnx": "onnx/model.onnx", "": "onnx/model_quantized.onnx"}),
        ("transformers.js", "int8", "fp32", {"model.onnx": "onnx/model_quantized.onnx", "": "onnx/model.onnx"}),
        ("transformers.js", "fp32", "fp16", {"model.onnx": "onnx/model.onnx", "": "onnx/model_fp16.onnx"}),
        ("optimum", "fp32", "int8", {"model.onnx": "model.onnx", "": "model_quantized.onnx"}),
        ("fastembed", "fp32", "int8", {"model.onnx": "onnx/model.onnx", "": "onnx/model_quantized.onnx"}),
        ("tei", "fp32", "int8", {"model.onnx": "model.onnx"}),
        ("triton", "fp32", "int8", {"model.onnx": "My-Model/1/model.onnx"}),
    ],
)
def test_further_number_formats_lie_where_the_program_looks(
    tmp_path: Path, consumer: str, precision: str, kept: str, places: dict[str, str]
) -> None:
    out, name = artifact(tmp_path / "out", precision=precision), BESIDE[kept]
    (out / name).write_bytes(b"another model")
    facts = {**json.loads((out / "manifest.json").read_text()), "kept": {name: {"engine": {"precision": kept}}}}
    write_manifest(out, {key: value for key, value in facts.items() if key not in ("files", "sha256")})
    made = package(out, consumer)
    assert {file for file in made.files if ".onnx" in file} == set(places.values())
    for source, place in places.items():
        assert (made.directory / place).read_bytes() == (out / (source or name)).read_bytes()
    card = (made.directory / "README.md").read_text()
    assert (f"The same model in {kept} is `{places.get('')}`" in card) is ("" in places)
