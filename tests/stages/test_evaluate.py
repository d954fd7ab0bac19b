"""The reason of a verdict names a dense model that is at chance or weak, so that no pass hides it."""

from __future__ import annotations

import numpy as np

from compress.data.batches import Encoded
from compress.stages.evaluate import weakness
from compress.tasks import TASKS

TASK = TASKS["text-classification"]


def reason(truth: np.ndarray, said: np.ndarray) -> str:
    data = Encoded({"input_ids": [np.ones(3)] * len(truth)}, labels=truth, padding={"input_ids": 0})
    return weakness(TASK, data, np.eye(2)[said])


def test_a_weak_dense_model_is_named() -> None:
    truth = np.arange(200) % 2
    assert reason(truth, truth) == ""
    assert "warning: the dense model is not above chance: accuracy 0.000" in reason(truth, 1 - truth)
    assert "far below a fine-tuned model: accuracy 0." in reason(
        truth, np.where(np.arange(200) < 120, truth, 1 - truth)
    )
    bare = Encoded({"input_ids": [np.ones(3)]}, labels=None, padding={"input_ids": 0})
    assert weakness(TASK, bare, np.eye(2)[:1]) == ""
