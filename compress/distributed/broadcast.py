"""Sends a task, the options and the examples from the first process to the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.distributed.group import Group, joined

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data.batches import Encoded
    from compress.options.run_config import RunConfig


@contextmanager
def calibrating(config: RunConfig, weights: str, examples: Encoded) -> Iterator[Group]:
    """While the block runs, the other processes calibrate with the same examples.

    Args:
        config: options of the run.
        weights: fingerprint of the model's weights.
        examples: to calibrate on.

    Yields:
        The processes, this one included.

    Raises:
        CompressError: another process cannot load the model.
    """
    group = joined()
    if group.world == 1:
        yield group
        return
    described, tensors = packed(examples)
    facts = {**_model(config, weights), "examples": described}
    with group.busy():
        group.share({"task": "calibrate", **facts}, tensors)
        with group.agreeing():
            pass
        yield group


def training(
    config: RunConfig, weights: str, recipe: str, teacher: str | None, examples: Mapping[str, Encoded]
) -> Group:
    """Give the other processes what they need to train; each has a session like the first one's when this returns.

    Args:
        config: options of the run.
        weights: fingerprint of the model's weights.
        recipe: as JSON.
        teacher: fingerprint of the teacher's weights; None where the dense model teaches.
        examples: ``calibration``, ``train`` and ``held``.

    Returns:
        The processes that train together, this one included.

    Raises:
        CompressError: another process cannot load the model or the teacher.
    """
    group = joined()
    if group.world == 1:
        return group
    boxes = {name: packed(data) for name, data in examples.items()}
    facts = {
        **_model(config, weights),
        "recipe": recipe,
        "teacher": teacher,
        "examples": {name: described for name, (described, _) in boxes.items()},
    }
    tensors = {f"{name}.{key}": tensor for name, (_, box) in boxes.items() for key, tensor in box.items()}
    with group.busy():
        group.share({"task": "train", **facts}, tensors)
        with group.agreeing():
            pass
    return group


def _model(config: RunConfig, weights: str) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json"), "weights": weights}


def packed(data: Encoded) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Examples as JSON types and tensors, for ``unpacked``. Fields that only the metric needs are left out."""
    import torch

    facts = {"features": list(data.features), "padding": data.padding, "positions": data.positions}
    join = np.concatenate if data.positions is None else np.stack
    tensors = {f"feature.{name}": torch.from_numpy(join(rows)) for name, rows in data.features.items() if rows}
    tensors["lengths"] = torch.from_numpy(data.lengths)
    if data.labels is not None:
        tensors["labels"] = torch.from_numpy(np.ascontiguousarray(data.labels))
    return facts, tensors


def unpacked(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Encoded:
    """The examples that ``packed`` turned into facts and tensors.

    Args:
        facts: plain JSON types.
        tensors: by name.
    """
    from compress.data.batches import Encoded

    ends = np.cumsum(tensors["lengths"].numpy())[:-1]
    features: dict[str, list[Any]] = {}
    for name in facts["features"]:
        if f"feature.{name}" not in tensors:
            features[name] = []
            continue
        rows = tensors[f"feature.{name}"].numpy()
        features[name] = np.split(rows, ends) if facts["positions"] is None else list(rows)
    labels = tensors["labels"].numpy() if "labels" in tensors else None
    return Encoded(features, labels, facts["padding"], positions=facts["positions"])
