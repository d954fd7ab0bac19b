"""The command line: parses, calls, prints. Nothing is computed here.

    main               the group of commands, exit codes
    run_commands       commands that lead to an artifact
    artifact_commands  commands about an artifact
    machine_commands   targets, doctor
    cache_commands     the cache
    common             options that commands share
    console            what people read on stdout;  terminal: lines, tables, bars
    progress           what is said while a command works
    doctor             whether this machine is ready to measure

May import everything, heavy libraries inside functions.
"""

from __future__ import annotations

from compress.cli.main import cli, main

__all__ = ["cli", "main"]
