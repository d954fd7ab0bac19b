"""Scores a structure in about a second: prunes the model, reconstructs it on a few examples, compares on others.

Losses of single sublayers (``calibration/obs.py``) add up only roughly: later layers compensate errors of earlier ones,
and the head does not read everything. A trial includes both effects. The model is pruned and reconstructed as the final
one will be, but on fewer examples and with a single ridge. The score is its divergence from the dense model on
calibration examples that the fit has not seen. Evaluation data is never used.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.core.plan import Structure
from compress.core.trace import span
from compress.data.batches import Encoded
from compress.models.encoder import Encoder, encoder_of
from compress.pruning.removal import remove
from compress.reconstruction.closed_form import fit_sublayers
from compress.reconstruction.layerwise import Teacher, positions_read
from compress.tasks import Task

# Examples to fit on, and others to compare on. Against reconstructions on all examples, compared on 4,000 others, fits
# on 256 rank structures as well as fits on 512 (MiniLM-L6, SST-2, 45 % of the MACs). The bound on tokens bounds memory.
FITTED, COMPARED = 256, 512
TOKENS = 32_768
HELD_OUT_EVERY = 5
RIDGE = 1e-2
BYSTANDERS = 0.1
# Examples in a forward pass.
AT_ONCE = 64


class Trial:
    """Scores structures of one model by trying them out.

    Args:
        dense: the model to prune.
        task: runs the model.
        data: calibration examples; labels are not read.
        seed: of the choice of examples.
        batch_size: examples in a forward pass.
    """

    def __init__(self, dense: Encoder, task: Task, data: Encoded, *, seed: int = 0, batch_size: int = AT_ONCE) -> None:
        self._dense, self._task = dense, task
        order = np.random.default_rng(seed).permutation(len(data))
        within = int(np.searchsorted(np.cumsum(data.lengths[order]), TOKENS, side="right"))
        count = max(1, min(FITTED, within // 2, len(data) // 2))
        last = max(count + 1, min(count + COMPARED, within))
        fitted, compared = data.select(np.sort(order[:count])), data.select(np.sort(order[count:last]))
        self._read = positions_read(dense, task, data)
        self._teacher = Teacher(dense, task, fitted, batch_size=batch_size, keep=True)
        # As in the final reconstruction, a fit is accepted only if it helps on held-out examples.
        self._held_out = np.arange(count) % HELD_OUT_EVERY == 0
        self._batches = list(compared.batches(batch_size, device=dense.device))
        with torch.no_grad():
            self._references = [task.forward(dense.model, batch.inputs) for batch in self._batches]

    @torch.no_grad()
    def score(self, structure: Structure) -> float:
        """Mean divergence from the dense model, on examples that were not used to fit; lower is better."""
        with span("sketch"):
            return self._score(structure)

    def _score(self, structure: Structure) -> float:
        model = _bare_copy(self._dense.model)
        remove(model, structure)
        student = encoder_of(model)
        fit_sublayers(
            self._teacher, student, self._held_out, read=self._read, ridges=(RIDGE,), bystanders=(BYSTANDERS,)
        )
        total = 0.0
        for batch, reference in zip(self._batches, self._references, strict=True):
            total += float(self._task.divergence(self._task.forward(model, batch.inputs), reference).sum())
        return total / sum(len(batch.indices) for batch in self._batches)


def _bare_copy(model: nn.Module) -> Any:
    """A copy that shares the embeddings, which removal and reconstruction leave alone."""
    shared = {id(module): module for module in model.modules() if isinstance(module, nn.Embedding)}
    return copy.deepcopy(model, shared)
