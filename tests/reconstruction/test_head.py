"""The model behind its last layer gives the whole model's answers, and lessons can be heard from a pass made anyway."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.models.encoder import Encoder, encoder_of
from compress.reconstruction.head import Head
from compress.reconstruction.layerwise import Teacher
from compress.reconstruction.lessons import Lessons
from compress.tasks import TASKS
from support.examples import examples
from support.models import EVERY_FAMILY, OF_IMAGES, random_model

TASK = TASKS["text-classification"]
DATA = examples(count=20)
FIRST = torch.tensor([0])
OF_TEXTS = [family for family in EVERY_FAMILY if family not in OF_IMAGES]


def dense_of(family: str) -> Encoder:
    return encoder_of(random_model(family).requires_grad_(False))


@pytest.mark.parametrize("family", OF_TEXTS)
def test_lessons_that_listened_are_those_of_the_whole_model(family: str) -> None:
    dense, read = dense_of(family), None if family == "bert" else FIRST
    heard, own = Lessons(dense, TASK, DATA, read, 8), Lessons(dense, TASK, DATA, read, 8)
    teacher = Teacher(dense, TASK, DATA, batch_size=8, heard=heard.hear)
    for number in range(dense.shape.layers):
        teacher.targets(number)
    # From here on the whole model would give nonsense.
    forward = type(dense.layers[0].module).forward
    type(dense.layers[0].module).forward = None  # type: ignore[method-assign, assignment]
    try:
        found = list(heard)
    finally:
        type(dense.layers[0].module).forward = forward  # type: ignore[method-assign]
    for taught, wanted in zip(found, own, strict=True):
        torch.testing.assert_close(taught.outputs, wanted.outputs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(taught.states, wanted.states, rtol=1e-4, atol=1e-5)
        assert taught.scales == pytest.approx(wanted.scales, rel=1e-4)
        assert all(torch.equal(a, b) for a, b in zip(taught.places, wanted.places, strict=True))


def test_lessons_of_further_examples_are_made_when_they_are_due() -> None:
    dense, more = dense_of("bert"), examples(count=20, seed=1)
    heard, own = Lessons(dense, TASK, DATA, FIRST, 8, more=more), Lessons(dense, TASK, more, FIRST, 8)
    teacher = Teacher(dense, TASK, DATA, batch_size=8, heard=heard.hear)
    for number in range(dense.shape.layers):
        teacher.targets(number)
    first = len(list(DATA.batches(8)))
    assert len(heard) == first + len(own)
    for taught, wanted in zip(list(heard)[first:], own, strict=True):
        torch.testing.assert_close(taught.outputs, wanted.outputs)
        torch.testing.assert_close(taught.states, wanted.states)


def test_a_head_that_reads_other_layers_gets_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = dense_of("bert")

    class Summing(type(TASK)):  # type: ignore[misc]
        def forward(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
            states = model(**inputs, output_hidden_states=True).hidden_states
            return sum(state[:, 0, :2] for state in states)  # type: ignore[return-value]

    task = Summing()
    lessons = Lessons(dense, task, DATA, None, 8)
    teacher = Teacher(dense, task, DATA, batch_size=8, heard=lessons.hear)
    for number in range(dense.shape.layers):
        teacher.targets(number)
    assert not Head(dense, task, next(iter(DATA.batches(8)))).right
    for lesson in lessons:
        torch.testing.assert_close(lesson.outputs, task.forward(dense.model, lesson.batch.inputs))


def test_the_model_is_whole_again_afterwards() -> None:
    dense = dense_of("bert")
    batch = next(iter(DATA.batches(8)))
    before = TASK.forward(dense.model, batch.inputs)
    head = Head(dense, TASK, batch)
    other = torch.from_numpy(np.ones((*batch.mask.shape, dense.shape.hidden_size), dtype=np.float32))
    assert head.right and not torch.equal(head.answers(batch, other), before)
    assert torch.equal(TASK.forward(dense.model, batch.inputs), before)
    assert all("forward" not in vars(layer.module) for layer in dense)
