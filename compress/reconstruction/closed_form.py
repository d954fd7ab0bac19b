"""Layer-by-layer reconstruction of a pruned model, in closed form, from calibration data without labels.

``full`` (ours) fits the whole output matrix and bias of every sublayer by ridge regression *towards the original
weights*. The dense model is the teacher. Inputs come from the layers that are already reconstructed, so errors of
earlier layers are corrected too. ZipLM (Kurtic et al., NeurIPS 2023) updates whole matrices too.
``kwon`` is mask tuning (Kwon et al. 2022, section 4.3): one scale per unit, the same least squares restricted to
W = W_kept diag(m).

Differences from the code published with Kwon et al.:

- Least squares are solved directly; there, LSMR runs on the normal equations with damp = 1.
- Every layer is tuned on all its tokens, the attention of the first layer too.
- A scale outside ±10 leaves only its own sublayer unchanged; there, it ends the tuning of all later ones.

Everything is computed in float64 from Gram matrices that are summed over batches, separately for training and held-out
examples. A fit is accepted only if its held-out error falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.batches import Encoded
from compress.models.encoder import Encoder, EncoderLayer
from compress.models.families import SUBLAYER_KINDS, SublayerKind
from compress.models.placement import exact
from compress.reconstruction.layerwise import Divergence, Teacher, positions_read
from compress.reconstruction.least_squares import Gram, GramSum, ridge_solution, scale_solution
from compress.reconstruction.student_layer import Regressors, StudentLayer, width_of
from compress.tasks import Task

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Weights to try, in the last layer, for the positions that the head does not read. Without them the fit is aimed at
# what matters; with them it is better conditioned. Held-out examples decide.
BYSTANDERS = (0.0, 0.01, 0.1)
HELD_OUT = 0.2
LEAST_SAMPLES = 10


@dataclass(frozen=True)
class SublayerFit:
    """The fit of one sublayer.

    Attributes:
        layer: number of the layer.
        kind: attention or ffn.
        width: columns of its output matrix; 0 for a removed sublayer, of which only the bias is fitted.
        equations: number of training tokens.
        error_before, error_after: held-out squared error, as a fraction of the target's mean square.
        ridge: the chosen ridge; None if the weights did not change.
    """

    layer: int
    kind: SublayerKind
    width: int
    equations: int
    error_before: float
    error_after: float
    ridge: float | None


def _weights_of(module: nn.Module) -> Tensor:
    """Weights [inputs + 1, outputs], float64, the bias in the last row; of a removed sublayer only that row."""
    weight, bias = _weight(module), cast("Tensor | None", getattr(module, "bias", None))
    if weight is None:
        assert bias is not None
        return exact(bias.detach()[None])
    row = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    return exact(torch.cat([weight.T, row[None]]))


def _weight(module: nn.Module) -> Tensor | None:
    """The module's matrix [outputs, inputs]; None for a removed sublayer."""
    weight = cast("Tensor | None", getattr(module, "weight", None))
    return None if weight is None else weight.detach()


def _store(module: nn.Module, weights: Tensor) -> None:
    """Write weights [inputs + 1, outputs] back; creates the bias if it is missing."""
    device = next(module.parameters()).device
    if _weight(module) is not None:
        module.weight = nn.Parameter(weights[:-1].T.float().contiguous().to(device), requires_grad=False)
    module.bias = nn.Parameter(weights[-1].float().contiguous().to(device), requires_grad=False)


@torch.no_grad()
def reconstruct(
    dense: Encoder,
    student: Encoder,
    task: Task,
    data: Encoded,
    *,
    method: str = "full",
    seed: int = 0,
    batch_size: int = 32,
    heard: Callable[[int, Sequence[Tensor]], None] | None = None,
) -> list[SublayerFit]:
    """Fit every output matrix of a pruned model to the dense model, in place, first layer first.

    Args:
        dense: the teacher.
        student: the same model with units removed; its W_o, W_2 and their biases change.
        task: runs the models.
        data: calibration examples; labels are not used.
        method: ``full``: whole matrix and bias; ``kwon``: one scale per unit.
        seed: of the split into training and held-out examples.
        batch_size: examples in a forward pass.
        heard: is told the dense model's hidden states, see ``Teacher``.

    Returns:
        The fit of every sublayer; empty if there are fewer than ``LEAST_SAMPLES`` examples. If the outputs of the whole
        model do not come closer to the dense model's on held-out examples, all weights are restored.
    """
    if len(data) < LEAST_SAMPLES:
        return []
    held_out = np.zeros(len(data), dtype=bool)
    held_out[np.random.default_rng(seed).permutation(len(data))[: max(1, int(HELD_OUT * len(data)))]] = True
    judges = data.select(np.flatnonzero(held_out))
    divergence = Divergence(dense.model, task, judges, 2 * batch_size)
    before = divergence.of(student.model)
    outputs = [layer.get(f"{kind}_output") for layer in student for kind in SUBLAYER_KINDS]
    start = [_weights_of(module) for module in outputs]
    read = positions_read(dense, task, data) if method == "full" else None
    teacher = Teacher(dense, task, data, batch_size=batch_size, heard=heard)
    results = fit_sublayers(teacher, student, held_out, method=method, read=read)
    after = divergence.of(student.model)
    if math.isfinite(before) and not after <= before:
        # With very few examples every sublayer can improve on its own while the whole model does not.
        for module, weights in zip(outputs, start, strict=True):
            _store(module, weights)
        return [replace(r, error_after=r.error_before, ridge=None) for r in results]
    return results


