"""The section about training: losses, and the budget as it fell, from training.csv."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.report import formatting as fmt
from compress.report.page import Block, Picture, Rows, Section, section
from compress.report.sources import Logged, Sources
from compress.report.svg import Line, chart


def training(sources: Sources, unit: str | None = None) -> Section:
    """Losses by step, and what was left of the model under the budget while that fell; empty without training.

    Args:
        sources: with the log.
        unit: of budget and cost; None is that of the plan's budget.
    """
    log = sources.training
    if not log:
        return section("training", "Training")
    begins, total = _begins(log)

    def lines(of: Callable[[Logged], float | None], tone: str, dashed: bool = False) -> list[Line]:
        """A line for each phase: what a loss means may change between them."""
        found = []
        for phase, begin in begins.items():
            values = [(float(begin + row.step), of(row)) for row in log if row.phase == phase]
            points = tuple((step, value) for step, value in values if value is not None)
            found += [Line(points, tone, dashed)] if points else []
        return found

    said = "; ".join(f"{fmt.short(phase)} from step {begin + 1}" for phase, begin in begins.items())
    blocks: list[Block] = []
    losses = [*lines(lambda row: row.loss, "first"), *lines(lambda row: row.held_out, "second", dashed=True)]
    if losses:
        svg = chart(
            "training-loss",
            "Loss by step",
            f"{total} steps: {said}. {_from_to(log, 'on examples held out', lambda row: row.held_out)}",
            x_title="steps",
            y_title="loss",
            lines=losses,
            legend=[("line", "first", "training examples"), ("dashes", "second", "examples held out")],
        )
        blocks.append(Picture(svg, f"Loss by step. Phases: {said}."))
    scale = 1.0
    if unit is None:
        scale, unit = (1e-6, "million MACs") if sources.plan.budget.kind == "macs" else (1.0, "milliseconds, predicted")
    budgets = [
        *lines(lambda row: _scaled(row.cost, scale), "first"),
        *lines(lambda row: _scaled(row.budget, scale), "second", dashed=True),
    ]
    if budgets:
        svg = chart(
            "training-budget",
            "Budget by step, and what was left of the model",
            _from_to(log, f"of what was left ({unit})", lambda row: _scaled(row.cost, scale), "Cost"),
            x_title="steps",
            y_title=unit,
            lines=budgets,
            legend=[("line", "first", "what is left"), ("dashes", "second", "budget")],
        )
        blocks.append(Picture(svg, "What was left of the model, never above the budget in force."))
    rows = Rows()
    for row in log:
        cells = (row.loss, row.held_out, _scaled(row.budget, scale), _scaled(row.cost, scale))
        rows.add(fmt.plain(row.phase, 40), fmt.count(row.step), *map(fmt.score, cells))
    columns = ("phase", "step", "loss", "loss, held out", f"budget, {unit}", f"cost, {unit}")
    return section("training", "Training", blocks, rows.table("Log of the training", columns, folded=True))


def _begins(log: Sequence[Logged]) -> tuple[dict[str, int], int]:
    """Steps before each phase, in their order, and of all of them."""
    begins: dict[str, int] = {}
    total = last = 0
    for row in log:
        if row.phase not in begins:
            total += last
            begins[row.phase] = total
            last = 0
        last = max(last, row.step)
    return begins, total + last


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else scale * value


def _from_to(log: Sequence[Logged], what: str, of: Callable[[Logged], float | None], name: str = "Loss") -> str:
    values = [value for row in log if (value := of(row)) is not None]
    return f"{name} {what}: {values[0]:.4g} first, {values[-1]:.4g} last." if values else ""
