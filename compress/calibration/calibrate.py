"""What every head and filter is worth, by the method asked for, and what that makes of other budgets."""

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
    """The sums over examples that weighing rests on: curvature for ``full``, Fisher information for ``kwon``.

    Args:
        config: method and seed.
        checkpoint: dense model and task.
        data: calibration examples.
        group: processes that share them.
        say: told where memory runs short.
    """
    encoder, task, seed = checkpoint.encoder, checkpoint.task, config.seed
    if config.method == "full":
        from compress.calibration.curvature import curvature

        return curvature(encoder, task, data, seed=seed, say=say, group=group)
    from compress.calibration.fisher import fisher_information

    free = config.label_free or None
    return fisher_information(encoder, task, data, seed=seed, label_free=free, blocks=True, say=say, group=group)
