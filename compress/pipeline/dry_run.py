"""What ``compress run --resume`` would do, without doing it: which results are stored, and how long the others took.

The stages are gone through as in a run, with a memory that makes nothing. What rests on a result that is not stored
cannot be known to be stored either, and counts as to be done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from compress.artifact.directory import check_output
from compress.cache.memo import Foreseen, Memory, NotStored
from compress.cache.store import Store
from compress.core.errors import ArtifactError
from compress.core.progress import Progress, Silent
from compress.export.runtime import require_builder
from compress.fineprune.prepare import prepare
from compress.inputs.load import load, settle_seq_len
from compress.options.run_config import RunConfig
from compress.stages.calibrate import calibrate
from compress.stages.candidates import best
from compress.stages.context import Run
from compress.stages.dense_model import DenseModel
from compress.stages.finish import finish_promising
from compress.stages.kept import keep_beside
from compress.stages.open_device import open_device
from compress.stages.present_device import PresentDevice
from compress.stages.profile import profiles_of, reachable
from compress.stages.search import propose_all
from compress.stages.stage import Stages, in_order


def foresee(config: RunConfig, *, progress: Progress | None = None) -> list[Foreseen]:
    """Read and check what the run would read, and look its results up.

    Args:
        config: as for ``pipeline.run``.
        progress: told about warnings: among them that the output is taken or cannot be written. What is stored is
            worth knowing then too, as after a run.

    Raises:
        CompressError: the inputs are wrong, as a run would say, or the budget is known to be out of reach.
    """
    told = progress or Silent()
    try:
        check_output(config.output)
    except ArtifactError as error:
        told.info(f"warning: the run would end at once: {error}")
    if config.unstructured is not None:
        from compress.pipeline.unstructured import read_inputs

        read_inputs(config, Stages(told))
        return [Foreseen(name, "", False, None, None) for name in ("fine-prune", "pack", "export", "validate")]
    store = Store.default()
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        memory = Memory(store, Path(scratch), reading=True, making=False)
        loaded = load(config, told, further=True)
        require_builder(loaded.target)
        config = settle_seq_len(config, loaded)
        prepare(config, loaded, Silent())
        # What is used again is in the table; only what is wrong with it is worth a line.
        run = Run(config, loaded, Stages(Silent(), memory))
        profiles = importance = None
        with suppress(NotStored):
            run = open_device(run, Path(scratch))
        # How large the dense file is, only that tells.
        known = run.opened is not None or config.size_mb is None
        if run.opened is None:
            run = run.on(PresentDevice(run, DenseModel(loaded, Path(scratch) / "dense.onnx", {})))
        with suppress(NotStored):
            profiles = profiles_of(run)
            profiles = reachable(run, profiles) if known else None
        with suppress(NotStored):
            importance = calibrate(run)
        if profiles is not None and importance is not None:
            with suppress(NotStored):
                finished, _ = finish_promising(run, propose_all(run, importance, profiles))
                if config.fine_prune is None:
                    keep_beside(run, best(finished), finished, profiles)
        return _rows(memory, store, loaded.checkpoint.name, given=config.profile is not None)


def _rows(memory: Memory, store: Store, model: str, given: bool) -> list[Foreseen]:
    rows = []
    met = [step.name for step, _ in memory.met]
    for step, entry in memory.met:
        if entry is None:
            last = store.last(step.name, step.label)
            rows.append(Foreseen(step.name, step.label, False, None, last.seconds if last else None))
        else:
            rows.append(Foreseen(step.name, step.label, True, entry.age_seconds(), entry.seconds))
    for name in [one.name for one in in_order() if not one.optional]:
        if name not in met and not (given and name == "profile"):
            last = store.last(name, model)
            rows.append(Foreseen(name, "", False, None, last.seconds if last else None))
    return sorted_by_stage(rows)


def sorted_by_stage(rows: Sequence[Foreseen]) -> list[Foreseen]:
    """The rows in the order of the stages."""
    order = [one.name for one in in_order()]
    return sorted(rows, key=lambda row: order.index(row.stage))
