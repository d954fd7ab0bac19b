"""The pipeline from Python, with the names of the command line's options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ConfigError, did_you_mean
from compress.core.progress import Progress, Silent
from compress.options.help import HELP
from compress.options.run_config import resolve
from compress.options.toml_file import find_config_file

if TYPE_CHECKING:
    from compress.pipeline.compression import RunResult


def run(
    model: str | os.PathLike[str] | None = None,
    *,
    config_file: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> RunResult:
    """Compress a model: what ``compress run`` does, and the same artifact.

    Args:
        model: local directory or hub name; None takes it from the configuration file.
        config_file: a ``compress.toml``; None takes the one in the current directory, if there is one.
        resume: use again what earlier runs have stored (docs/resume.md).
        progress: told about stages as they begin; None says nothing.
        **options: ``data``, ``speedup``, ``latency_ms``, ``target``, ``seq_len``, ...: the names in
            ``compress.options.HELP``, with the meaning and default they have on the command line.

    Returns:
        Where the artifact is, its plan, the measurements, and the verdict.

    Raises:
        CompressError: something is wrong with the input; ``exit_code`` is what the command line would end with.
    """
    for name in options:
        if name not in HELP:
            raise ConfigError(f"unknown option '{name}'.{did_you_mean(name, list(HELP))}")
    resolved = resolve(
        {"model": model, **options}, find_config_file(config_file), require=("data", "budget"), given_as="argument"
    )

    from compress import pipeline

    return pipeline.run(resolved.config, origins=resolved.origins, resume=resume, progress=progress or Silent())
