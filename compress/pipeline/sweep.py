"""Many budgets at once: one calibration and one profile per precision, a front of accuracy against measured latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.artifact.directory import scratch_beside, staged
from compress.artifact.files import SWEEP, dump
from compress.artifact.manifest import described
from compress.cache.memo import Memory
from compress.cache.store import Store
from compress.core.errors import BudgetUnreachable, ConfigError
from compress.core.importance import Importance
from compress.core.plan import Budget, BudgetKind
from compress.core.progress import Progress, Silent
from compress.inputs.load import load, settle_seq_len
from compress.inputs.torch_state import own_torch_state
from compress.options.run_config import RunConfig
from compress.pipeline.sweep_result import Point, Swept, with_front
from compress.report.write import NAME as REPORT
from compress.report.write import front_page_of, write_page
from compress.stages.calibrate import calibrate
from compress.stages.choose_target import open_present
from compress.stages.context import Run
from compress.stages.finish import finish, finish_promising
from compress.stages.profile import profiles_of, reachable
from compress.stages.results import Finished, Proposal
from compress.stages.search import dense_plan, propose_all
from compress.stages.stage import Stages
from compress.stages.write import inputs_of

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.profile.take import Profile


def parse_budgets(kind: BudgetKind, text: str) -> list[Budget]:
    """``4,6,8`` as budgets of a kind.

    Args:
        kind: latency or speed-up.
        text: numbers with commas between.

    Raises:
        ConfigError: a part is not a positive number, or there is none.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        raise ConfigError(f"budgets '{text}' are no positive numbers with commas between; write 4,6,8")
    return [Budget(kind, value) for value in dict.fromkeys(values)]


@own_torch_state()
def sweep(
    config: RunConfig,
    budgets: Sequence[Budget],
    *,
    origins: Mapping[str, str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Swept:
    """Compress a model to many budgets; write a table, a picture and a report, no artifacts.

    A budget that cannot be reached is said and left out.

    Args:
        config: options; its own budget does not count.
        budgets: what to try, latencies or speed-ups.
        origins: per option where its value came from; None where nobody knows.
        resume: use again what earlier runs have stored.
        progress: told about stages as they begin.

    Raises:
        CompressError: see ``core/errors.py``; nothing is written then.
    """
    store = Store.default()
    nothing = {"latency_ms": None, "speedup": None, "macs": None}
    with staged(config.output) as output, scratch_beside(output) as scratch:
        stages = Stages(progress or Silent(), Memory(store, scratch, reading=resume))
        with stages.stage("load"):
            loaded = load(config, stages, further=True)
            config = settle_seq_len(config, loaded)
        run = Run(config, loaded, stages)
        with stages.stage("export dense"):
            run = open_present(run, scratch)
        try:
            with stages.stage("profile"):
                profiles = profiles_of(run.asking(**nothing))
            with stages.stage("calibrate"):
                importance = calibrate(run)
            # Nothing pruned, in every precision.
            unpruned = run.asking(**{**nothing, "macs": 1.0})
            done = [_dense(unpruned, importance, *pair) for pair in profiles]
            points = [Point.of("dense", finished) for finished in done]
            for budget in budgets:
                points += _at(run.asking(**{**nothing, budget.kind: budget.value}), importance, profiles)
        finally:
            run.device.close()
        first = done[0].measured
        metric, deployment = first.metric.name, first.deployment.to_json()
        where = {name: value for name, value in deployment.items() if name not in ("precision", "engine")}
        took = {"seconds": stages.seconds, "spent": stages.spent.document()}
        facts = {**inputs_of(run, origins), "device": where.get("device"), **took}
        swept = Swept(config.output, metric, where, tuple(with_front(points)), described(facts))
        (output / SWEEP).write_text(dump(swept.document()), encoding="utf-8")
        write_page(front_page_of(swept.document()), output / REPORT)
        _draw(swept, output, stages)
    return swept


def _dense(run: Run, importance: Importance, engine: Engine, profile: Profile) -> Finished:
    return finish(run, Proposal(engine, profile, dense_plan(run, profile), importance))


def _at(run: Run, importance: Importance, profiles: Sequence[tuple[Engine, Profile]]) -> list[Point]:
    """The points of one budget: every promising precision."""
    try:
        within = reachable(run, profiles)
    except BudgetUnreachable as error:
        run.info(str(error))
        return []
    with run.stages.stage("search"):
        proposals = propose_all(run, importance, within)
    finished, _ = finish_promising(run, proposals)
    return [Point.of(str(run.config.budget), candidate) for candidate in finished]


def _draw(swept: Swept, output: Path, stages: Stages) -> None:
    from compress.pipeline.sweep_plot import save_front

    try:
        save_front(swept, output / "sweep.png")
    except ConfigError as error:
        stages.info(f"no picture: {error}")
