"""Model families: the documented way to add one (``examples/own_family.py``)."""

from __future__ import annotations

from compress.models.families import FAMILIES, Architecture, family_of, register

__all__ = ["FAMILIES", "Architecture", "family_of", "register"]
