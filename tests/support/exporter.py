"""Exports in tests cost less: a model is exported once a session, and operators are looked up once a process.

What takes long in a small run is the exporter: seconds for each file, however small the model.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.once import Once

_EXPORTER = "torch.onnx._internal.exporter"


def digest(model: Any, *more: Any) -> str:
    """Of all that an export depends on: modules, configuration, weights, the state of torch; and what else is given."""
    import torch

    state = (torch.get_default_dtype(), torch.is_inference_mode_enabled(), model.training)
    found = hashlib.sha256(repr((type(model), model, model.config.to_dict(), state, more)).encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def export_once(once: Once, model: Any, input_names: Sequence[str]) -> Path:
    """The file of a classifier, exported if no test has exported one with these very weights. Read only."""
    from compress.export.onnx import export_onnx

    def make(folder: Path) -> None:
        remember_operators()
        export_onnx(model, folder / "model.onnx", input_names=input_names)

    return once(f"export-{digest(model, *input_names)}", make) / "model.onnx"


def remember_exports(once: Once) -> None:
    """Runs of the pipeline in this process copy the file of a model that an earlier one has exported.

    Nothing happens where the pipeline was not imported yet.
    """
    stage = sys.modules.get("compress.stages.export")
    if stage is None or hasattr(stage.export_onnx, "remembered"):
        return
    original = stage.export_onnx

    def remembered(model: Any, path: Path, *, input_names: Any, output_names: Any, outputs: Any) -> Any:
        # `outputs` is a method of a task, and a task is its fields.
        task = outputs.__self__
        key = digest(model, tuple(input_names), tuple(output_names), type(task), sorted(vars(task).items()))

        def make(folder: Path) -> None:
            original(model, folder / path.name, input_names=input_names, output_names=output_names, outputs=outputs)

        for file in once(f"export-{path.name}-{key}", make).iterdir():
            shutil.copyfile(file, path.parent / file.name)
        return stage.read_report(path)

    remembered.remembered = True  # type: ignore[attr-defined]
    stage.export_onnx = remembered  # type: ignore[attr-defined]


def remember_operators() -> None:
    """The exporter's registry of operators and table of decompositions, which it makes anew for every file, are kept.

    Nothing happens before the first export: importing the exporter takes longer. ``tests/export/test_onnx.py`` checks
    that the file is the same.
    """
    core, decomposition = sys.modules.get(f"{_EXPORTER}._core"), sys.modules.get(f"{_EXPORTER}._decomp")
    registry = getattr(getattr(core, "_registration", None), "ONNXRegistry", None)
    table = getattr(decomposition, "create_onnx_friendly_decomposition_table", None)
    if registry is None or table is None or hasattr(table, "remembered"):
        return
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
    tables: dict[frozenset[Any], dict[Any, Any]] = {}

    def remembered(operators: set[Any]) -> dict[Any, Any]:
        key = frozenset(operators)
        if key not in tables:
            tables[key] = table(operators)
        # The exporter takes entries out of it.
        return dict(tables[key])

    remembered.remembered = True  # type: ignore[attr-defined]
    decomposition.create_onnx_friendly_decomposition_table = remembered  # type: ignore[union-attr]
