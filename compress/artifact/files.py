"""Names of an artifact's files, and JSON as they have it."""

from __future__ import annotations

import json
from typing import Any

MODEL = "model.onnx"
# The same model in other number formats (--keep), under the names that transformers.js and optimum know.
BESIDE = {"fp32": "model_fp32.onnx", "fp16": "model_fp16.onnx", "int8": "model_quantized.onnx"}
PLAN = "plan.json"
PROFILE = "profile.json"
VALIDATION = "validation.json"
OUTCOMES = "outcomes.json"
TRADE_OFF = "tradeoff.json"
TRAINING = "training.csv"
CARD = "README.md"
SWEEP = "sweep.json"
REPORT = "report.html"
MANIFEST = "manifest.json"
# Made over all files of an artifact, the manifest among them.
SIGNATURE = "model.sig"
BILL_OF_MATERIALS = "sbom.cdx.json"
PYTORCH = "pytorch"
# The linear head on the embeddings of a SetFit model; model.onnx has it too.
HEAD = "model_head.safetensors"
# Of --unstructured: the weights again, as bytes.
COMPACT = "compact.safetensors"
ENGINE = "engine"
# Of a compiled package (export/aotinductor_record.py).
PACKAGE_FILES = (f"{ENGINE}/model.pt2", f"{ENGINE}/model.pt2.json")
# Files about the run; all others are the deployed model.
OF_THE_RUN = frozenset(
    {PLAN, PROFILE, VALIDATION, OUTCOMES, TRADE_OFF, TRAINING, CARD, REPORT, MANIFEST, SIGNATURE, BILL_OF_MATERIALS}
)


def dump(document: Any) -> str:
    """JSON as all files of an artifact have it."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def compact(document: Any) -> str:
    """JSON on one line, for files of many numbers that nobody reads."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n"
