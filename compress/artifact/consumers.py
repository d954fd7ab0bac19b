"""Programs that load exported models: where they look for files, what they cannot serve, and the line that loads one.

Sources: transformers.js ``src/models/session.js`` and ``src/utils/dtypes.js``; text-embeddings-inference
``backends/ort/src/lib.rs`` and ``router/src/lib.rs``; fastembed ``text/custom_text_embedding.py``; optimum-onnx
``optimum/onnxruntime/modeling.py``. ``tests/consumers`` loads packages in the programs themselves.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compress.artifact.files import MODEL

EMBEDDINGS = "sentence-similarity"
_TEXTS = ("text-classification", "text-regression", "token-classification", "question-answering", EMBEDDINGS)
_PIPELINES = {
    "text-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "image-classification": "image-classification",
    EMBEDDINGS: "feature-extraction",
}
ORT_CLASSES = {
    "text-classification": "ORTModelForSequenceClassification",
    "text-regression": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "image-classification": "ORTModelForImageClassification",
    EMBEDDINGS: "ORTModelForFeatureExtraction",
}
# transformers.js adds these to the name of a file; its default on a processor is fp32, in a browser q8.
_TYPES = {"fp32": ("fp32", ""), "fp16": ("fp16", "_fp16"), "int8": ("q8", "_quantized")}
_FASTEMBED_POOLINGS = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST_TOKEN"}


@dataclass(frozen=True)
class Contents:
    """What is packaged.

    Attributes:
        name: of the model.
        task: a name of ``TASKS``.
        settings: of the task, as the manifest has them.
        precision: number format of model.onnx.
        dimension: size of an embedding; None for other tasks.
        files: names of the deployed model's files, in the artifact.
        on_gpu: whether the artifact was made for a GPU.
        kept: number formats of further files of the same model, by name; empty without ``--keep``.
    """

    name: str
    task: str
    settings: Mapping[str, Any]
    precision: str
    dimension: int | None
    files: tuple[str, ...]
    on_gpu: bool
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """Text that every text begins with; empty without one."""
        return str(self.settings.get("prompt") or "")

    @property
    def pools(self) -> bool:
        """Whether model.onnx gives one embedding per text."""
        return self.settings.get("embedding", "normalized") != "tokens"

    @property
    def plain_pooling(self) -> str | None:
        """The pooling, where nothing but a normalisation comes after it; None where a caller cannot repeat it."""
        settings = self.settings
        further = settings.get("layers") or settings.get("truncate") or settings.get("prompt_tokens")
        return None if further else str(settings.get("pooling", "mean"))


@dataclass(frozen=True)
class Consumer:
    """A program that loads packages.

    Attributes:
        name: on the command line.
        tasks: names of the tasks that it serves.
        what: what it is, for a message about tasks that it does not serve.
        lacks: what of the contents it cannot serve, and what to do; None where it can.
        place: where a file of the artifact goes, in the package; None leaves it out.
        snippet: how to load the package: language and lines.
        choice: what loads a further file of ``Contents.kept``, given its place and its number format; None where such
            files are left out.
    """

    name: str
    tasks: tuple[str, ...]
    what: str
    lacks: Callable[[Contents], str | None]
    place: Callable[[Contents, str], str | None]
    snippet: Callable[[Contents], tuple[str, str]]
    choice: Callable[[str, str], str] | None = None


def _nothing(contents: Contents) -> str | None:
    return None


def _all(contents: Contents, file: str) -> str | None:
    return file


def _no_checkpoint(contents: Contents, file: str) -> str | None:
    """Leaves out weights for PyTorch: ``model.safetensors`` of ``--pytorch padded`` is another copy of the model."""
    return None if "/" not in file and file.endswith(".safetensors") else file


def _model_of(contents: Contents, file: str) -> str | None:
    """Returns the model that a file is, or keeps the weights of; None for other files."""
    return next((name for name in (MODEL, *contents.kept) if file in (name, f"{name}.data")), None)


def _without_kept(contents: Contents, file: str) -> str | None:
    """Leaves out the further files: the program loads model.onnx alone."""
    return None if _model_of(contents, file) in contents.kept else _no_checkpoint(contents, file)


def _in_onnx(contents: Contents, file: str) -> str | None:
    return f"onnx/{file}" if _model_of(contents, file) else _no_checkpoint(contents, file)


def _by_file_name(place: str, precision: str) -> str:
    return f'`file_name="{place}"`'


def _by_model_file(place: str, precision: str) -> str:
    return f'`model_file="{place}"` in `add_custom_model`'


def _by_type(place: str, precision: str) -> str:
    return f"`{{ dtype: '{_TYPES[precision][0]}' }}`"


def _optimum(contents: Contents) -> tuple[str, str]:
    kind = ORT_CLASSES[contents.task]
    lines = [f"from optimum.onnxruntime import {kind}", f'model = {kind}.from_pretrained("PACKAGE")']
    if contents.task == EMBEDDINGS and contents.pools:
        lines += ["", "from sentence_transformers import SentenceTransformer"]
        lines += ['encoder = SentenceTransformer("PACKAGE", backend="onnx")']
    return "python", "\n".join(lines)


def type_in_javascript(contents: Contents) -> tuple[str, str]:
    """Returns the name of a number format in transformers.js, and what it adds to the name of a file.

    Args:
        contents: what is packaged.
    """
    return _TYPES[contents.precision]


def _in_javascript(contents: Contents, file: str) -> str | None:
    precision = contents.precision if file == MODEL else contents.kept.get(file)
    return _no_checkpoint(contents, file) if precision is None else f"onnx/model{_TYPES[precision][1]}.onnx"


def _javascript(contents: Contents) -> tuple[str, str]:
    # A pipeline pools tokens itself, and makes probabilities of a single number.
    direct = {EMBEDDINGS: ("AutoModel", "sentence_embedding")} if contents.pools else {}
    direct["text-regression"] = ("AutoModelForSequenceClassification", "logits")
    if contents.task not in direct:
        lines = ["import { pipeline } from '@huggingface/transformers';"]
        lines += [f"const run = await pipeline('{_PIPELINES[contents.task]}', 'PACKAGE');"]
        return "javascript", "\n".join(lines)
    kind, output = direct[contents.task]
    lines = [f"import {{ AutoTokenizer, {kind} }} from '@huggingface/transformers';"]
    lines += ["const tokenizer = await AutoTokenizer.from_pretrained('PACKAGE');"]
    lines += [f"const model = await {kind}.from_pretrained('PACKAGE');"]
    lines += [f"const inputs = tokenizer([{_quoted(contents)}], {{ padding: true, truncation: true }});"]
    lines += [f"const {{ {output} }} = await model(inputs);"]
    return "javascript", "\n".join(lines)


def _quoted(contents: Contents) -> str:
    return json.dumps(f"{contents.prompt}a text", ensure_ascii=False)


def _in_repository(contents: Contents, file: str) -> str | None:
    if file.startswith(MODEL):
        return f"{contents.name}/1/{file}"
    if "/" in file or _without_kept(contents, file) is None:
        return None
    return f"{contents.name}/tokenizer/{file}"


def _triton(contents: Contents) -> tuple[str, str]:
    return "sh", f"tritonserver --model-repository PACKAGE  # the model is called {contents.name}"


def _tei_lacks(contents: Contents) -> str | None:
    if "head" in contents.settings:
        return "its config.json names an encoder, and it would look for embeddings; the head of SetFit gives classes"
    if contents.task != EMBEDDINGS or contents.pools:
        return None
    if contents.plain_pooling in ("cls", "mean", "lasttoken"):
        return None
    return "it would pool the tokens itself, and knows cls, mean and lasttoken alone: make the artifact without " + (
        "--embedding tokens"
    )


def _tei(contents: Contents) -> tuple[str, str]:
    options = ""
    if contents.task == EMBEDDINGS and contents.pools and contents.settings.get("pooling") not in ("cls", "mean"):
        # It wants one that it knows when it starts, and then takes the embedding of the file.
        options += " --pooling mean"
    if contents.prompt:
        options += f" --default-prompt {shlex.quote(contents.prompt)}"
    return "sh", f"text-embeddings-router --model-id PACKAGE --dtype float32{options}"


def _fastembed_lacks(contents: Contents) -> str | None:
    if contents.pools or contents.plain_pooling in _FASTEMBED_POOLINGS:
        return None
    known = ", ".join(_FASTEMBED_POOLINGS)
    return f"it would pool the tokens itself, and knows {known} alone: make the artifact without --embedding tokens"


def _fastembed(contents: Contents) -> tuple[str, str]:
    pooling, normalized = "DISABLED", False
    if not contents.pools:
        pooling = _FASTEMBED_POOLINGS[str(contents.plain_pooling)]
        normalized = bool(contents.settings.get("normalize"))
    elif contents.settings.get("embedding") == "pooled":
        normalized = bool(contents.settings.get("normalize"))
    return "python", "\n".join(
        [
            "from fastembed import TextEmbedding",
            "from fastembed.common.model_description import ModelSource, PoolingType",
            f'TextEmbedding.add_custom_model("{contents.name}", PoolingType.{pooling}, {normalized},',
            f'    ModelSource(hf="{contents.name}"), dim={contents.dimension})',
            f'model = TextEmbedding("{contents.name}", specific_model_path="PACKAGE")',
            f"list(model.embed([{_quoted(contents)}]))",
        ]
    )


CONSUMERS: dict[str, Consumer] = {
    consumer.name: consumer
    for consumer in (
        Consumer("optimum", (*_TEXTS, "image-classification"), "", _nothing, _all, _optimum, _by_file_name),
        Consumer(
            "transformers.js", (*_TEXTS, "image-classification"), "", _nothing, _in_javascript, _javascript, _by_type
        ),
        Consumer("triton", (*_TEXTS, "image-classification"), "", _nothing, _in_repository, _triton),
        Consumer(
            "tei",
            (EMBEDDINGS, "text-classification", "text-regression"),
            "text-embeddings-inference gives embeddings, classes of whole texts, and ranks",
            _tei_lacks,
            _without_kept,
            _tei,
        ),
        Consumer(
            "fastembed",
            (EMBEDDINGS,),
            "fastembed gives embeddings",
            _fastembed_lacks,
            _in_onnx,
            _fastembed,
            _by_model_file,
        ),
    )
}
