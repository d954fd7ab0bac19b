"""Joint reconstruction: closer to the dense model on examples not trained on, or nothing has changed."""

from __future__ import annotations

import copy
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compress.reconstruction.joint
from compress.core.plan import Structure
from compress.models.encoder import encoder_of
from compress.pruning.removal import remove
from compress.reconstruction.hidden_states import HiddenStates, hidden_distance
from compress.reconstruction.joint import LEAST_SAMPLES, fit_jointly
from compress.reconstruction.lessons import Lesson, Lessons
from compress.reconstruction.material import Length, Material
from compress.reconstruction.word_rows import WordRows
from compress.tasks import TASKS
from support.divergences import divergence
from support.examples import examples
from support.models import random_model

TASK = TASKS["text-classification"]
STRUCTURE = Structure(heads=((0, 2, 3), (), (1,)), filters=(tuple(range(0, 20, 2)), (3, 4, 5, 6, 7), ()))


def dense_and_pruned(family: str = "bert") -> tuple[nn.Module, nn.Module]:
    dense = random_model(family).requires_grad_(False)
    pruned = copy.deepcopy(dense)
    remove(pruned, STRUCTURE)
    return dense, pruned


def exactly(epochs: int, most_flops: float | None = None) -> Length:
    return Length(epochs, epochs, most_flops)


def material(count: int, *, labels: bool = True, seed: int = 0) -> Material:
    return Material.of(examples(count=count, labels=labels), None, seed)


def begin_at(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    monkeypatch.setattr(compress.reconstruction.joint, "LEAST_RATE", rate)
    monkeypatch.setattr(compress.reconstruction.joint, "MOST_RATE", rate)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_examples_never_seen_come_closer_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_at(monkeypatch, 3e-3)  # a tiny random model takes larger steps
    dense, pruned = dense_and_pruned(family)
    unseen = examples(count=80, seed=1, labels=False)
    before, teacher = divergence(dense, pruned, TASK, unseen), state_of(dense)
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(300, labels=False), length=exactly(10))
    assert tuned is not None and tuned.accepted and tuned.after < tuned.before
    assert divergence(dense, pruned, TASK, unseen) < 0.9 * before
    assert all(torch.equal(value, teacher[name]) for name, value in dense.state_dict().items())


def test_what_does_not_help_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few steps for a pilot: the guard at the end undoes it."""
    begin_at(monkeypatch, 30.0)
    dense, pruned = dense_and_pruned()
    before = state_of(pruned)
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(100), length=exactly(1))
    assert tuned is not None and tuned.steps > 0 and not tuned.accepted
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


def test_of_a_rate_that_was_too_high_part_of_the_way_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so large that they end beyond the goal: on the way there is something better than either end."""
    dense, pruned = dense_and_pruned()
    before, trained = state_of(pruned), compress.reconstruction.joint._Trainer.train

    def too_far(trainer: compress.reconstruction.joint._Trainer, rate: float, steps: int) -> None:
        start = trainer.weights()
        trained(trainer, rate, steps)
        trainer.restore([a.lerp(b, 16.0) for a, b in zip(start, trainer.weights(), strict=True)])

    monkeypatch.setattr(compress.reconstruction.joint._Trainer, "train", too_far)
    monkeypatch.setattr(compress.reconstruction.joint, "_pilot", lambda *_: 3e-3)
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(300), length=exactly(10))
    assert tuned is not None and tuned.accepted and tuned.after < tuned.before
    assert tuned.share in compress.reconstruction.joint.PARTS
    unseen = examples(count=80, seed=1, labels=False)
    now = divergence(dense, pruned, TASK, unseen)
    pruned.load_state_dict(before)
    assert now < divergence(dense, pruned, TASK, unseen)


def test_the_pilot_takes_the_highest_rate_that_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_at(monkeypatch, 30.0)
    monkeypatch.setattr(compress.reconstruction.joint, "FACTOR", 10_000.0)
    dense, pruned = dense_and_pruned()
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(300), length=exactly(3))
    assert tuned is not None and tuned.rate == pytest.approx(3e-3) and tuned.accepted


@pytest.mark.parametrize("distance", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("steps_away", [-2, -1, 0, 1, 2])
def test_wherever_the_pilot_begins_it_finds_the_rate(distance: float, steps_away: int) -> None:
    """Of a loss that falls a lot up to some rate, and rises as soon as that is exceeded."""
    joint = compress.reconstruction.joint
    tried = [0.0]
    before = joint._Loss(0.0, distance)
    begin = min(joint.MOST_RATE, joint.RATE * distance**joint.POWER)
    best = begin * joint.FACTOR**steps_away

    class Trainer:
        weights = staticmethod(lambda: ())
        restore = staticmethod(lambda _: None)
        train = staticmethod(lambda at, _: tried.append(at))

    def judge() -> compress.reconstruction.joint._Loss:
        return joint._Loss(0.0, distance * (0.5 if tried[-1] <= best * 1.001 else 1.2))

    assert joint._pilot(Trainer(), judge, before, 1_000) == pytest.approx(best)  # type: ignore[arg-type]
    assert len(tried) <= 1 + 1 + joint.MOST_CHANGES
    wild = joint._Loss(1.0, distance)
    assert joint._pilot(Trainer(), lambda: joint._Loss(9.0, 0.0), wild, 1_000) is None  # type: ignore[arg-type]


def test_without_a_rate_that_helps_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_at(monkeypatch, 30.0)
    monkeypatch.setattr(compress.reconstruction.joint, "FACTOR", 1.2)
    dense, pruned = dense_and_pruned()
    before = state_of(pruned)
    tuned = fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(300), length=exactly(3))
    assert tuned is not None and (tuned.steps, tuned.rate, tuned.accepted) == (0, None, False)
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


