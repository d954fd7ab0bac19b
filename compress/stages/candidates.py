"""Candidates of a run: one per precision, planned for the same budget; the most accurate within it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.validation import Candidate
from compress.core.errors import PrecisionRefused
from compress.stages.results import Finished, Proposal

if TYPE_CHECKING:
    from compress.stages.results import Exported

# A candidate is finished unless the search expects it to lose more than so many times what an accepted one is expected
# to lose, and so much of the importance on top: quantization costs something that the search does not see.
HOPELESS_FACTOR, HOPELESS_LOSS = 4.0, 0.002
_ORDER = {"pass": 0, "inconclusive": 1, "fail": 2}


def in_order(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The most promising first: what the search expects to lose least; among equals the safest precision."""
    return sorted(proposals, key=lambda proposal: proposal.loss)


def hopeless(proposal: Proposal, finished: Sequence[Finished]) -> str | None:
    """Why a proposal is not worth finishing beside the accepted ones; None where it is.

    Args:
        proposal: not carried out yet.
        finished: those that were.
    """
    for other in finished:
        theirs = other.proposal
        if not other.accepted:
            continue
        if theirs.plan.structure.widths == theirs.plan.shape.dense:
            return f"not needed: {theirs.engine.precision} meets the budget with nothing pruned"
        if proposal.loss > HOPELESS_FACTOR * theirs.loss + HOPELESS_LOSS:
            ours, its = proposal.plan, theirs.plan
            return (
                f"not finished: keeps {ours.macs_fraction:.0%} of the MACs and {ours.importance_kept:.2%} of the "
                f"importance, {theirs.engine.precision} {its.macs_fraction:.0%} and {its.importance_kept:.2%}"
            )
    return None


def best(finished: Sequence[Finished]) -> Finished:
    """The most accurate of those within the budget; where none is, the one that comes nearest to a verdict of pass.

    Raises:
        PrecisionRefused: all were refused.
    """
    usable = [candidate for candidate in finished if candidate.refused is None]
    if not usable:
        raise PrecisionRefused("; ".join(str(candidate.refused) for candidate in finished))
    return min(
        usable,
        key=lambda c: (
            _ORDER[c.measured.verdict],
            -c.metric,
            c.measured.latency_ms.compressed or c.measured.latency_ms.predicted or 0.0,
        ),
    )


def account(
    proposals: Sequence[Proposal], finished: Sequence[Finished], chosen: Finished, set_aside: dict[str, str]
) -> tuple[tuple[Candidate, ...], str]:
    """Every candidate for validation.json, and in words why the chosen one was chosen.

    Args:
        proposals: all of them.
        finished: those carried out.
        chosen: one of them.
        set_aside: reasons for the others, by precision.
    """
    done = {candidate.proposal.engine.precision: candidate for candidate in finished}
    rows = tuple(
        _unfinished(proposal, set_aside[precision])
        if (precision := proposal.engine.precision) not in done
        else _measured(done[precision], chosen)
        for proposal in proposals
    )
    return rows, _why(chosen, rows)


def _unfinished(proposal: Proposal, outcome: str) -> Candidate:
    return Candidate(
        **_planned(proposal),
        engine=proposal.engine.name,
        latency_ms=None,
        metric=None,
        size_bytes=None,
        outcome=outcome,
    )


def _measured(candidate: Finished, chosen: Finished) -> Candidate:
    found, engine = candidate.measured, candidate.exported.engine
    return Candidate(
        **_planned(candidate.proposal),
        engine=engine.name,
        left_out=engine.left_out,
        latency_ms=found.latency_ms.compressed,
        speedup=found.speedup.value,
        metric=found.metric.compressed,
        drop_of_int8=found.metric.drop_of_int8,
        size_bytes=found.size_bytes.compressed,
        verdict=found.verdict,
        outcome="chosen" if candidate is chosen else candidate.refused or _why_not(candidate, chosen),
    )


def _planned(proposal: Proposal) -> dict[str, Any]:
    plan = proposal.plan
    return {
        "precision": proposal.engine.precision,
        "macs_fraction": plan.macs_fraction,
        "heads": plan.structure.widths.heads,
        "filters": plan.structure.widths.filters,
        "predicted_ms": plan.predicted_ms,
    }


def _why_not(candidate: Finished, chosen: Finished) -> str:
    if candidate.measured.verdict != "pass":
        return f"{candidate.measured.verdict}: {candidate.measured.reason}"
    return f"less accurate: {candidate.metric:.4f} against {chosen.metric:.4f}"


def _why(chosen: Finished, rows: Sequence[Candidate]) -> str:
    plan, engine = chosen.proposal.plan, chosen.exported.engine
    kept = (
        "nothing is pruned"
        if plan.structure.widths == plan.shape.dense
        else f"keeps {plan.macs_fraction:.0%} of the MACs"
    )
    others = [row for row in rows if row.outcome != "chosen"]
    if not others:
        return f"{engine.name}: {kept}"
    reasons = "; ".join(f"{row.precision}: {row.outcome}" for row in others)
    return f"{engine.name}: {kept}, {chosen.measured.metric.name} {chosen.metric:.4f}. Others: {reasons}"


def place(exported: Exported, directory: Path) -> None:
    """Move a finished file, and what belongs to it, into the artifact; the float32 file that it was made of stays.

    Args:
        exported: the file.
        directory: the artifact.
    """
    folder = exported.path.parent.parent if exported.path.parent.name == "engine" else exported.path.parent
    for file in folder.iterdir():
        if not file.name.startswith("float.onnx"):
            file.replace(directory / file.name)
