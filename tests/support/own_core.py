"""Of several worker processes (pytest-xdist) each has a core of its own, else their threads fight for them.

It acts when it is imported, and has to be imported before torch, which counts the cores then: with two threads on one
core, each spins until the system takes the core from it.
"""

from __future__ import annotations

import os

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER and hasattr(os, "sched_setaffinity"):
    _CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CORES[int(_WORKER.removeprefix("gw")) % len(_CORES)]})
