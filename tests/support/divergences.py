"""The divergence of one pruned model from its dense one."""

from __future__ import annotations

from torch import nn

from compress.data.batches import Encoded
from compress.reconstruction.layerwise import Divergence
from compress.tasks import Task


def divergence(dense: nn.Module, student: nn.Module, task: Task, data: Encoded) -> float:
    """Mean over examples."""
    return Divergence(dense, task, data).of(student)
