"""Importance of heads and filters: Fisher information (`kwon`) or curvature for structured OBS (`full`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compress.options.run_config import RunConfig

if TYPE_CHECKING:
    from compress.calibration.curvature import Curvature
    from compress.core.importance import Fisher
    from compress.data.batches import Encoded
    from compress.distributed.group import Group
    from compress.inputs.checkpoint import Checkpoint
    from compress.models.families import SublayerKind


def observe(
    config: RunConfig,
    checkpoint: Checkpoint,
    data: Encoded,
    group: Group | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[tuple[int, SublayerKind], Curvature] | Fisher:
    """Sum over calibration examples what the method needs.

    Args:
        config: method and seed.
        checkpoint: dense model and task.
        data: calibration examples.
        group: processes that share them; None is this one alone.
        say: told when memory runs out and batches are halved; None tells nobody.

    Returns:
        Curvature by layer and sublayer for method ``full``, Fisher information for ``kwon``.

    Raises:
        DataError: a gradient is not finite.
    """
    from compress.calibration.accumulate import Passes

    encoder, task = checkpoint.encoder, checkpoint.task
    passes = Passes(config.seed, say=say, group=group)
    if config.method == "full":
        from compress.calibration.curvature import curvature

        return curvature(encoder, task, data, passes)
    from compress.calibration.fisher import fisher_information

    return fisher_information(encoder, task, data, passes, label_free=config.label_free or None, blocks=True)
