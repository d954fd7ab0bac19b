"""Runs in the consumers' environment: loads artifacts in each program, and prints their answers as JSON.

Nothing of this project is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")


def sentence_transformer(folder: str, texts: list[str], **options: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu", **options).encode(texts, show_progress_bar=False)


def cross_encoder(folder: str, pairs: list[list[str]], **options: Any) -> Any:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(folder, device="cpu", **options)
    return encoder.predict([tuple(pair) for pair in pairs], show_progress_bar=False)


def optimum(folder: str, texts: list[Any], kind: str, output: str, **options: Any) -> Any:
    import optimum.onnxruntime as runtime
    from transformers import AutoTokenizer

    model = getattr(runtime, kind).from_pretrained(folder, **options)
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
    return getattr(model(**inputs), output).numpy()


def fastembed(folder: str, texts: list[str], snippet: str | None = None, model_file: str = "model.onnx") -> Any:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    if snippet is not None:
        known: dict[str, Any] = {}
        exec(snippet, known)
        return list(known["model"].embed(texts))
    name = f"{folder} {model_file}"
    TextEmbedding.add_custom_model(
        name, PoolingType.DISABLED, False, ModelSource(hf=name), dim=24, model_file=model_file
    )
    return list(TextEmbedding(name, specific_model_path=folder).embed(texts))


def auto_model(folder: str, texts: list[Any], kind: str, output: str) -> Any:
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return getattr(model(**inputs), output).numpy()


def setfit(encoder: str, output: str, texts: list[str], labels: list[int]) -> Any:
    """Make a folder of SetFit, and what SetFit itself predicts with it."""
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel
    from sklearn.linear_model import LogisticRegression

    body = SentenceTransformer(encoder, device="cpu")
    head = LogisticRegression().fit(body.encode(texts, show_progress_bar=False), labels)
    model = SetFitModel(model_body=body, model_head=head, labels=["bad", "good", "neither"])
    model.save_pretrained(output)
    return model.predict_proba(texts)


def openvino(file: str, feed: dict[str, list[list[int]]], output: str) -> Any:
    import numpy as np
    import openvino as runtime

    model = runtime.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [port.get_any_name() for port in model.inputs]
    return model({name: np.array(feed[name]) for name in names})[output]


def triton(file: str) -> Any:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    with open(file, encoding="utf-8") as text:
        return json_format.MessageToDict(text_format.Parse(text.read(), ModelConfig()))


def lora(base: str, adapter: str, merged: str, settings: dict[str, Any]) -> Any:
    """Make a random adapter, and what peft itself makes of it and its base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    # Not zero at the start, as in an adapter that has been trained.
    config = LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, **settings)
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base), config)
    model.save_pretrained(adapter)
    model.merge_and_unload().save_pretrained(merged)
    return []


PROGRAMS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        sentence_transformer,
        cross_encoder,
        optimum,
        fastembed,
        auto_model,
        openvino,
        triton,
        lora,
        setfit,
    )
}


def main() -> None:
    answers = {}
    for name, (program, arguments) in json.load(sys.stdin).items():
        try:
            answer = PROGRAMS[program](**arguments)
            answers[name] = answer.tolist() if hasattr(answer, "tolist") else answer
        except Exception as error:
            answers[name] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answers, default=lambda array: array.tolist()))


main()
