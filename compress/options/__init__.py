"""The options of a run and the limits of a gate.

    table        every option of a run, stated once
    run_config   RunConfig, and which value wins
    toml_file    compress.toml
    gate_limits  limits of `compress gate`
    help         help texts and defaults, by name
    effort       what --effort means, in counts

May import core and profile. No torch.
"""

from __future__ import annotations

from compress.options.help import (
    BUDGETS,
    CONFIG_FILE,
    DEFAULTS,
    EFFORTS,
    EMBEDDINGS,
    GATE_HELP,
    HELP,
    METHODS,
    PRECISIONS,
    flag,
)

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
