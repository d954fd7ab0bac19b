"""A class of the name and the attributes of SetFit's own head: SetFit needs older libraries than this project."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch


def own_head_class(patch: pytest.MonkeyPatch) -> type:
    """The class, at the place where pickles of SetFit look for it.

    Args:
        patch: undoes it.
    """

    class SetFitHead(torch.nn.Module):
        def __init__(self, classes: int, multitarget: bool = False) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(24, classes)
            self.temperature, self.eps, self.multitarget = 2.0, 1e-5, multitarget

    module: Any = ModuleType("setfit.modeling")
    SetFitHead.__module__, SetFitHead.__qualname__, module.SetFitHead = "setfit.modeling", "SetFitHead", SetFitHead
    patch.setitem(sys.modules, "setfit", ModuleType("setfit"))
    patch.setitem(sys.modules, "setfit.modeling", module)
    return SetFitHead
