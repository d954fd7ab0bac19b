"""A second device on a machine that has none: tensors that compute on the processor and may not meet its tensors.

A tensor on ``VIRTUAL`` wraps one of the processor. As with a GPU, the two kinds do not mix, NumPy does not see the
wrapped ones, and only ``.to()`` moves values. What real devices allow is allowed: a number (a tensor without axes) may
come from the processor, and so may indices. Results equal those of the processor bit for bit, since it computes them.

The device calls itself ``meta``, the one name beside ``cpu`` for which every build of torch has autograd.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

VIRTUAL = torch.device("meta")

aten = torch.ops.aten
# Indices may lie on the processor, whatever they index.
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.index_put.default}


class MixedDevices(AssertionError):
    """An operator was given tensors of both devices."""


class OnVirtual(torch.Tensor):
    """A tensor on the virtual device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnVirtual:
        """Wrap a tensor of the processor."""
        made: OnVirtual = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=VIRTUAL,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnVirtual({self.held})"

    def tolist(self) -> Any:
        """As every device has it; torch's own refuses tensors of another class."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Makes tensors on the virtual device where one is asked for, or where an operator has one among its arguments."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls.append(str(func))
        return _run(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """``torch.tensor`` of values, of which torch's own device of that name keeps nothing but the shape."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == VIRTUAL:
            return func(*args, **{**kwargs, "device": "cpu"}).to(VIRTUAL)
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    there = [value for value in flat if isinstance(value, OnVirtual)]
    asked = kwargs.get("device")
    target = VIRTUAL if asked is None and there else torch.device(asked if asked is not None else "cpu")
    if there and func not in _INDEXING and func is not aten.copy_.default:
        for value in flat:
            if isinstance(value, torch.Tensor) and not isinstance(value, OnVirtual) and value.dim():
                raise MixedDevices(f"{func} of tensors on the virtual device and on the processor {tuple(value.shape)}")
    bare = [value.held if isinstance(value, OnVirtual) else value for value in flat]
    if asked is not None:
        bare = [torch.device("cpu") if isinstance(value, torch.device) else value for value in bare]
    plain_args, plain_kwargs = tree_unflatten(bare, spec)
    found = func(*plain_args, **plain_kwargs)
    if target != VIRTUAL:
        if asked is not None and there and isinstance(found, torch.Tensor) and any(found is v.held for v in there):
            return found.clone()
        return found
    # In place, and into a given tensor: the answer is the argument itself.
    own = {id(value.held): value for value in there}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return own[id(value)] if id(value) in own else OnVirtual(value)

    return tree_map(wrapped, found)


@contextmanager
def virtual_device() -> Iterator[list[str]]:
    """Inside the block tensors can be made on ``VIRTUAL`` and moved there; yields the operators called so far."""
    calls: list[str] = []
    with _Values(), _Mode(calls):
        yield calls