@torch.no_grad()
def fit_sublayers(
    teacher: Teacher,
    student: Encoder,
    held_out: NDArray[np.bool_],
    *,
    method: str = "full",
    read: Tensor | None = None,
    ridges: Sequence[float] = RIDGES,
    bystanders: Sequence[float] = BYSTANDERS,
) -> list[SublayerFit]:
    """Fit every output matrix of a pruned model to the outputs of a teacher's sublayers, in place, first layer first.

    Args:
        teacher: the dense model's sublayers on the calibration examples.
        student: the pruned model; its W_o, W_2 and their biases change.
        held_out: marks the examples that choose the ridge and decide whether a fit is accepted, bool [examples].
        method: ``full``: whole matrix and bias; ``kwon``: one scale per unit.
        read: positions of the last layer that the head reads, [n]; None for all.
        ridges: ridges to try, relative to the mean diagonal of XᵀX.
        bystanders: weights to try for the positions that the head does not read, in the last layer.

    Returns:
        The fit of every sublayer.
    """
    own = list(teacher.hidden)
    results = []
    layers = student.shape.layers
    for number, layer in enumerate(student):
        last = number == layers - 1
        targets = teacher.targets(number)
        running = StudentLayer(layer, teacher.calls, own)
        for kind, totals in targets.items():
            width = width_of(layer, kind)
            sums = partial(GramSum, width, totals[0].shape[-1], teacher.calls[0].device)
            grams = _accumulate(running.regressors(kind), sums, totals, held_out, read if last else None)
            unit_size = student.shape.head_size if kind == "attention" else 1
            results.append(_refit(layer, kind, grams, method, unit_size, ridges, bystanders))
        if not last:
            own = running.outputs()
    return results


@dataclass
class _Grams:
    """Sums for training and held-out examples: over positions that the head reads, and over the rest."""

    train: Gram
    held: Gram
    train_rest: Gram | None = None


def _accumulate(
    regressors: Iterable[Regressors],
    empty: Callable[[], GramSum],
    targets: list[Tensor],
    held_out: NDArray[np.bool_],
    read: Tensor | None,
) -> _Grams:
    train, held, rest = empty(), empty(), None if read is None else empty()
    for found, target in zip(regressors, targets, strict=True):
        call = found.call
        # The sublayer's target: added to the student's own residual it gives the teacher's sum.
        y = target.to(found.residual.device) - found.residual
        x = found.inputs[..., : train.inputs]
        judges = torch.from_numpy(held_out[call.indices]).to(call.device)[:, None]
        is_held, is_train = judges & call.mask, ~judges & call.mask
        if read is not None and rest is not None:
            matters = torch.zeros_like(call.mask)
            matters[:, read[read < matters.shape[1]]] = True
            rest.add(x[is_train & ~matters], y[is_train & ~matters])
            is_held, is_train = is_held & matters, is_train & matters
        held.add(x[is_held], y[is_held])
        train.add(x[is_train], y[is_train])
    return _Grams(train.gram(), held.gram(), None if rest is None else rest.gram())


def _refit(
    layer: EncoderLayer,
    kind: SublayerKind,
    grams: _Grams,
    method: str,
    unit_size: int,
    ridges: Sequence[float],
    bystanders: Sequence[float],
) -> SublayerFit:
    module: nn.Module = layer.get(f"{kind}_output")
    original = _weights_of(module)
    before = grams.held.error(original)
    best_error, best, best_ridge = before, None, None
    if method == "kwon":
        if len(original) > 1:
            fitted = scale_solution(grams.train, original, unit_size)
            if fitted is not None and grams.held.error(fitted) < before:
                best_error, best, best_ridge = grams.held.error(fitted), fitted, 0.0
    else:
        mixtures = bystanders if grams.train_rest is not None else (0.0,)
        chosen = 0.0
        for mixture in mixtures:
            train = grams.train if grams.train_rest is None else grams.train.plus(grams.train_rest, mixture)
            for ridge in ridges:
                candidate = ridge_solution(train, original, ridge)
                error = grams.held.error(candidate)
                if error < best_error:
                    best_error, best, best_ridge, chosen = error, candidate, ridge, mixture
        if best_ridge is not None and grams.train.tokens > len(original):
            # Once the ridge is chosen, the held-out examples join the fit, if there are enough equations to trust it.
            everything = grams.train.plus(grams.held)
            if grams.train_rest is not None:
                everything = everything.plus(grams.train_rest, chosen)
            best = ridge_solution(everything, original, best_ridge)
    if best is not None:
        _store(module, best)
    return SublayerFit(layer.number, kind, len(original) - 1, grams.train.tokens, before, best_error, best_ridge)
