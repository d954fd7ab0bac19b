"""What stays of what the scores chose: timed on the device as the mask freezes, and chosen again where it is off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compress.core.errors import BudgetUnreachable
from compress.fineprune.projection import cost_of
from compress.search.costs import Costs
from compress.stages.budget_use import LEAST_USED, MOST_USED, ROUNDS, corrected, used_budget

if TYPE_CHECKING:
    from compress.core.plan import Structure
    from compress.fineprune.masking import Choose
    from compress.inputs.load import Loaded
    from compress.options.run_config import RunConfig
    from compress.profile.take import Profile
    from compress.stages.context import Stages
    from compress.stages.device import Device
    from compress.stages.results import Proposal

# Where a structure does not use the budget as the search without training asks for, the next one aims at so much of it.
AIM = 0.97


@dataclass
class Settling:
    """Settles a structure by timing it (see ``Settle``).

    Attributes:
        config, loaded, proposal: of the run.
        costs: the profile's, with what the structure of the search is predicted to take as their limit.
        device: to time on.
        stages: are told.
        profile: predicts what was timed last; the proposal's before anything was.
    """

    config: RunConfig
    loaded: Loaded
    proposal: Proposal
    costs: Costs
    device: Device
    stages: Stages
    profile: Profile

    @classmethod
    def of(
        cls, config: RunConfig, loaded: Loaded, proposal: Proposal, costs: Costs, device: Device, stages: Stages
    ) -> Settling | None:
        """None where nothing is to be timed: a budget of MACs, a profile that was given or estimated."""
        profile = proposal.profile
        if config.budget.kind == "macs" or profile is None or config.profile is not None:
            return None
        if profile.source == "estimated":
            return None
        return cls(config, loaded, proposal, costs, device, stages, profile)

    def __call__(self, choose: Choose) -> tuple[Structure, float]:
        """The structure that uses the budget best of those timed within it; where none was, the last choice."""
        limit = self.costs.limit
        structure = choose(limit)
        within: list[tuple[float, Structure, float, Profile]] = []
        for _ in range(ROUNDS):
            timed = self.device.compare(self.loaded, structure.widths, self.proposal.engine)
            used = used_budget(self.config.budget, timed)
            self.stages.info(f"the structure that the scores chose measures at {used:.1%} of the budget")
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


def costs_of(config: RunConfig, loaded: Loaded, proposal: Proposal) -> Costs:
    """The budget's costs; the limit of a latency budget is what the measured structure is predicted to take."""
    costs = Costs.of(config.budget, loaded.shape, proposal.profile, loaded.length, 1.0)
    if config.budget.kind == "macs":
        return costs
    return replace(costs, limit=min(costs.limit, cost_of(costs, proposal.plan.structure.widths)))
