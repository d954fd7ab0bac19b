"""Padding: a pruned model as one of equal widths, which transformers loads by itself.

Law (``tests/pruning/test_padding.py``): the padded model gives the pruned one's answers, for every structure. A missing
head has zeros for queries, keys and values and in W_o, so it adds zero; a missing filter has zeros in W_1 and W_2. A
configuration has one width for all layers. So all heads are there, since their number also fixes their size, and as
many filters as the widest layer has.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from compress.core.errors import PlanError
from compress.models.encoder import encoder_of
from compress.models.families import SublayerKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compress.core.plan import Structure
    from compress.models.encoder import EncoderLayer

# Settings that give biases to projections that have none (ModernBERT); pruned ones have them (``removal``).
_BIAS_SETTINGS = {"attention_output": "attention_bias", "ffn_output": "mlp_bias"}


def padded(model: Any, structure: Structure) -> Any:
    """Returns a model of one width with a pruned model's answers.

    Args:
        model: pruned to ``structure``; unchanged when this returns.
        structure: its heads and filters, as indices into the dense layers.

    Returns:
        A model of the same class, in eval mode, whose configuration describes it.

    Raises:
        PlanError: a projection has a bias that no configuration of the family allows.
    """
    own = encoder_of(model)
    config = _config(model.config, structure, {role for role in _BIAS_SETTINGS if _given_bias(own.layers, role)})
    result = type(model)(config).float().eval().requires_grad_(False)
    state = result.state_dict()
    for name, value in model.state_dict().items():
        # What is left out here lies in the layers, or selects among heads that are all there now.
        if name in state and state[name].shape == value.shape:
            state[name].copy_(value)
    size = own.shape.head_size
    for wide, layer, heads, filters in zip(encoder_of(result), own, structure.heads, structure.filters, strict=True):
        # A head keeps its place: some families compute one position bias for all heads.
        units = [head * size + i for head in heads for i in range(size)]
        further = {name.rsplit(".", 1)[-1]: linear for name, linear in wide.further_by_head().items()}
        for name, linear in further.items() if heads else ():
            found = next(value for key, value in layer.further_by_head().items() if key.rsplit(".", 1)[-1] == name)
            _fill_rows(linear, found, units)
        _fill(wide, layer, "attention", units)
        _fill(wide, layer, "ffn", range(len(filters)))
    return result


def _config(dense: Any, structure: Structure, biased: set[str]) -> Any:
    config = copy.deepcopy(dense)
    widest = max(1, *(len(filters) for filters in structure.filters))
    # DistilBERT has its own name for this size.
    setattr(config, "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size", widest)
    for role in biased:
        if hasattr(config, _BIAS_SETTINGS[role]):
            setattr(config, _BIAS_SETTINGS[role], True)
    return config


def _given_bias(layers: Sequence[EncoderLayer], role: str) -> bool:
    """Returns whether a bias in a role says something."""
    biases = [cast("Tensor | None", layer.get(role).bias) for layer in layers]
    return any(bias is not None and bool(bias.any()) for bias in biases)


def _fill(wide: EncoderLayer, layer: EncoderLayer, kind: SublayerKind, units: Sequence[int]) -> None:
    """Writes a pruned sublayer's weights into the places of its units, and zeros elsewhere."""
    output = f"{kind}_output"
    for role, matrices in wide.inputs(kind).items():
        _fill_rows(wide.get(role), layer.get(role) if units else None, units, matrices)
    target, source = wide.get(output), layer.get(output)
    target.weight.zero_()
    if units:
        target.weight[:, list(units)] = source.weight
    bias = cast("Tensor | None", source.bias)
    if cast("Tensor | None", target.bias) is not None:
        target.bias.zero_() if bias is None else target.bias.copy_(bias)
    elif bias is not None and bool(bias.any()):
        raise PlanError(
            f"'{layer.name(output)}' has a bias, which {layer.family.model_type} cannot be configured to have; leave "
            "out --pytorch padded"
        )


def _fill_rows(target: nn.Linear, source: nn.Linear | None, units: Sequence[int], matrices: int = 1) -> None:
    """Writes rows of a matrix, or of several in one, into the places of their units, and zeros elsewhere."""
    rows = torch.tensor([unit + target.out_features // matrices * n for n in range(matrices) for unit in units])
    for name in ("weight", "bias"):
        values = cast("Tensor | None", getattr(target, name))
        if values is None:
            continue
        values.zero_()
        found = cast("Tensor | None", getattr(source, name, None))
        if found is not None:
            values[rows] = found
