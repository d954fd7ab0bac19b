"""A layer that is run in parts, with what was computed before read again, is the layer run as a whole."""

import copy

import pytest
import torch

from compress.core.plan import Structure
from compress.models.encoder import encoder_of
from compress.models.families import FAMILIES, SUBLAYER_KINDS
from compress.pruning.removal import remove
from compress.reconstruction.layerwise import first_inputs
from compress.reconstruction.student_layer import KEPT_BYTES, StudentLayer, width_of
from compress.tasks import TASKS
from support.examples import examples
from support.models import random_model

TEXTS = [name for name, family in FAMILIES.items() if family.before_patches is None]
# The first layer is whole, the second has lost its attention, the third its FFN.
STRUCTURE = Structure(heads=((0, 1, 2, 3), (), (1,)), filters=(tuple(range(0, 20, 2)), (3, 4, 5, 6, 7), ()))


def _same(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kept_bytes", [KEPT_BYTES, 0], ids=["kept", "computed again"])
@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_parts_of_a_layer_are_the_layer_also_after_its_outputs_change(name: str, kept_bytes: int) -> None:
    model = random_model(name)
    remove(model, STRUCTURE)
    encoder = encoder_of(model)
    task = TASKS["text-classification"]
    inputs = first_inputs(encoder, task, examples(count=6), 4)
    calls, hidden = [call for call, _ in inputs], [states for _, states in inputs]
    for layer in encoder:
        untouched = copy.deepcopy(layer.module)
        running = StudentLayer(layer, calls, hidden, kept_bytes)
        for kind in SUBLAYER_KINDS:
            module, sums = layer.get(f"{kind}_output"), []
            handle = layer.on_sum(kind, lambda total, sums=sums: sums.append(total))
            for call, states in zip(calls, hidden, strict=True):
                call(layer, states)
            handle.remove()
            found = list(running.regressors(kind))
            outputs = [module(one.inputs) for one in found]
            _same([one.residual + output for one, output in zip(found, outputs, strict=True)], sums)
            # What a fit does: other weights and another bias.
            for parameter in module.parameters():
                parameter.mul_(1.1).add_(0.01)
        _same(running.outputs(), [call(layer, states) for call, states in zip(calls, hidden, strict=True)])
        assert [type(m) for m in layer.module.modules()] == [type(m) for m in untouched.modules()]
        assert all("forward" not in vars(m) for m in layer.module.modules())
        assert width_of(layer, "ffn") == len(STRUCTURE.filters[layer.number])
        hidden = running.outputs()
