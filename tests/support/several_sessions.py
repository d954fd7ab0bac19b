"""Both phases of fine-pruning in every process of a launcher, or in one alone; what came of it goes into a file.

Started by ``tests/fineprune/test_parallel.py``: DIRECTORY, then scorers.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from compress.distributed.group import Group, meet, place
from compress.fineprune.session import TrainingSession
from compress.search.costs import Costs
from support.training import PHASE, dense, examples, recipe, training_session

# The last batch of an epoch has one example: nothing for a second process.
DATA = examples(105)
TRAIN, HELD = DATA.select(range(81)), DATA.select(range(81, 105))
TABLES = recipe(
    structure={**PHASE, "epochs": 2.0, "project_every": 4, "accumulate": 2, "weight_decay": 0.01},
    weights={**PHASE, "epochs": 2.0},
    distillation={"weight": 0.5},
    validation={"times": 4, "patience": 3},
)
FILE = "training.safetensors"


def session(group: Group, scorer: str, directory: Path | None, copied: Path | None = None) -> TrainingSession:
    """A session; at the third evaluation the checkpoint of the step before is put aside."""
    tables = TABLES.structure
    assert tables is not None
    dropout = {"dropout": scorer == "movement"}
    structure = tables.model_copy(update={"scorer": scorer, "penalty": 0.1, **dropout})

    def tell(line: str) -> None:
        if directory is not None and copied is not None and line.startswith("structure: step 17 "):
            copied.mkdir()
            shutil.copy(directory / FILE, copied / FILE)

    return training_session(
        dense(),
        TABLES.model_copy(update={"structure": structure}),
        TRAIN,
        HELD,
        directory=directory if group.first else None,
        tell=tell,
        group=group,
    )


def both_phases(one: TrainingSession) -> dict[str, Any]:
    """What the first process does."""
    start = torch.arange(12.0).reshape(3, 4).numpy() + 1, torch.arange(60.0).reshape(3, 20).numpy() + 1
    shape = dense().encoder.shape
    costs = Costs.macs(shape, 0.4, TRAIN.mean_length)
    # Only the first process has a device to time on, and what it settles on is everyone's.
    model, masking, first = one.find_structure(costs, start, lambda choose: (choose(0.9 * costs.limit), 0.5))
    assert masking.history[-1].budget == 0.5
    scores = {f"scores.{name}": tensor.clone() for name, tensor in masking.scorer.state().items()}
    model, second = one.train_weights(one.carry_out(model, masking), masking.structure)
    logs = [[tuple(vars(row).values()) for row in phase.rows] for phase in (first, second)]
    return {"structure": masking.structure, "logs": logs, **scores, **model.state_dict()}


def main() -> None:
    directory, scorers = Path(sys.argv[1]), sys.argv[2:]
    where = place()
    group = Group() if where is None else meet(where)
    found = {}
    for scorer in scorers:
        one = session(group, scorer, directory / scorer, directory / f"{scorer}-middle")
        if group.first:
            found[scorer] = both_phases(one)
        else:
            one.follow(*group.share())
            one.follow(*group.share())
    again = session(group, scorers[0], directory / f"{scorers[0]}-middle")
    if group.first:
        found["resumed"] = both_phases(again)
        torch.save(found, directory / "found.pt")
    else:
        again.follow(*group.share())
        again.follow(*group.share())
    group.leave() if group.first else group.share()


if __name__ == "__main__":
    main()
