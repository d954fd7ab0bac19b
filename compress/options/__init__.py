"""What a user can ask for.

    run_config   RunConfig, compress.toml, which value wins
    help         what each option means, and defaults
    gate_limits  limits of `compress gate`
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
