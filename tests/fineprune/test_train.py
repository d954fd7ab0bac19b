"""The training loop: interrupted or not, what learns from what, and when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.core.errors import ArtifactError, TrainingError
from compress.core.plan import Structure
from compress.fineprune.masking import Choose
from compress.fineprune.projection import cost_of
from compress.fineprune.recipe import Recipe
from compress.fineprune.session import TrainingSession
from compress.fineprune.train import rate_at
from compress.search.costs import Costs
from support.training import PHASE, dense, examples, recipe, training_session

DATA = examples(120)
TRAIN, HELD = DATA.select(range(96)), DATA.select(range(96, 120))
KEPT = Structure(heads=((0, 1), (2,), ()), filters=(tuple(range(8)), (), tuple(range(4, 16))))
BOTH = recipe(
    structure={**PHASE, "epochs": 2.0, "scorer": "movement", "project_every": 4, "accumulate": 2, "dropout": True},
    weights={**PHASE, "epochs": 1.0, "dropout": True},
    distillation={"weight": 0.5, "hidden": 0.5},
    validation={"times": 4},
)


class Stop(Exception):
    """In the place of whatever ends a process."""


def both_phases(tables: Recipe, directory: Path | None = None, stop_at: str | None = None) -> Any:
    """Both phases on a small model; with ``stop_at`` an interruption as soon as a line begins like that."""

    def tell(line: str) -> None:
        if stop_at and line.startswith(stop_at):
            raise Stop

    checkpoint = dense()
    session = training_session(checkpoint, tables, TRAIN, HELD, directory=directory, fingerprint="one", tell=tell)
    shape = checkpoint.encoder.shape
    structure, model = session.resumed_structure(), None
    if structure is None:
        start = torch.arange(12.0).reshape(3, 4).numpy() + 1, torch.arange(60.0).reshape(3, 20).numpy() + 1
        costs = Costs.macs(shape, 0.4, TRAIN.mean_length)
        dense_model, masking, _ = session.find_structure(costs, start)
        assert all(one.cost <= one.budget * (1 + 1e-9) for one in masking.history)
        structure = masking.structure
        model = session.carry_out(dense_model, masking)
    model, _ = session.train_weights(model, structure)
    return model, structure, session.phases


@pytest.mark.parametrize(
    ("scorer", "stop_at"),
    [
        ("movement", "weights: step 9"),
        ("l0", "structure: step 12"),
        ("l0", "structure: step 24"),
        ("fisher", "structure: step 24"),
    ],
)
def test_an_interruption_changes_nothing(tmp_path: Path, scorer: str, stop_at: str) -> None:
    structure = BOTH.structure
    assert structure is not None
    tables = BOTH.model_copy(update={"structure": structure.model_copy(update={"scorer": scorer, "penalty": 0.1})})
    model, kept, phases = both_phases(tables)
    with pytest.raises(Stop):
        both_phases(tables, tmp_path, stop_at)
    again, kept_again, phases_again = both_phases(tables, tmp_path)
    assert kept_again == kept
    # The logs are the same too: with the structure frozen, its budget and cost are still in them.
    assert phases_again == phases and all(row.budget is not None for row in phases[0][1].rows)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    # Nothing but safetensors is written.
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


def weights_only(tables: Recipe, tell: Any = None, **options: Any) -> Any:
    checkpoint = options.pop("checkpoint", None) or dense()
    teacher = options.pop("teacher", None)
    session = training_session(checkpoint, tables, TRAIN, HELD, teacher=teacher, tell=tell or (lambda _: None))
    return session, session.train_weights(None, KEPT)


def test_the_best_weights_on_examples_held_out_are_taken() -> None:
    lines: list[str] = []
    _, (_, phase) = weights_only(recipe(weights={**PHASE, "epochs": 4.0}, validation={"times": 6}), lines.append)
    held = [row.held_out for row in phase.rows]
    assert phase.after == min([phase.before, *held])
    assert lines[0] == f"weights: 48 steps, held out {phase.before:.4f} before the first"
    assert len(lines) == 1 + len(held) == 7 and phase.steps == 48
    assert all(torch.isfinite(torch.tensor(row.loss)) for row in phase.rows)


def test_training_ends_early_where_nothing_gets_better() -> None:
    # No step changes anything: no evaluation is better than the first.
    tables = recipe(weights={**PHASE, "epochs": 4.0, "learning_rate": 1e-30}, validation={"times": 8, "patience": 2})
    lines: list[str] = []
    _, (_, phase) = weights_only(tables, lines.append)
    assert phase.stopped == "no better in 2 evaluations" and phase.steps == 12 and phase.best_step == 0
    assert lines[-1] == "weights: nothing was better than the weights that it began with; they stay"


def test_embeddings_and_teacher_stay_as_they_are() -> None:
    checkpoint = dense()
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    _, (model, _) = weights_only(
        recipe(weights={**PHASE, "epochs": 2.0}, distillation={"weight": 0.5, "hidden": 1.0}), checkpoint=checkpoint
    )
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in checkpoint.model.parameters())
    assert not any(module._forward_hooks for module in checkpoint.model.modules())
    trained = model.state_dict()
    assert torch.equal(
        trained["bert.embeddings.word_embeddings.weight"], before["bert.embeddings.word_embeddings.weight"]
    )
    assert not torch.equal(trained["classifier.weight"], before["classifier.weight"])
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_hidden_states_do_not_decide_which_units_stay() -> None:
    # Two steps, the second of them with units masked: scores are the same with and without that loss, weights are not.
    found = []
    for hidden in (0.0, 50.0):
        table = {**PHASE, "epochs": 1.0, "batch_size": 48, "first": 0.0, "last": 0.0, "project_every": 1}
        tables = recipe(structure=table, distillation={"weight": 0.0, "hidden": hidden})
        checkpoint = dense()
        session = training_session(checkpoint, tables, TRAIN, HELD)
        start = np.ones((3, 4)), np.ones((3, 20))
        model, masking, _ = session.find_structure(Costs.macs(checkpoint.encoder.shape, 0.3, 8.0), start)
        assert masking.structure != Structure.dense(checkpoint.encoder.shape)
        found.append((masking.scorer.scores, model.state_dict()))
    for one, other in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.std() > 0
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.allclose(found[0][1][name], found[1][1][name], atol=1e-6)


def test_without_labels_the_teacher_is_all_there_is_to_learn_from() -> None:
    unlabelled = examples(96, labels=False)
    checkpoint = dense()
    tables = recipe(weights={**PHASE, "epochs": 2.0}, distillation={"weight": 0.3})
    _, phase = training_session(checkpoint, tables, unlabelled, unlabelled).train_weights(None, KEPT)
    assert phase.after < phase.before
    assert all(row.labels is None and row.divergence is not None for row in phase.rows)


def test_a_diverging_loss_stops_training(tmp_path: Path) -> None:
    kept = tmp_path / "kept"

    def session(rate: float, tell: Any = None) -> TrainingSession:
        tables = recipe(weights={**PHASE, "epochs": 8.0, "learning_rate": rate, "warm_up": 0.0, "clip": 1e30})
        return training_session(dense(), tables, TRAIN, HELD, directory=kept, tell=tell or (lambda _: None))

    def stop(line: str) -> None:
        if line.startswith("weights: step"):
            raise Stop

    # From the first step on: there is nothing good to keep, and nothing is said of it.
    with pytest.raises(TrainingError, match=r"diverged: the loss is .* at step 2 .*learning_rate") as raised:
        session(1e18).train_weights(None, KEPT)
    assert "checkpoint in" not in str(raised.value) and not list(kept.iterdir())
    assert TrainingError.exit_code == 3
    # Later: what the diverging step left behind does not take the place of what was before.
    with pytest.raises(Stop):
        session(1e-4, stop).train_weights(None, KEPT)
    good = (kept / "training.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"diverged: .*last good checkpoint is in .*learning_rate.*of its own"):
        session(1e18).train_weights(None, KEPT)
    assert (kept / "training.safetensors").read_bytes() == good
    assert [path.name for path in kept.iterdir()] == ["training.safetensors"]


def test_part_of_a_first_checkpoint_is_no_reason_to_refuse_its_directory(tmp_path: Path) -> None:
    (tmp_path / "training.partial").write_bytes(b"cut off")
    tables = recipe(weights={**PHASE, "epochs": 0.5})
    session = training_session(dense(), tables, TRAIN, HELD, directory=tmp_path)
    assert not session.resuming
    session.train_weights(None, KEPT)
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


@pytest.mark.parametrize(("epochs", "last"), [(0.05, 0.3), (1.0, 0.0)], ids=["one step", "nothing held back"])
def test_a_budget_that_no_step_had_is_met_in_the_end(epochs: float, last: float) -> None:
    checkpoint = dense()
    tables = recipe(structure={**PHASE, "epochs": epochs, "last": last, "project_every": 50, "scorer": "magnitude"})
    costs = Costs.macs(checkpoint.encoder.shape, 0.4, 8.0)
    start = np.ones((3, 4)), np.ones((3, 20))
    _, masking, _ = training_session(checkpoint, tables, TRAIN, HELD).find_structure(costs, start)
    assert masking.history[-1].budget == costs.limit and masking.history[-1].cost <= costs.limit * (1 + 1e-9)
    assert cost_of(costs, masking.structure.widths) == masking.history[-1].cost


def test_the_structure_is_settled_once_when_the_mask_freezes_and_then_trained() -> None:
    checkpoint, asked = dense(), []
    tables = recipe(structure={**PHASE, "epochs": 2.0, "last": 0.25, "project_every": 4, "scorer": "magnitude"})
    costs = Costs.macs(checkpoint.encoder.shape, 0.3, 8.0)

    def settle(choose: Choose) -> tuple[Structure, float]:
        asked.append(choose(costs.limit))
        return choose(1.5 * costs.limit), 1.5 * costs.limit

    start = np.ones((3, 4)), np.ones((3, 20))
    _, masking, phase = training_session(checkpoint, tables, TRAIN, HELD).find_structure(costs, start, settle)
    (offered,) = asked
    assert cost_of(costs, offered.widths) <= costs.limit < cost_of(costs, masking.structure.widths)
    assert masking.history[-1].step == phase.steps - round(0.25 * phase.steps)
    assert (phase.rows[-1].budget, phase.rows[-1].cost) == (1.5 * costs.limit, masking.history[-1].cost)
    assert int(masking.mask.filters.sum()) == sum(map(len, masking.structure.filters))


def test_losses_that_grow_without_an_end_are_divergence_from_the_first_steps_on() -> None:
    tables = recipe(weights={**PHASE, "epochs": 8.0, "learning_rate": 0.3, "warm_up": 0.0, "clip": 1e30})
    with pytest.raises(TrainingError, match="training diverged"):
        training_session(dense(), tables, TRAIN, HELD).train_weights(None, KEPT)


def test_checkpoints_of_another_run_and_other_files_are_refused(tmp_path: Path) -> None:
    tables = recipe(weights={**PHASE, "epochs": 1.0})

    def session(fingerprint: str, directory: Path) -> TrainingSession:
        return training_session(dense(), tables, TRAIN, HELD, directory=directory, fingerprint=fingerprint)

    session("one", tmp_path / "a").train_weights(None, KEPT)
    with pytest.raises(ArtifactError, match="of another run"):
        session("two", tmp_path / "a")
    (tmp_path / "a" / "training.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match="damaged"):
        session("one", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("all of it")
    with pytest.raises(ArtifactError, match=r"is not a directory of training checkpoints \(it has 'thesis.tex'\)"):
        session("one", tmp_path / "b")


def test_rates_rise_and_fall_to_nothing() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(101)]
    assert max(rates) == 1.0 and rates[100] == 0.0 and rates[0] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rate_at(0, 1, 0.0) == 1.0
