"""`@computing`: a function of a run that computes with PyTorch, on the device of the run."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from compress.distributed.group import joined
from compress.stages.context import Run

P = ParamSpec("P")
T = TypeVar("T")


def computing(make: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """Run a function where PyTorch computes, and again on the processor if ``auto`` chose a GPU that is too small.

    It stands outside of ``@stage``: what is stored is then stored under the device that computed it.

    Args:
        make: can be called again after an error.
    """

    @wraps(make)
    def there(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run.loaded.compute.attempt(lambda: make(run, *args, **kwargs), alone=joined().world == 1)

    return there
