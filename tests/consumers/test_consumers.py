"""One artifact, loaded by the programs that people use: their answers are ours.

Every program runs in an environment of its own (``support/environments.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from compress import pipeline
from compress.artifact.package import package
from compress.core.plan import Budget, Plan, Widths
from compress.models.encoder import shape_of
from compress.options.run_config import RunConfig
from support.environments import CONSUMERS, ask, ask_page, chromium, node_project, python_environment
from support.models import random_model
from support.once import Once
from support.sentence_folders import sentence_folder
from support.structures import first_units

pytestmark = pytest.mark.slow

# None is longer than the artifacts' 16 tokens: transformers.js leaves the last special token out where it cuts.
TEXTS = ["a gripping film", "cold food and a rude waiter", "charming"]
PAIRS = [[text, other] for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
PROMPT = "the film : "
LENGTH = 24
Answers = dict[str, Any]


# By the number of layers: with sublayers that are gone where there is more than one.
WIDTHS = {1: Widths((2,), (7,)), 3: Widths((2, 0, 4), (0, 7, 20))}


def _exported(model: Path, output: Path, keep: str | None = None) -> None:
    """A pruned artifact."""
    from transformers import AutoConfig

    shape = shape_of(AutoConfig.from_pretrained(model))
    plan = Plan(shape, first_units(WIDTHS[shape.layers]), Budget("macs", 0.5), method="full", macs_fraction=0.5)
    config = RunConfig(model=str(model), target="cpu", seq_len=LENGTH, output=output, pytorch="padded", keep=keep)
    pipeline.export_plan(config, plan)


@pytest.fixture(scope="module")
def artifacts(once: Once, tokenizer: Any) -> dict[str, Path]:
    """An encoder with a prompt (float32 and int8), one with a Dense layer, a classifier of pairs, a cross-encoder."""
    import torch
    from sentence_transformers import CrossEncoder

    def make(folder: Path) -> None:
        layers: dict[str, dict[str, Any]] = {
            "encoder": {"prompts": {"query": PROMPT}, "default": "query"},
            "dense": {"pooling": {"pooling_mode": ("max", "mean")}, "layers": ("Dense",)},
        }
        for name, options in layers.items():
            (folder / "sources" / name).mkdir(parents=True)
            found = sentence_folder(folder / "sources" / name, tokenizer, longest=LENGTH, **options)
            _exported(found, folder / name, "fp32,int8" if name == "encoder" else None)
        for name, labels in (("classifier", ("bad", "good", "neither")), ("ranker", ("LABEL_0",))):
            numbered = dict(enumerate(labels))
            model = random_model(
                "bert", len(tokenizer), id2label=numbered, label2id={v: k for k, v in numbered.items()}
            )
            model.save_pretrained(folder / "sources" / name)
            tokenizer.save_pretrained(folder / "sources" / name)
            # With an activation function of its own: without a word of it a single logit would become a probability.
            ranker = CrossEncoder(str(folder / "sources" / name), activation_fn=torch.nn.Identity(), device="cpu")
            ranker.save_pretrained(str(folder / "sources" / f"{name}-saved"))
            _exported(folder / "sources" / f"{name}-saved", folder / name)

    root = once("consumers", make)
    return {name: root / name for name in ("encoder", "dense", "classifier", "ranker")}


@pytest.fixture(scope="module")
def packages(artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    root = tmp_path_factory.mktemp("packages")
    made: dict[tuple[str, str], Any] = {}

    def packaged(name: str, consumer: str) -> Any:
        if (name, consumer) not in made:
            made[name, consumer] = package(artifacts[name], consumer, root / f"{name}-{consumer}")
        return made[name, consumer]

    return packaged


def feed(artifact: Path, texts: list[Any]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    first, *second = zip(*texts, strict=True) if isinstance(texts[0], list) else (texts,)
    rows = tokenizer(*(list(column) for column in (first, *second)), padding=True, truncation=True, return_tensors="np")
    return {name: rows[name].astype(np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}


def listed(artifact: Path, texts: list[Any]) -> dict[str, Any]:
    return {name: rows.tolist() for name, rows in feed(artifact, texts).items()}


INT8 = "model_quantized.onnx"


def ours(artifact: Path, texts: list[Any], output: str | None = None, file: str = "model.onnx") -> Any:
    """What plain ONNX Runtime gives."""
    session = onnxruntime.InferenceSession(artifact / file, providers=["CPUExecutionProvider"])
    known = {value.name: feed(artifact, texts)[value.name] for value in session.get_inputs()}
    return session.run(None if output is None else [output], known)[0]


def prompted(texts: list[str]) -> list[str]:
    return [PROMPT + text for text in texts]


ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 6, "target_modules": ["query", "value"]},
    "ranks": {"r": 4, "use_rslora": True, "target_modules": "all-linear", "rank_pattern": {"query": 2}},
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def in_python(
    artifacts: dict[str, Path], packages: Callable[[str, str], Any], tiny_bert: Path, adapters: Path
) -> Answers:
    """Every answer of the Python programs, from one process."""
    python = python_environment()
    at = {name: str(folder) for name, folder in artifacts.items()}
    fast = packages("encoder", "fastembed")
    classes = "ORTModelForSequenceClassification"
    questions: dict[str, Any] = {
        "sentence-transformers": ("sentence_transformer", {"folder": at["encoder"], "texts": TEXTS, "backend": "onnx"}),
        "sentence-transformers, int8": (
            "sentence_transformer",
            {"folder": at["encoder"], "texts": TEXTS, "backend": "onnx", "model_kwargs": {"file_name": INT8}},
        ),
        "optimum, int8": (
            "optimum",
            {
                "folder": at["encoder"],
                "texts": TEXTS,
                "kind": "ORTModelForFeatureExtraction",
                "output": "last_hidden_state",
                "file_name": INT8,
            },
        ),
        "sentence-transformers, Dense": (
            "sentence_transformer",
            {"folder": at["dense"], "texts": TEXTS, "backend": "onnx"},
        ),
        "sentence-transformers, torch": ("sentence_transformer", {"folder": at["encoder"], "texts": TEXTS}),
        "CrossEncoder, torch": ("cross_encoder", {"folder": at["ranker"], "pairs": PAIRS}),
        "transformers": (
            "auto_model",
            {
                "folder": at["classifier"],
                "texts": TEXTS,
                "kind": "AutoModelForSequenceClassification",
                "output": "logits",
            },
        ),
        "CrossEncoder": ("cross_encoder", {"folder": at["ranker"], "pairs": PAIRS, "backend": "onnx"}),
        "CrossEncoder, classes": ("cross_encoder", {"folder": at["classifier"], "pairs": PAIRS, "backend": "onnx"}),
        "optimum": (
            "optimum",
            {
                "folder": at["encoder"],
                "texts": TEXTS,
                "kind": "ORTModelForFeatureExtraction",
                "output": "last_hidden_state",
            },
        ),
        "optimum, classes": (
            "optimum",
            {"folder": at["classifier"], "texts": TEXTS, "kind": classes, "output": "logits"},
        ),
        "optimum, packaged": (
            "optimum",
            {
                "folder": str(packages("classifier", "optimum").directory),
                "texts": TEXTS,
                "kind": classes,
                "output": "logits",
            },
        ),
        **{
            f"openvino, {name}": (
                "openvino",
                {"file": f"{at[name]}/model.onnx", "feed": listed(artifacts[name], TEXTS), "output": output},
            )
            for name, output in (("dense", "sentence_embedding"), ("classifier", "logits"))
        },
        "fastembed": ("fastembed", {"folder": at["encoder"], "texts": prompted(TEXTS)}),
        "fastembed, int8": ("fastembed", {"folder": at["encoder"], "texts": prompted(TEXTS), "model_file": INT8}),
        "fastembed, packaged": (
            "fastembed",
            {"folder": str(fast.directory), "texts": prompted(TEXTS), "snippet": fast.snippet},
        ),
        **{
            f"lora, {name}": (
                "lora",
                {
                    "base": str(tiny_bert),
                    "adapter": str(adapters / name),
                    "merged": str(adapters / f"{name}-merged"),
                    "settings": settings,
                },
            )
            for name, settings in ADAPTERS.items()
        },
        "setfit": (
            "setfit",
            {
                "encoder": at["dense"],
                "output": str(adapters / "setfit"),
                "texts": TEXTS,
                "labels": [0, 1, 2],
            },
        ),
        **{
            f"triton, {name}": (
                "triton",
                {"file": str(next(packages(name, "triton").directory.rglob("config.pbtxt")))},
            )
            for name in artifacts
        },
    }
    found: Answers = ask([str(python), str(CONSUMERS / "ask.py")], questions)
    return found


@pytest.mark.parametrize(
    ("program", "artifact", "texts", "output"),
    [
        ("sentence-transformers", "encoder", prompted(TEXTS), None),
        ("sentence-transformers, Dense", "dense", TEXTS, None),
        ("sentence-transformers, torch", "encoder", prompted(TEXTS), None),
        ("CrossEncoder", "ranker", PAIRS, None),
        ("CrossEncoder, torch", "ranker", PAIRS, None),
        ("transformers", "classifier", TEXTS, None),
        ("CrossEncoder, classes", "classifier", PAIRS, None),
        ("optimum", "encoder", TEXTS, "last_hidden_state"),
        ("optimum, classes", "classifier", TEXTS, None),
        ("optimum, packaged", "classifier", TEXTS, None),
        ("openvino, dense", "dense", TEXTS, None),
        ("openvino, classifier", "classifier", TEXTS, None),
        ("fastembed", "encoder", prompted(TEXTS), None),
        ("fastembed, packaged", "encoder", prompted(TEXTS), None),
    ],
)
def test_python_programs_give_our_answers(
    in_python: Answers, artifacts: dict[str, Path], program: str, artifact: str, texts: list[Any], output: str | None
) -> None:
    expected = ours(artifacts[artifact], texts, output)
    found = in_python[program]
    assert not isinstance(found, dict), found
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-4)


def check_int8(found: Any, artifact: Path, texts: list[str], output: str) -> None:
    """The answers are those of the int8 file, and not those of model.onnx."""
    assert not isinstance(found, dict), found
    expected, others = ours(artifact, texts, output, INT8), ours(artifact, texts, output)
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-4)
    assert np.abs(np.reshape(found, others.shape) - others).max() > 2e-4


@pytest.mark.parametrize(
    ("program", "texts", "output"),
    [
        ("sentence-transformers, int8", prompted(TEXTS), "sentence_embedding"),
        ("optimum, int8", TEXTS, "last_hidden_state"),
        ("fastembed, int8", prompted(TEXTS), "sentence_embedding"),
    ],
)
def test_python_programs_load_another_number_format_by_its_name(
    in_python: Answers, artifacts: dict[str, Path], program: str, texts: list[str], output: str
) -> None:
    check_int8(in_python[program], artifacts["encoder"], texts, output)


def test_transformers_js_loads_another_number_format_by_its_type(in_node: Answers, artifacts: dict[str, Path]) -> None:
    check_int8(in_node["model, packaged, int8"], artifacts["encoder"], TEXTS, "sentence_embedding")


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_an_adapter_of_peft_is_merged_as_peft_merges_it(in_python: Answers, adapters: Path, name: str) -> None:
    from safetensors.torch import load_file

    from compress.inputs.checkpoint import load_checkpoint

    assert in_python[f"lora, {name}"] == []
    found = load_checkpoint(str(adapters / name)).model.state_dict()
    for key, value in load_file(adapters / f"{name}-merged" / "model.safetensors").items():
        np.testing.assert_allclose(found[key].numpy(), value.numpy(), atol=1e-5)


def test_a_folder_of_setfit_becomes_one_file_with_its_predictions(
    in_python: Answers, adapters: Path, tmp_path: Path
) -> None:
    assert not isinstance(in_python["setfit"], dict), in_python["setfit"]
    config = RunConfig(model=str(adapters / "setfit"), target="cpu", seq_len=LENGTH, output=tmp_path / "out")
    artifact = pipeline.export_plan(config, None)
    logits = ours(artifact, TEXTS, "logits")
    found = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, in_python["setfit"], atol=1e-4)
    assert json.loads((artifact / "config.json").read_text())["id2label"]["2"] == "neither"
    assert (artifact / "model_head.safetensors").is_file()


@pytest.mark.parametrize("artifact", ["encoder", "dense", "classifier", "ranker"])
def test_triton_knows_every_line_of_the_configuration_and_the_shapes_are_those_of_answers(
    in_python: Answers, artifacts: dict[str, Path], packages: Callable[[str, str], Any], artifact: str
) -> None:
    config = in_python[f"triton, {artifact}"]
    assert "error" not in config, config
    (folder,) = (path for path in packages(artifact, "triton").directory.iterdir() if path.is_dir())
    assert config["name"] == folder.name and config["platform"] == "onnxruntime_onnx"
    assert (folder / "1" / "model.onnx").is_file() and config["maxBatchSize"] >= 1
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    known = feed(artifacts[artifact], TEXTS)
    assert {entry["name"] for entry in config["input"]} == {value.name for value in session.get_inputs()}
    assert all(entry["dims"] == ["-1"] and entry["dataType"] == "TYPE_INT64" for entry in config["input"])
    names = [entry["name"] for entry in config["output"]]
    answers = session.run(names, {value.name: known[value.name] for value in session.get_inputs()})
    for entry, answer in zip(config["output"], answers, strict=True):
        dims = [int(size) for size in entry["dims"]]
        assert len(dims) == answer.ndim - 1 and entry["dataType"] == "TYPE_FP32"
        assert all(size in (-1, real) for size, real in zip(dims, answer.shape[1:], strict=True))
        # The last axis is a property of the model.
        assert dims[-1] == answer.shape[-1]
    if artifact == "classifier":
        assert (folder / "labels.txt").read_text().split() == ["bad", "good", "neither"]


@pytest.fixture(scope="module")
def in_node(artifacts: dict[str, Path], packages: Callable[[str, str], Any]) -> Answers:
    """Every answer of the JavaScript programs, from one process."""
    project = node_project()
    for name in ("ask.mjs", "web.mjs"):
        (project / name).write_text((CONSUMERS / name).read_text())
    pooled, here = {"pooling": "mean", "normalize": True}, {"subfolder": ""}
    encoder, classifier = str(artifacts["encoder"]), str(artifacts["classifier"])
    packed = {name: str(packages(name, "transformers.js").directory) for name in ("encoder", "classifier", "dense")}
    questions: dict[str, Any] = {
        "pipeline": (
            "feature_extraction",
            {"folder": encoder, "texts": prompted(TEXTS), "options": pooled, "loading": here},
        ),
        "pipeline, packaged": (
            "feature_extraction",
            {"folder": packed["encoder"], "texts": prompted(TEXTS), "options": pooled},
        ),
        "model, packaged": (
            "model",
            {"folder": packed["dense"], "texts": TEXTS, "kind": "AutoModel", "output": "sentence_embedding"},
        ),
        "model, packaged, int8": (
            "model",
            {
                "folder": packed["encoder"],
                "texts": TEXTS,
                "kind": "AutoModel",
                "output": "sentence_embedding",
                "loading": {"dtype": "q8"},
            },
        ),
        "classes": ("classification", {"folder": classifier, "texts": TEXTS, "loading": here}),
        "classes, packaged": ("classification", {"folder": packed["classifier"], "texts": TEXTS}),
        **{
            f"web, {name}": (
                "web",
                {
                    "file": str(artifacts[name] / "model.onnx"),
                    "feed": listed(artifacts[name], TEXTS),
                },
            )
            for name in artifacts
        },
    }
    found: Answers = ask(["node", str(project / "ask.mjs")], questions, project)
    return found


@pytest.mark.parametrize(
    ("program", "artifact", "texts"),
    [
        ("pipeline", "encoder", prompted(TEXTS)),
        ("pipeline, packaged", "encoder", prompted(TEXTS)),
        ("model, packaged", "dense", TEXTS),
    ],
)
def test_transformers_js_gives_our_embeddings(
    in_node: Answers, artifacts: dict[str, Path], program: str, artifact: str, texts: list[str]
) -> None:
    found = in_node[program]
    assert not isinstance(found, dict), found
    np.testing.assert_allclose(found, ours(artifacts[artifact], texts), atol=1e-4)


@pytest.mark.parametrize("program", ["classes", "classes, packaged"])
def test_transformers_js_gives_our_classes(in_node: Answers, artifacts: dict[str, Path], program: str) -> None:
    found = in_node[program]
    assert not isinstance(found, dict), found
    logits = ours(artifacts["classifier"], TEXTS)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    names = json.loads((artifacts["classifier"] / "config.json").read_text())["id2label"]
    for answer, row in zip(found, expected, strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert scores == pytest.approx({names[str(i)]: float(score) for i, score in enumerate(row)}, abs=1e-4)


@pytest.fixture(scope="module")
def in_chromium(artifacts: dict[str, Path]) -> Answers:
    """Every answer of onnxruntime-web in a headless browser, from one page."""
    project = node_project()
    questions = {
        f"web, {name}": {"file": f"{name}/model.onnx", "feed": listed(folder, TEXTS)}
        for name, folder in artifacts.items()
    }
    files = {**artifacts, "ort": project / "node_modules" / "onnxruntime-web" / "dist"}
    found: Answers = ask_page(CONSUMERS / "page.html", files, questions, chromium(project))
    return found


@pytest.mark.parametrize("artifact", ["encoder", "dense", "classifier", "ranker"])
@pytest.mark.parametrize("where", ["in_node", "in_chromium"])
def test_onnxruntime_web_answers_like_onnxruntime(
    request: pytest.FixtureRequest, artifacts: dict[str, Path], artifact: str, where: str
) -> None:
    found = request.getfixturevalue(where)[f"web, {artifact}"]
    assert "error" not in found, found
    session = onnxruntime.InferenceSession(artifacts[artifact] / "model.onnx", providers=["CPUExecutionProvider"])
    known = {value.name: feed(artifacts[artifact], TEXTS)[value.name] for value in session.get_inputs()}
    for value, answer in zip(session.get_outputs(), session.run(None, known), strict=True):
        np.testing.assert_allclose(found[value.name], answer.ravel(), atol=1e-4)
