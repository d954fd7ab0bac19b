"""A PyTorch model's answers to a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.oom import with_fewer
from compress.data.batches import Encoded
from compress.models.placement import device_of
from compress.tasks.base import Task

if TYPE_CHECKING:
    import torch


def outputs_of(model: torch.nn.Module, task: Task, data: Encoded, batch_size: int = 32) -> NDArray[Any]:
    """Runs a PyTorch model on all examples.

    Args:
        model: with the task's head, in evaluation mode.
        task: its task.
        data: the examples.
        batch_size: examples in a batch.

    Returns:
        Outputs of ``Task.forward``, [n, ...], in the order of the examples; empty without examples.
    """
    import torch

    def answers(at_once: int) -> NDArray[Any]:
        outputs: NDArray[Any] = np.empty((0, 0))
        for batch in data.batches(at_once, device=device_of(model)):
            answer = task.forward(model, batch.inputs).cpu().numpy()
            if not len(outputs):
                # The longest batch comes first; outputs may be as long as their batch.
                outputs = np.full((len(data), *answer.shape[1:]), task.fill, dtype=answer.dtype)
            place: Any = (batch.indices, *(slice(size) for size in answer.shape[1:]))
            outputs[place] = answer
        return outputs

    with torch.no_grad():
        return with_fewer(answers, batch_size)
