"""What each option means, by name: views of the tables of options and of limits."""

from __future__ import annotations

from compress.options.gate_limits import KINDS, SETTINGS
from compress.options.table import BUDGETS, CONFIG_FILE, EFFORTS, EMBEDDINGS, METHODS, OPTIONS, PRECISIONS, flag

__all__ = [
    "BUDGETS",
    "CONFIG_FILE",
    "DEFAULTS",
    "EFFORTS",
    "EMBEDDINGS",
    "GATE_HELP",
    "HELP",
    "METHODS",
    "PRECISIONS",
    "flag",
]

# In the order in which people need them.
HELP: dict[str, str] = {name: option.help for name, option in OPTIONS.items()}

# What holds without the option, where that is one value.
DEFAULTS: dict[str, str | int | float] = {
    name: option.default for name, option in OPTIONS.items() if option.default is not None and option.shows_default
}

# Limits of `compress gate`, and lines of the table [gate].
GATE_HELP: dict[str, str] = {
    **{name: kind.help for name, kind in KINDS.items()},
    **{name: setting.help for name, setting in SETTINGS.items()},
}
