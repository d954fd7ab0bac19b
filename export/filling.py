"""Writes a pruned model into the graph of its dense one: cut to its widths, with its weights in place.

An export traces the model in Python and takes seconds, and the dense model has been exported already. Narrowing gives
the graph that an export of the pruned model would give; parameters have their PyTorch names there. Where that does not
hold for every weight, nothing is filled, and the model is exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from compress.core.errors import ExportError
from compress.export.narrowing import KEPT_HEADS, narrow
from compress.models.encoder import Encoder, encoder_of, widths_of
from compress.pruning import removal

Weights = Mapping[str, NDArray[np.float32]]


def fill(pattern: ModelProto, dense: Encoder, model: nn.Module) -> ModelProto | None:
    """The graph of a pruned model, from that of its dense model.

    Args:
        pattern: the dense model, from ``export_onnx``; not changed.
        dense: the encoder of the model that was exported; gives names, dense sizes and dense weights.
        model: the same model with units removed; any weights may differ.

    Returns:
        What ``export_onnx`` would write; None where it has to: attention that is exported as it is written, or weights
        that the graph has in another form than the model.
    """
    if dense.family.attention_kind is None:
        return None
    before, after = _parameters(dense.model), _parameters(model)
    turned = _turned(pattern, before)
    if turned is None or _shared(turned, before, after):
        return None
    try:
        filled = narrow(pattern, dense, widths_of(model))
    except ExportError:
        return None
    values = {name: array.T if turned.get(name, False) else array for name, array in after.items()}
    values |= _kept_heads(model)
    for tensor in filled.graph.initializer:
        if tensor.name in values:
            if list(values[tensor.name].shape) != list(tensor.dims):
                return None
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
        elif _may_be_weights(tensor):
            return None
    return filled


def _kept_heads(model: nn.Module) -> dict[str, NDArray[Any]]:
    """The heads whose bias of the scores each layer takes from that of all heads."""
    found = {}
    for layer in encoder_of(model):
        kept = getattr(layer.get("attention"), removal.KEPT_HEADS, None)
        if kept is not None:
            found[f"{layer.exported_name('value')}.{KEPT_HEADS}"] = kept.cpu().numpy()
    return found


def _parameters(model: nn.Module) -> Weights:
    # A parameter that two modules share has one name in the graph; which of them, the exporter decides.
    return {name: values.detach().cpu().numpy() for name, values in model.named_parameters(remove_duplicate=False)}


def _turned(pattern: ModelProto, before: Weights) -> dict[str, bool] | None:
    """Which parameters the graph holds, and whether transposed; None where it holds weights in another form.

    Most matrices of linear layers are transposed, [in, out]; not those of products with two-dimensional inputs.
    """
    turned = {}
    for tensor in pattern.graph.initializer:
        parameter = before.get(tensor.name)
        if parameter is None:
            # Axes, scalars and position numbers do not depend on weights; others may have been computed of them.
            if _may_be_weights(tensor):
                return None
            continue
        found = numpy_helper.to_array(tensor)
        if np.array_equal(found, parameter):
            turned[tensor.name] = False
        elif parameter.ndim == 2 and np.array_equal(found, parameter.T):
            turned[tensor.name] = True
        else:
            return None
    return turned


def _may_be_weights(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and int(np.prod(tensor.dims)) > 1


def _shared(held: Mapping[str, bool], before: Weights, after: Weights) -> bool:
    """Whether a tensor of the graph stands for parameters that now differ: the exporter stores equal ones once."""
    changed = {name for name, values in after.items() if not _equal(values, before.get(name))}
    absent = [name for name in after if name not in held and name in before]
    return any(
        name in changed or any(_equal(before[name], before[other]) for other in changed & held.keys())
        for name in absent
    )


def _equal(one: NDArray[np.float32], other: NDArray[np.float32] | None) -> bool:
    return other is not None and np.array_equal(one, other)
