"""The number formats that a run plans for (``--precision``), and those that its artifact holds (``--keep``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.errors import TargetError
from compress.profile.target import offered_precisions

if TYPE_CHECKING:
    from compress.options.run_config import RunConfig
    from compress.profile.target import Precision, Target

# The others run a file of their own, of which an artifact has one.
_LOADS_ONNX = ("onnxruntime-cpu", "onnxruntime-cuda")


def candidates(config: RunConfig, target: Target) -> tuple[Precision, ...]:
    """Returns the number formats to plan for, the safest first: one, or of several those to keep, or all.

    Args:
        config: ``precision`` and ``keep``.
        target: the device.

    Raises:
        TargetError: the target does not have one of them, or an artifact for it cannot hold several.
    """
    offered = offered_precisions(target, config.precision)
    if config.keep is None:
        return offered
    kept = formats_to_keep(config, target)
    return kept if config.precision == "auto" else offered


def formats_to_keep(config: RunConfig, target: Target) -> tuple[Precision, ...]:
    """Returns the number formats of ``keep``, the safest first; empty where none were named.

    Args:
        config: ``keep``.
        target: the device.

    Raises:
        TargetError: the target does not have one of them, or an artifact for it cannot hold several.
    """
    known = offered_precisions(target, "auto")
    lacking = next((name for name in config.formats if name not in known), None)
    if lacking is not None:
        raise TargetError(
            f"--keep {config.keep}: target '{target.name}' ({target.runtime}) has no {lacking}; it has "
            f"{', '.join(known)}"
        )
    if len(config.formats) > 1 and target.runtime not in _LOADS_ONNX:
        raise TargetError(
            f"--keep {config.keep}: target '{target.name}' runs in {target.runtime}, whose own file is in engine/, one "
            "for an artifact; make one artifact for each number format, with --precision"
        )
    return tuple(name for name in known if name in config.formats)
