"""Fit a fine-tuned Transformer encoder into a latency budget, and prove it on the exported file.

From Python, with the names of the command line's options::

    from compress import run, load, Plan

    result = run("path/to/model", data="train.csv", speedup=2, output="out")
    model = load("out")          # an ordinary transformers model
    plan = Plan.read("out")      # what was kept, and why

The pipeline is ``compress.pipeline``; docs/architecture.md says where everything lies.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from compress._version import __version__

if TYPE_CHECKING:
    from compress.api import run
    from compress.artifact.model import load
    from compress.core.plan import Plan
    from compress.sparsity.compact_file import load_compact

__all__ = ["Plan", "__version__", "load", "load_compact", "run"]

# Nothing is sent anywhere that was not asked for; set before Hugging Face's libraries are imported, which read it then.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Looked up when first used (PEP 562): importing the package must not wait for torch.
_LAZY = {
    "run": "compress.api",
    "load": "compress.artifact.model",
    "load_compact": "compress.sparsity.compact_file",
    "Plan": "compress.core.plan",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'compress' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
