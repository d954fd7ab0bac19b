"""Small artifacts for what judges them: real files and records, a real (if tiny) ONNX file, no model behind them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.artifact.files import compact, dump
from compress.artifact.manifest import write_manifest

VALIDATION: dict[str, Any] = {
    "latency_ms": {"dense": 10.0, "compressed": 5.0, "budget": 5.2, "ci95": [4.9, 5.1], "rounds": 100},
    "speedup": {"value": 2.0, "ci95": [1.98, 2.02]},
    "metric": {
        "name": "accuracy",
        "dense": 0.9,
        "compressed": 0.88,
        "ci95": [0.86, 0.9],
        "drop": {"value": 0.02, "ci95": [0.012, 0.028]},
        "examples": 400,
    },
    "size_bytes": {"dense": 3_000_000, "compressed": 2_000_000},
    "macs": {"dense": 100, "compressed": 50, "fraction": 0.5, "length": 12.0},
    "parity": {"max_abs_diff": 1e-5},
    "verdict": "pass",
    "reason": "latency 5 ms, budget 5.2 ms",
    "deployment": {
        "target": "cpu",
        "batch_size": 1,
        "seq_len": 8,
        "precision": "fp32",
        "device": {"processor": "AMD EPYC", "cores": 2, "threads": 2, "system": "Linux", "runtime": "onnxruntime-cpu"},
    },
    "date": "2026-11-20T12:00:00+00:00",
}


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A document with another value at ``a.b.c``."""
    document = copy.deepcopy(document)
    *folders, name = path.split(".")
    inner = document
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return document


def onnx_model(hidden: int = 8, vocabulary: int = 50) -> Any:
    """An embedding, summed and multiplied: ``input_ids`` [batch, sequence] to ``logits`` [batch, hidden]."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {
        "bert.embeddings.word_embeddings.weight": random.normal(size=(vocabulary, hidden)),
        "bert.encoder.layer.0.attention.self.query.weight": random.normal(size=(hidden, hidden)),
        "bert.encoder.layer.0.intermediate.dense.weight": random.normal(size=(hidden, hidden)),
    }
    names = list(weights)
    nodes = [
        helper.make_node("Gather", [names[0], "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", names[1]], ["mixed"]),
        helper.make_node("MatMul", ["mixed", names[2]], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", hidden])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array([1]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_artifact(
    directory: Path,
    validation: dict[str, Any] | None = VALIDATION,
    *,
    bulk: int = 1_000_000,
    outcomes: Sequence[float] | None = None,
    dense: str = "d" * 64,
    evaluation: str = "e" * 64,
) -> Path:
    """Write an artifact.

    Args:
        directory: to write into; made.
        validation: what validation.json holds; None for none.
        bulk: bytes of pytorch/model.safetensors, of zeros.
        outcomes: 1 or 0 per example; None for no outcomes.json.
        dense, evaluation: fingerprints of dense model and evaluation data.
    """
    (directory / "pytorch").mkdir(parents=True)
    (directory / "pytorch" / "model.safetensors").write_bytes(bytes(bulk))
    (directory / "model.onnx").write_bytes(onnx_model().SerializeToString())
    (directory / "config.json").write_text(json.dumps({"vocab_size": 50}))
    if validation is not None:
        (directory / "validation.json").write_text(dump(validation))
    if outcomes is not None:
        record = {"metric": "accuracy", "combine": "mean", "evaluation_sha256": evaluation, "dense": list(outcomes)}
        (directory / "outcomes.json").write_text(compact({"format": 1, **record, "compressed": list(outcomes)}))
    write_manifest(
        directory,
        {
            "configuration": {"batch_size": 1, "seq_len": 8, "target": "cpu"},
            "model": {"name": "model", "sha256": dense},
            "data": {"evaluation": {"examples": 400, "sha256": evaluation}},
            "seed": 0,
        },
    )
    return directory
