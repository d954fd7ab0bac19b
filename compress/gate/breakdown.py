"""``compress gate --why``: bytes and milliseconds per part of the model, the heaviest first."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.artifact.files import MODEL
from compress.core.errors import ArtifactError, ExportError

# What protobuf itself takes at most; more is in files beside it.
_MOST_BYTES = 2**31 - 1
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


@dataclass(frozen=True)
class Part:
    """A part of the model.

    Attributes:
        name: ``embeddings``, ``layer 3 attention``, ``layer 3 ffn``, ``head and others``.
        size_bytes: of its weights in the exported file; None where nothing is known of them.
        ms: of its share of the latency, by the profile; None without one.
    """

    name: str
    size_bytes: int | None
    ms: float | None


def parts(artifact: Path) -> list[Part]:
    """Every part of an artifact's model, the largest first.

    Raises:
        ArtifactError: the model file is not an ONNX file.
        ProfileError, PlanError: see ``explain``.
    """
    sizes = _sizes(artifact / MODEL)
    times: dict[str, float] = {}
    if (artifact / "profile.json").is_file():
        from compress.report.why import explain

        reasons = explain(artifact)
        times = {f"layer {part['layer']} {part['kind']}": part["ms"] for part in reasons["sublayers"]}
        times["embeddings, head and others"] = reasons["fixed_ms"]
    names = {*sizes, *times}
    found = [Part(name, sizes.get(name), times.get(name)) for name in names]
    return sorted(found, key=lambda part: (-(part.size_bytes or 0), -(part.ms or 0.0), part.name))


def _sizes(file: Path) -> dict[str, int]:
    """Bytes of weights per part."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ArtifactError(f"'{file}' is larger than an ONNX file can be")
        # What lies in files beside it is counted by its shape, not read: their names could lead anywhere.
        graph = onnx.load(str(file), load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise ArtifactError(f"'{file}' is not an ONNX file: {error}; make the artifact again") from None
    sizes: dict[str, int] = defaultdict(int)
    for tensor in graph.initializer:
        sizes[part_of(tensor.name)] += _bytes_of(tensor)
    if not sizes:
        raise ExportError(f"'{file}' has no weights: it is not a model")
    return dict(sizes)


def part_of(weight: str) -> str:
    """The part that a weight belongs to, by the name it has from PyTorch."""
    layer = _LAYER.search(weight)
    if layer:
        kind = "attention" if re.search(r"att(?:entio)?n", weight[layer.end() :], re.IGNORECASE) else "ffn"
        return f"layer {int(layer[1])} {kind}"
    return "embeddings" if "embedding" in weight else "head and others"


def _bytes_of(tensor: Any) -> int:
    import onnx

    if tensor.raw_data:
        return len(tensor.raw_data)
    count = math.prod(size for size in tensor.dims)
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:  # a type that this onnx does not know
        return count
