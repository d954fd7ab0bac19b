"""Errors that a user can meet. Each class carries the exit code of the command line.

Exit codes (docs/architecture.md): 0 pass, 1 the budget or gate is not met, 2 inconclusive, 3 error.
A message says what was wrong, the value that was wrong, and what to do next.
"""

from __future__ import annotations

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_INCONCLUSIVE = 2
EXIT_ERROR = 3


class CompressError(Exception):
    """Base of every error that the user can mend; shown as one message, never as a traceback."""

    exit_code = EXIT_ERROR


class ConfigError(CompressError):
    """An option or a line of ``compress.toml`` is wrong: unknown key, bad value, two budgets, no budget."""


class ModelError(CompressError):
    """The checkpoint is missing, damaged, of an unsupported family, or has no trained head."""


class DataError(CompressError):
    """The data is missing, empty, lacks the columns, or has labels that the model does not know."""


class TargetError(CompressError):
    """The target is unknown, its file is wrong, or its runtime is not installed."""


class DeviceError(CompressError):
    """The device that PyTorch should compute on is not there, is too small, or failed."""


class ProfileError(CompressError):
    """A profile cannot be read, or was taken for another device, shape, batch or length."""


class PlanError(CompressError):
    """A plan cannot be read, or does not fit the model it is applied to."""


class ExportError(CompressError):
    """The exported graph is invalid or does not compute what the PyTorch model computes."""


class ArtifactError(CompressError):
    """The output directory is not usable, or a directory given as an artifact is not one."""


class TrainingError(CompressError):
    """Fine-pruning cannot go on: the loss diverges, or a part that it needs is not installed."""


class BudgetUnreachable(CompressError):
    """No structure meets the budget. The message names the least that can be reached."""

    exit_code = EXIT_FAIL


class PrecisionRefused(CompressError):
    """A number format costs more accuracy than is allowed. The message names the layers that it hurts most."""

    exit_code = EXIT_FAIL


def did_you_mean(name: str, known: list[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string.

    Args:
        name: as the user wrote it.
        known: names there are.
    """
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
