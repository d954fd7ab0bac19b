"""A task on a machine with too little memory."""

from __future__ import annotations

from typing import Any

import torch


class Starved:
    """A task on a machine whose memory ends: the allocator of torch fails, for real, in some of the forward passes."""

    def __init__(self, task: Any, *, most: int | None = None, at: tuple[int, ...] = ()) -> None:
        self._task, self._most, self._at, self.calls = task, most, at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def forward(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        if self.calls in self._at or (self._most is not None and len(inputs["input_ids"]) > self._most):
            torch.empty(1 << 50)
        answers: torch.Tensor = self._task.forward(model, inputs)
        return answers
