"""Fake quantization: a model in PyTorch answers as its int8 file will; gradients pass straight through the rounding.

The rounding is that of ``export/int8.py`` for dynamic int8; a test compares the two, element by element. Weights have a
symmetric scale per output channel. Activations are rounded per tensor by the range of the call, as in ONNX's
``DynamicQuantizeLinear``. Large tables have a scale per row. Sums are exact integers in the file and floats here: they
differ by the rounding of floats.

Static int8 rounds in other places: its graphs also pass rounded tensors to the residual sums.

Source of the straight-through gradient: Bengio, Léonard and Courville 2013; of training under rounding, Jacob et al.
2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.export.lowering import Engine
from compress.models.encoder import EncoderLayer, encoder_of
from compress.models.placement import exact

# Largest int8 weight; with a reduced range, of processors whose products saturate.
LARGEST, REDUCED = 127, 64
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Rounding:
    """Which tensors an int8 file rounds, and how.

    Attributes:
        engine: of the file, dynamic int8.
        outside: linear layers outside of the encoder's layers that are rounded too (a head over all tokens), by module.
        tables: embeddings with a scale per row, by module.
        rows: examples of a call, which share the range of an activation.
    """

    engine: Engine
    outside: frozenset[str]
    tables: frozenset[str]
    rows: int

    @classmethod
    def of(cls, engine: Engine, float_path: Path, rows: int) -> Rounding | None:
        """The rounding of an int8 file, read from the float32 graph that it was made from.

        Args:
            engine: of the file.
            float_path: the graph, in the engine's form.
            rows: examples of a call.

        Returns:
            None unless the engine's scheme is dynamic int8.
        """
        import onnx

        from compress.export import int8

        if engine.scheme != "dynamic":
            return None
        # Only names of weights are needed: data in files beside the graph is not read.
        proto = onnx.load(str(float_path), load_external_data=False)
        tables = int8.large_tables(proto)
        return cls(
            engine,
            frozenset(int8.quantizable(proto).values()),
            frozenset(name.removesuffix(".weight") for name in tables),
            rows,
        )

    def linear(self, model: Any) -> dict[str, nn.Linear]:
        """The linear layers of a model that are rounded, by module name.

        They are all in the encoder's layers and those of ``outside``, without the layers that the engine leaves in
        float.
        """
        layers, left_out = encoder_of(model).layers, set(self.engine.left_out)
        other_names = {module: names for layer in layers for module, names in _names_in_files(layer).items()}
        found = {}
        for name, module in model.named_modules():
            inside = any(name.startswith(f"{layer.prefix}.") for layer in layers)
            if not isinstance(module, nn.Linear) or not (inside or name in self.outside):
                continue
            if not left_out & ({name} | other_names.get(name, set())):
                found[name] = module
        return found

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """Round in every forward pass of a model while the block runs."""
        modules = self.linear(model)
        embeddings = {
            name: module
            for name, module in model.named_modules()
            if name in self.tables and isinstance(module, nn.Embedding)
        }
        try:
            for linear in modules.values():
                vars(linear)["forward"] = self._forward(linear)
            for table in embeddings.values():
                vars(table)["forward"] = _lookup(table)
            yield
        finally:
            for module in (*modules.values(), *embeddings.values()):
                vars(module).pop("forward", None)

    def _forward(self, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        levels = REDUCED if self.engine.reduce_range else LARGEST

        def forward(x: Tensor) -> Tensor:
            return functional.linear(round_activations(x, self.rows), round_weight(linear.weight, levels), linear.bias)

        return forward


def _names_in_files(layer: EncoderLayer) -> dict[str, set[str]]:
    """Names of the attention projections in exported graphs, by module: separate, and joined to one."""
    found: dict[str, set[str]] = {}
    for role, count in layer.inputs("attention").items():
        single = layer.exported_name(role)
        parent = single.rpartition(".")[0]
        apart = {f"{parent}.{part}" for part in ("query", "key", "value")} if count > 1 else set()
        found[layer.name(role)] = {single, f"{parent}.query_key_value", *apart}
    return found


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, value: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    found: Tensor = _StraightThrough.apply(value, rounded)
    return found


def round_weight(weight: Tensor, levels: int = LARGEST) -> Tensor:
    """Weights rounded to int8 with a scale per output channel; the gradient passes straight through.

    Args:
        weight: [out, in].
        levels: largest int8 value: 127, or 64 with a reduced range.

    Source: Bengio, Léonard and Courville 2013; Jacob et al. 2018.
    """
    with torch.no_grad():
        # As the library computes it: in double, then rounded; 1 for a row of zeros.
        scale = (exact(weight.abs().amax(1, keepdim=True)) / levels).float().to(weight.device)
        scale = torch.where(scale < _TINY, torch.ones_like(scale), scale)
        rounded = (weight / scale).round() * scale
    return _straight_through(weight, rounded)


def round_rows(values: Tensor) -> Tensor:
    """Rows [..., width] rounded to int8 with a scale per row; the gradient passes straight through."""
    with torch.no_grad():
        scale = values.abs().amax(-1, keepdim=True).clamp_min(1e-30) / LARGEST
        rounded = (values / scale).round() * scale
    return _straight_through(values, rounded)


def round_activations(x: Tensor, rows: int) -> Tensor:
    """Activations rounded to uint8 by the range of each call, which includes 0.

    Args:
        x: [batch, ..., features]; with two axes only, all of it belongs to one call.
        rows: examples of a call, which follow one another in the batch.

    Source: ``DynamicQuantizeLinear`` of ONNX.
    """
    with torch.no_grad():
        low, high = (
            limit.clamp(*bounds) for limit, bounds in zip(_range(x, rows), ((None, 0), (0, None)), strict=True)
        )
        scale = (high - low) / 255
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = (-low / scale).clamp(0, 255).round()
        rounded = ((x.float() / scale).round() + zero).clamp(0, 255).sub(zero).mul(scale)
    return _straight_through(x, rounded.to(x.dtype))


def _range(x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Least and largest value of each call, of a shape that x can be divided by."""
    count = len(x)
    if x.dim() < 3 or rows >= count:
        low, high = x.aminmax()
        return low.float(), high.float()
    flat = x.flatten(1).float()
    low, high = flat.amin(1), flat.amax(1)
    if rows > 1:
        calls = range(0, count, rows)
        low, high = (
            torch.stack([pick(values[i : i + rows]) for i in calls]).repeat_interleave(rows)[:count]
            for values, pick in ((low, torch.min), (high, torch.max))
        )
    shape = (count, *(1,) * (x.dim() - 1))
    return low.reshape(shape), high.reshape(shape)


def _lookup(table: nn.Embedding) -> Callable[[Tensor], Tensor]:
    def forward(ids: Tensor) -> Tensor:
        return round_rows(functional.embedding(ids, table.weight, table.padding_idx))

    return forward
