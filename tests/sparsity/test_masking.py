"""Masks on single weights in the training loop: gradients, fractions, schedules, interruptions, a planted task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.distributed.group import Group
from compress.fineprune.distill import Losses
from compress.fineprune.schedule import Schedule
from compress.models.encoder import encoder_of
from compress.sparsity.masking import ElementMasking
from compress.sparsity.matrices import matrices_of
from compress.sparsity.scores import SCORERS, ElementMovement
from compress.sparsity.topk import allowed
from compress.sparsity.train import thin_out
from support.training import PHASE, dense, examples, recipe, training_session

DATA = examples(120)
TRAIN, HELD = DATA.select(range(96)), DATA.select(range(96, 120))
TRAINED = [name for name, kind in SCORERS.items() if kind.trained]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: matrix.detach() for name, matrix in matrices_of(encoder_of(model)).items()}


def kept(model: Any) -> int:
    return sum(int(w.count_nonzero()) for w in weights_of(model).values())


def losses_of(outputs: torch.Tensor, hidden: torch.Tensor | None = None) -> Losses:
    return Losses(outputs, hidden, None, None)


def problem() -> tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor, ElementMasking]:
    """A linear model, half masked, its data, and the masking."""
    torch.manual_seed(0)
    weight, x, y = torch.nn.Parameter(torch.randn(3, 4)), torch.randn(10, 4), torch.randn(10, 3)
    masking = ElementMasking(
        [weight], ElementMovement([weight.detach()], [torch.rand(3, 4)]), Schedule(1.0, 0.5, 10, 0, 9)
    )
    masking.advance(1)
    masking._frozen = False  # scores go on learning
    return weight, x, y, masking


def test_one_gradient_gives_that_of_weights_and_of_scores() -> None:
    weight, x, y, masking = problem()
    mask, unmasked = masking.masks[0].clone(), weight.detach().clone()
    assert int(mask.sum()) == 6
    masking.begin(1)
    masking.part(lambda: losses_of((x @ weight.T - y).square().mean()), 1.0, 10)
    assert masking.end(1, Group())
    # The explicit form, masks and weights apart.
    w, m = unmasked.clone().requires_grad_(), mask.clone().requires_grad_()
    (x @ (w * m).T - y).square().mean().backward()
    assert torch.equal(weight.detach(), unmasked)
    assert torch.allclose(weight.grad, w.grad) and torch.allclose(masking.parameters[0].grad, m.grad)
    # And by finite differences, masked elements included.
    for place in [(0, 0), (1, 2), (2, 3)]:
        sides = []
        for step in (1e-3, -1e-3):
            moved = mask.double().clone()
            moved[place] += step
            sides.append((x.double() @ (unmasked.double() * moved).T - y.double()).square().mean())
        assert float(masking.parameters[0].grad[place]) == pytest.approx(float(sides[0] - sides[1]) / 2e-3, abs=1e-4)


def test_hidden_states_stay_out_of_the_scores_gradient_and_parts_add_up() -> None:
    weight, x, y, masking = problem()
    mask, unmasked = masking.masks[0].clone(), weight.detach().clone()
    masking.begin(1)
    for half in (slice(0, 5), slice(5, 10)):
        masking.part(
            lambda half=half: losses_of(
                (x[half] @ weight.T - y[half]).square().mean(), (x[half] @ weight.T).abs().mean()
            ),
            0.5,
            5,
        )
    masking.end(1, Group())
    w, m = unmasked.clone().requires_grad_(), mask.clone().requires_grad_()
    outputs = (x @ (w * m).T - y).square().mean()
    (wanted,) = torch.autograd.grad(outputs, m, retain_graph=True)
    (outputs + (x @ (w * m).T).abs().mean()).backward()
    assert torch.allclose(masking.parameters[0].grad, wanted, atol=1e-6)
    assert torch.allclose(weight.grad, w.grad, atol=1e-6)


def thin(scorer: str, fraction: float = 0.1, directory: Path | None = None, tell: Any = None, **options: Any) -> Any:
    table = {
        **PHASE,
        "epochs": 2.0,
        "scorer": scorer,
        "start_examples": 32,
        "project_every": 4,
        "penalty": 10.0,
        **options,
    }
    tables = recipe(unstructured=table, distillation={"weight": 0.5, "hidden": 0.2}, validation={"times": 4})
    checkpoint, lines = dense(), tell or (lambda _: None)
    session = training_session(checkpoint, tables, TRAIN, HELD, directory=directory, tell=lines)
    return thin_out(checkpoint, tables, fraction, session)


@pytest.mark.parametrize("selection", ["global", "per-matrix"])
@pytest.mark.parametrize("scorer", sorted(SCORERS))
def test_exactly_the_fraction_asked_for_remains(scorer: str, selection: str) -> None:
    out = thin(scorer, selection=selection, epochs=1.0)
    weights = weights_of(out.model)
    if selection == "global":
        wanted = allowed(sum(w.numel() for w in weights.values()), 0.1)
    else:
        wanted = sum(allowed(w.numel(), 0.1) for w in weights.values())
    # A chosen gate of L0 may be closed at test time.
    assert kept(out.model) == wanted if scorer != "l0" else kept(out.model) <= wanted
    history = out.history
    assert history[0].budget == 1.0 and history[-1].budget == 0.1
    assert all(one.cost <= one.budget + 1e-9 for one in history)
    assert [one.budget for one in history] == sorted((one.budget for one in history), reverse=True)
    # Everything else is as many as it was.
    assert out.model.state_dict().keys() == dense().model.state_dict().keys()


def test_without_steps_at_the_final_fraction_it_is_reached_all_the_same() -> None:
    out = thin("movement", epochs=1.0, first=0.0, last=0.0)
    assert kept(out.model) == allowed(sum(w.numel() for w in weights_of(out.model).values()), 0.1)


def test_one_shot_is_the_largest_weights_untrained() -> None:
    out = thin_out(dense(), recipe(unstructured={"epochs": 0.0, "scorer": "magnitude"}), 0.25, None)
    assert out.phase is None
    before = torch.cat([w.flatten() for w in weights_of(dense().model).values()])
    after = torch.cat([w.flatten() for w in weights_of(out.model).values()])
    assert int(after.count_nonzero()) == allowed(len(before), 0.25)
    assert torch.equal(after[after != 0], before[after != 0])
    assert before[after != 0].abs().min() >= before[after == 0].abs().max()


class Stop(Exception):
    """In the place of whatever ends a process."""


@pytest.mark.parametrize(
    ("scorer", "stop_at"), [("movement", "step 12"), ("l0", "step 12"), ("soft-movement", "step 18")]
)
def test_an_interruption_changes_nothing(tmp_path: Path, scorer: str, stop_at: str) -> None:
    def tell(line: str) -> None:
        if stop_at in line:
            raise Stop

    whole = thin(scorer, dropout=True, accumulate=2)
    with pytest.raises(Stop):
        thin(scorer, directory=tmp_path, tell=tell, dropout=True, accumulate=2)
    again = thin(scorer, directory=tmp_path, dropout=True, accumulate=2)
    assert again.phase == whole.phase
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_weights_that_shrink_go_and_weights_that_grow_stay_however_large() -> None:
    """The paper's figure 1: what is large in the dense model but wrong for the task goes by movement alone."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    truth = torch.zeros(1, 8)
    truth[0, :4] = 0.3
    begin = torch.full((1, 8), 0.02)
    begin[0, 4:] = 1.0  # large, and useless
    choices = {}
    for name in ("magnitude", "movement"):
        weight = torch.nn.Parameter(begin.clone())
        scorer = SCORERS[name]([weight.detach()], None)
        masking = ElementMasking([weight], scorer, Schedule(1.0, 0.5, 40, 20, 5), every=1)
        optimizer = torch.optim.SGD([weight], lr=0.002)
        scores = torch.optim.Adam(masking.parameters, lr=0.01) if masking.parameters else None
        for step in range(40):
            masking.advance(step)
            masking.begin(step)
            masking.part(lambda weight=weight: losses_of((x @ weight.T - x @ truth.T).square().mean()), 1.0, 64)
            if masking.end(step, Group()) and scores is not None:
                scores.step()
            optimizer.step()
            optimizer.zero_grad()
        choices[name] = masking.masks[0][0].tolist()
    assert choices["magnitude"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert choices["movement"] == [1, 1, 1, 1, 0, 0, 0, 0]
