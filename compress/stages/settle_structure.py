"""Times the learned structure on the device when the mask freezes, and projects again if it misses the budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compress.core.errors import BudgetUnreachable
from compress.fineprune.projection import cost_of
from compress.search.costs import Costs
from compress.stages.budget_use import LEAST_USED, MOST_USED, ROUNDS, corrected, used_budget
from compress.stages.context import Run

if TYPE_CHECKING:
    from compress.core.plan import Structure
    from compress.fineprune.masking import Choose
    from compress.profile.take import Profile
    from compress.stages.results import Proposal

# Where a structure does not use the budget as the search without training asks for, the next one aims at so much of it.
AIM = 0.97


@dataclass
class Settling:
    """Settles a structure by timing it (see ``Settle``).

    Attributes:
        run: with the device to time on.
        proposal: of the search without training.
        costs: the profile's, with what the structure of the search is predicted to take as their limit.
        profile: predicts what was timed last; the proposal's before anything was.
    """

    run: Run
    proposal: Proposal
    costs: Costs
    profile: Profile

    @classmethod
    def of(cls, run: Run, proposal: Proposal, costs: Costs) -> Settling | None:
        """None where nothing is to be timed: a budget of MACs, a profile that was given or estimated.

        Args:
            run: with the device to time on.
            proposal: of the search without training.
            costs: see ``Settling``.
        """
        profile = proposal.profile
        if run.config.budget.kind == "macs" or profile is None or run.config.profile is not None:
            return None
        return None if profile.source == "estimated" else cls(run, proposal, costs, profile)

    def __call__(self, choose: Choose) -> tuple[Structure, float]:
        """The structure that uses the budget best of those timed within it; where none was, the last choice."""
        limit = self.costs.limit
        structure = choose(limit)
        within: list[tuple[float, Structure, float, Profile]] = []
        for _ in range(ROUNDS):
            timed = self.run.device.compare(structure.widths, self.proposal.engine)
            used = used_budget(self.run.config.budget, timed)
            self.run.info(f"the structure that the scores chose measures at {used:.1%} of the budget")
            self.profile = corrected(self.profile, replace(self.proposal.plan, structure=structure), timed)
            if used <= MOST_USED:
                within.append((used, structure, limit, self.profile))
            if LEAST_USED <= used <= MOST_USED:
                break
            try:
                again = choose(limit * AIM / used)
            except BudgetUnreachable:
                # What is there may still meet the budget when it is measured again, at the end.
                break
            if again == structure:
                break
            structure, limit = again, limit * AIM / used
        if within:
            _, structure, limit, self.profile = max(within, key=lambda found: found[0])
        return structure, limit


def costs_of(run: Run, proposal: Proposal) -> Costs:
    """The budget's costs; the limit of a latency budget is what the measured structure is predicted to take.

    Args:
        run: budget and model.
        proposal: of the search without training.
    """
    config, loaded = run.config, run.loaded
    costs = Costs.of(config.budget, loaded.shape, proposal.profile, loaded.length, 1.0)
    if config.budget.kind == "macs":
        return costs
    return replace(costs, limit=min(costs.limit, cost_of(costs, proposal.plan.structure.widths)))
