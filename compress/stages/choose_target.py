"""Opens a target of this machine; of one that names several (``one_of``) the fastest, which the run then is for.

Half of the model, which stands for pruned structures, is timed in the fastest form of each, in the last number format
in question (of several the fastest). What counts is milliseconds: a speed-up is against each runtime's own dense model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.core.errors import CompressError, ProfileError, TargetError
from compress.export.measure import compare_latency
from compress.export.runtime import open_session, require_runtime
from compress.inputs.precisions import candidates
from compress.profile.target import load_target
from compress.stages import cache_codecs
from compress.stages.cache_keys import deployment_inputs, target_inputs
from compress.stages.context import Run
from compress.stages.dense_model import DenseModel, deployment_feed, export_dense
from compress.stages.present_device import CHECK_SECONDS, RUNTIMES, PresentDevice, half
from compress.stages.profile import given_profile
from compress.stages.results import ChosenTarget
from compress.stages.stage import Stage, stage

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.export.session import Session
    from compress.profile.target import Target


def open_present(run: Run, scratch: Path) -> Run:
    """Export the dense model, and choose among the targets of one that names several.

    Args:
        run: gives model and target.
        scratch: directory to export into.

    Returns:
        The run on its device, for the target that was chosen.

    Raises:
        TargetError: the target is not on this machine, or its runtime is not installed; of several, none can be used.
    """
    if not run.loaded.target.one_of:
        return run.on(PresentDevice.open(run, scratch))
    path = export_dense(run, scratch)
    named = {name: _for_target(run, name) for name in run.loaded.target.one_of}
    chosen = _of_profile(named) if run.config.profile else fastest_target(run, path)
    run.info(f"{run.loaded.target.name}: {chosen.name} is taken: {chosen.why}")
    found = named[chosen.name]
    return found.on(PresentDevice(found, _dense(found, path)))


@stage(
    Stage("target", version=1, after="dense", libraries=RUNTIMES, measured=True, optional=True),
    inputs=lambda run, path: {
        "deployment": deployment_inputs(run),
        "one_of": [target_inputs(load_target(name)) for name in run.loaded.target.one_of],
        "precision": run.config.precision,
        "keep": run.config.keep,
        "int8": run.config.int8,
        "examples": len(run.loaded.calibration),
    },
    codec=cache_codecs.CHOSEN_TARGET,
    of=lambda run, path: run.loaded.target.name,
)
def fastest_target(run: Run, path: Path) -> ChosenTarget:
    """The target that runs half of the model fastest; the first unless another is faster beyond noise.

    Args:
        run: its target names several.
        path: the dense model's file.

    Raises:
        TargetError: none of them can be used here.
    """
    found, missing = list[_Contender](), ""
    for name in run.loaded.target.one_of:
        try:
            found.append(_contender(_for_target(run, name), name, path))
        except TargetError as error:
            missing += f"; not {name}: {error}"
    if not found:
        raise TargetError(f"target '{run.loaded.target.name}' can use nothing here{missing}")
    if len(found) == 1:
        return ChosenTarget(found[0].name, f"nothing else can be used here{missing}")
    chosen, times = _fastest(found)
    told = ", ".join(f"{ms:.2f} ms on {one.name} ({one.engine.name})" for one, ms in zip(found, times, strict=True))
    return ChosenTarget(chosen.name, f"half of the model takes {told}{missing}")


@dataclass(frozen=True)
class _Contender:
    """A target in question, with half of the model as it runs it."""

    name: str
    target: Target
    engine: Engine
    half: bytes
    feed: Mapping[str, NDArray[Any]]

    def open(self) -> Session:
        return open_session(self.half, self.target)


def _contender(run: Run, name: str, path: Path) -> _Contender:
    target, dense = run.loaded.target, _dense(run, path)
    require_runtime(target)
    engine = PresentDevice(run, dense).fastest(candidates(run.config, target)[-1])
    return _Contender(name, target, engine, dense.build(half(run.loaded), engine), dense.timing_feed)


def _fastest(contenders: Sequence[_Contender]) -> tuple[_Contender, list[float]]:
    """The first, or another that is faster beyond noise; and milliseconds of each."""
    first, *others = contenders
    chosen, most, times = first, 1.0, [0.0]
    with ExitStack() as opened:
        sessions = [one.open() for one in contenders]
        for session in sessions:
            opened.callback(session.close)
        for one, session in zip(others, sessions[1:], strict=True):
            timed = compare_latency(sessions[0], session, first.feed, seconds=CHECK_SECONDS)
            times = [timed.dense.value, *times[1:], timed.compressed.value]
            if timed.speedup.low > 1 and timed.speedup.value > most:
                chosen, most = one, timed.speedup.value
    return chosen, times


def _of_profile(named: Mapping[str, Run]) -> ChosenTarget:
    """The target that a given profile was taken of."""
    refused: CompressError | None = None
    for name, run in named.items():
        try:
            given_profile(run)
            return ChosenTarget(name, "the profile is of it")
        except ProfileError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _for_target(run: Run, name: str) -> Run:
    return run.for_target(load_target(name).for_calls(run.config.batch_size, run.config.seq_len), name)


def _dense(run: Run, path: Path) -> DenseModel:
    return DenseModel(run.loaded, path, deployment_feed(run.config, run.loaded))