@pytest.mark.parametrize("read", [None, torch.tensor([0])], ids=["all", "first"])
def test_lessons_are_the_dense_models_answers_however_they_are_kept(read: Tensor | None) -> None:
    dense = encoder_of(random_model("bert").requires_grad_(False))
    data = examples(count=20)

    def of(kept_bytes: int) -> list[Lesson]:
        return list(Lessons(dense, TASK, data, read, 8, kept_bytes))

    whole, fresh = of(10**9), of(0)
    numbers = int(data.lengths.sum()) * dense.shape.hidden_size * dense.shape.layers
    halved = of(3 * numbers)
    assert (whole[0].states[0].dtype, halved[0].states[0].dtype) == (torch.float32, torch.bfloat16)
    for kept, short, anew in zip(whole, halved, fresh, strict=True):
        hidden = dense.model(**kept.batch.inputs, output_hidden_states=True).hidden_states[1:]
        own = [state * 1.1 for state in hidden]
        wanted = float(hidden_distance(list(hidden), own, kept.batch.mask, read))
        assert float(kept.distance(own)) == pytest.approx(wanted, rel=1e-4)
        assert float(short.distance(own)) == pytest.approx(wanted, rel=3e-2)
        assert float(anew.distance(own)) == pytest.approx(wanted, rel=3e-2)
        torch.testing.assert_close(kept.outputs, TASK.forward(dense.model, kept.batch.inputs))
    taken = Lessons(dense, TASK, data, read, 8, 10**9).endless(np.random.default_rng(0))
    assert {tuple(next(taken).batch.indices) for _ in whole} == {tuple(lesson.batch.indices) for lesson in whole}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_of_the_embeddings_only_words_that_occur_change(family: str) -> None:
    dense, pruned = dense_and_pruned(family)
    before = state_of(pruned)
    given = material(100)
    fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, given, length=exactly(1))
    words = pruned.get_input_embeddings().weight  # type: ignore[operator]
    embeddings = {
        f"{name}.weight": module.weight is words
        for name, module in pruned.named_modules()
        if isinstance(module, nn.Embedding)
    }
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, before[name])}
    assert {name: name in changed for name in embeddings} == embeddings
    (name,) = (name for name, of_words in embeddings.items() if of_words)
    occur = {int(word) for row in given.fitted.features["input_ids"] for word in row}
    moved = set((words != before[name]).any(1).nonzero().squeeze(1).tolist())
    assert moved and moved <= occur < set(range(len(words)))


def test_nothing_is_left_to_train() -> None:
    dense, pruned = dense_and_pruned()
    names = set(pruned.state_dict())
    fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(100), length=exactly(1))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in pruned.parameters())
    assert set(pruned.state_dict()) == names


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "deberta-v2"])
def test_rows_in_place_of_the_whole_table_change_no_answer(family: str) -> None:
    model = random_model(family)
    batch = next(iter(examples(count=20).batches(20)))
    before, whole = model(**batch.inputs).logits.detach(), state_of(model)
    rows = WordRows.of(model, [batch])
    assert rows is not None and 0 < len(rows.values) < len(model.get_input_embeddings().weight)  # type: ignore[operator]
    with rows.in_place():
        answer = model(**rows.renumbered(batch.inputs)).logits
    assert torch.equal(answer, before)
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_equal_seeds_give_equal_weights() -> None:
    results = []
    for seed in (0, 0, 1):
        dense, pruned = dense_and_pruned()
        fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(100, seed=seed), length=exactly(1), seed=seed)
        results.append(state_of(pruned))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert not all(torch.equal(value, results[2][name]) for name, value in results[0].items())


@pytest.mark.parametrize(("count", "epochs"), [(LEAST_SAMPLES - 1, 3), (100, 0)])
def test_without_examples_or_steps_nothing_is_tried(count: int, epochs: int) -> None:
    dense, pruned = dense_and_pruned()
    before = state_of(pruned)
    assert fit_jointly(encoder_of(dense), encoder_of(pruned), TASK, material(count), length=exactly(epochs)) is None
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


@pytest.mark.parametrize("most", [1, 3, 5])
@pytest.mark.parametrize("read", [None, torch.tensor([0]), torch.tensor([7, 9])])
def test_parts_of_a_lesson_add_up_to_its_loss(most: int, read: Tensor | None) -> None:
    """Also where a part has no token that counts in the last layer."""
    encoder = encoder_of(random_model("bert"))
    other = encoder_of(random_model("bert", seed=1))
    data = examples(count=8)

    def loss_of(lesson: Lesson) -> Tensor:
        with torch.no_grad(), closing(HiddenStates(other)) as own:
            outputs = TASK.forward(other.model, lesson.batch.inputs)
            return TASK.divergence(outputs, lesson.outputs).mean() + lesson.distance(own.take())

    whole = next(iter(Lessons(encoder, TASK, data, read, 8)))
    taught_in_parts = Lessons(encoder, TASK, data, read, 8, at_once=most)
    parts = list(taught_in_parts.parts(next(iter(taught_in_parts))))
    assert [len(part.batch.indices) for part, _ in parts] == [most] * (8 // most) + [8 % most] * (8 % most > 0)
    total = sum(share * loss_of(part) for part, share in parts)
    torch.testing.assert_close(total, loss_of(whole), rtol=1e-4, atol=1e-6)
